"""Results in the files of other load testers: written for their tools, and read for comparison with ours.

Names mean different things in different tools (bench.metrics), so an export computes every value from the event log
by the definitions of the tool it is for, and an import says in `notes` what its numbers mean.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from bench.types import Record, UsageError

EXPORTS = ("vllm", "guidellm", "aiperf", "csv")


@dataclass(frozen=True)
class Imported:
    """A result of another tool: its own numbers under the names of summary.json, null where it has none.

    `records` are there if the file has the stamps of every request; estimated token counts are marked as such.
    """

    tool: str
    title: str
    summary: dict[str, Any]
    records: list[Record] = field(default_factory=list)
    notes: tuple[str, ...] = ()


def export(tool: str, records: Sequence[Record], summary: Mapping[str, Any]) -> dict[str, bytes]:
    """The files that tool would have written, by name. Raises UsageError for a tool that is not in EXPORTS."""
    from bench.formats import aiperf, csv_table, guidellm, vllm

    writers = {"vllm": vllm.export, "guidellm": guidellm.export, "aiperf": aiperf.export, "csv": csv_table.export}
    if tool not in writers:
        raise UsageError(f"there is no export as {tool!r}; there are {', '.join(EXPORTS)}")
    return writers[tool](records, summary)


def read(path: Path) -> list[Imported]:
    """The results in a file of vLLM, guidellm or aiperf, told apart by their content. Raises UsageError."""
    from bench.formats import aiperf, guidellm, vllm

    try:
        text = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    try:
        documents = [msgspec.json.decode(text)]
    except msgspec.DecodeError:
        documents = _lines(path, text)
    if not documents:
        raise UsageError(f"{path} is empty")
    found = []
    for document in documents:
        for tool in (vllm, guidellm, aiperf):
            if isinstance(document, dict) and tool.recognizes(document):
                found += tool.read(document, path)
                break
        else:
            raise UsageError(f"{path} is not a result of vLLM, guidellm or aiperf")
    return found


def _lines(path: Path, text: bytes) -> list[Any]:
    """`vllm bench serve --append-result` writes a document a line."""
    try:
        return [msgspec.json.decode(line) for line in text.splitlines() if line.strip()]
    except msgspec.DecodeError as error:
        raise UsageError(f"{path} is not JSON: {error}") from error
