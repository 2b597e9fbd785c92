"""The parts of docs/ that are made from the program: tables of flags and metrics.

Such a part stands between `<!-- generated: NAME -->` and `<!-- end -->`. A test compares it with what is made here;
`just docs` (this file, run as a program) writes it anew.
"""

import re
import sys
from collections.abc import Callable, Iterable
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).parents[2]
PART = re.compile(r"<!-- generated: (?P<name>[\w-]+) -->\n(?P<text>.*?)<!-- end -->", re.DOTALL)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def code(text: str | None) -> str:
    return f"`{text}`" if text else ""


def serve_flags() -> str:
    """Every flag of `tgi serve`, a table for each heading."""
    from tgi_cli.options import FLAGS

    parts = []
    for group, flags in groupby(FLAGS, key=lambda flag: flag.group):
        rows = [
            (
                f"`--{flag.name}`" + (f", `-{flag.short}`" if flag.short else ""),
                code(flag.env),
                code(flag.default),
                ": ".join(filter(None, (flag.help, flag.no_effect or flag.unavailable))),
            )
            for flag in flags
        ]
        parts.append(f"\n### {group}\n\n" + table(("Flag", "Environment", "Default", "Meaning"), rows))
    return "".join(parts) + "\n"


def sampling_flags() -> str:
    """The flags of `tgi generate` that choose the next token, which are also the names of `/set`."""
    from tgi_cli.sampling import SAMPLING

    rows = [(f"`--{flag.name}`", code(flag.key), flag.help) for flag in SAMPLING]
    return "\n" + table(("Flag", "`/set`", "Meaning"), rows) + "\n"


def metrics() -> str:
    """Every exported metric in the order of the page."""
    from engine.metrics import Metrics
    from engine.types import EngineInfo, EngineStats

    info = EngineInfo(
        architecture="",
        runtime="",
        dtype="",
        vocab_size=1,
        eos_token_ids=(),
        max_total_tokens=100,
        block_size=1,
        num_blocks=1,
        max_batch_size=1,
        max_batch_prefill_tokens=1,
        num_parameters=1,
        weight_bytes=1,
        kv_bytes=1,
    )
    page = Metrics(info, max_input_tokens=99).exposition(EngineStats())
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", page, re.MULTILINE))
    rows = [(code(name), kinds[name], help) for name, help in re.findall(r"^# HELP (\S+) (.*)$", page, re.MULTILINE)]
    return "\n" + table(("Name", "Kind", "Meaning"), rows) + "\n"


PARTS: dict[str, Callable[[], str]] = {
    "serve-flags": serve_flags,
    "sampling-flags": sampling_flags,
    "metrics": metrics,
}


def renewed(text: str) -> str:
    """A page with its generated parts made anew."""
    return PART.sub(lambda part: f"<!-- generated: {part['name']} -->\n{PARTS[part['name']]()}<!-- end -->", text)


def main() -> None:
    for page in sorted((ROOT / "docs").glob("*.md")):
        text = page.read_text(encoding="utf-8")
        if renewed(text) != text:
            page.write_text(renewed(text), encoding="utf-8")
            print(f"renewed {page.relative_to(ROOT)}")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
