"""The parts of docs/ that are made from the program: tables of flags, parameters, metrics and differences.

Such a part stands between `<!-- generated: NAME -->` and `<!-- end -->`. A test compares it with what is made here;
`just docs` (this file, run as a program) writes it anew.
"""

import re
import sys
from collections.abc import Callable, Iterable
from functools import cache, partial
from itertools import groupby
from pathlib import Path
from typing import Any

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


def tgi_differences() -> str:
    """Where this server does otherwise than TGI."""
    from engine.server.strict import DIFFERENCES

    rows = [(each.where, each.ours, each.tgis, "yes" if each.restored else "no") for each in DIFFERENCES]
    return "\n" + table(("What", "Here", "TGI", "Restored"), rows) + "\n"


@cache
def schemas() -> dict[str, Any]:
    """The schemas of the server's OpenAPI document, with the limits that a server has by default."""
    from engine.config import ServerOptions
    from engine.server.app import ENDPOINTS
    from engine.server.openapi import document

    components: dict[str, Any] = document(ENDPOINTS, ServerOptions(model_id=""))["components"]["schemas"]
    return components


def type_of(schema: dict[str, Any]) -> str:
    """A JSON schema in a few words, null left out."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(type_of(each) for each in schema["anyOf"] if each.get("type") != "null"))
    if "enum" in schema:
        return ", ".join(code(value) for value in schema["enum"])
    if "$ref" in schema or "type" not in schema:
        return "object"
    if schema["type"] == "array":
        most = f", at most {schema['maxItems']}" if "maxItems" in schema else ""
        item = type_of(schema["items"])
        return f"list of {f'({item})' if ' or ' in item else item}{most}"
    limits = [
        f"{sign} {schema[name]:g}"
        for name, sign in (("exclusiveMinimum", ">"), ("minimum", ">="), ("exclusiveMaximum", "<"), ("maximum", "<="))
        if name in schema and abs(schema[name]) < 2**31 - 1
    ]
    return " ".join((schema["type"], ", ".join(limits))).strip()


def parameters(name: str) -> str:
    """The fields of a body, those it must have first."""
    body = schemas()[name]
    needed = body.get("required", ())
    rows = [
        (code(field), type_of(schema) + (" (required)" if field in needed else ""), schema["description"])
        for field, schema in sorted(body["properties"].items(), key=lambda item: item[0] not in needed)
    ]
    return "\n" + table(("Field", "Type", "Meaning"), rows) + "\n"


PARTS: dict[str, Callable[[], str]] = {
    "serve-flags": serve_flags,
    "sampling-flags": sampling_flags,
    "metrics": metrics,
    "tgi-differences": tgi_differences,
    "parameters-generate": partial(parameters, "GenerateParameters"),
    "parameters-chat": partial(parameters, "ChatBody"),
    "parameters-chat-message": partial(parameters, "Message"),
    "parameters-completions": partial(parameters, "CompletionBody"),
    "parameters-embeddings": partial(parameters, "EmbeddingBody"),
    "parameters-embed": partial(parameters, "EmbedBody"),
    "parameters-responses": partial(parameters, "ResponsesBody"),
    "parameters-messages": partial(parameters, "MessagesBody"),
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
