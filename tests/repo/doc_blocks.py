"""Reads the fenced blocks of a Markdown page, and the marks on the line before them."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(?P<language>\S*)$")
MARK = re.compile(r"^<!-- (?P<kind>needs|slow): (?P<reason>.+) -->$")


@dataclass(frozen=True)
class Block:
    page: str  # its path in the repository
    line: int  # of the fence
    language: str
    text: str
    needs: str | None = None  # what a test machine lacks
    slow: str | None = None  # how long it takes; run by a slow test of its own

    @property
    def name(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: str, text: str) -> list[Block]:
    """Every fenced block of a page. Raises ValueError for a fence that is never closed."""
    found = []
    lines = text.split("\n")
    number = 0
    while number < len(lines):
        fence = FENCE.match(lines[number])
        if fence:
            end = next((i for i in range(number + 1, len(lines)) if lines[i] == "```"), None)
            if end is None:
                raise ValueError(f"{page}:{number + 1}: a fence is opened and never closed")
            mark = MARK.match(lines[number - 1]) if number else None
            marks = {mark["kind"]: mark["reason"]} if mark else {}
            body = "\n".join(lines[number + 1 : end]) + "\n"
            found.append(Block(page, number + 1, fence["language"], body, **marks))
            number = end
        number += 1
    return found


def all_blocks() -> list[Block]:
    pages = ((page.relative_to(ROOT).as_posix(), page.read_text(encoding="utf-8")) for page in PAGES)
    return [block for name, text in pages for block in blocks_of(name, text)]


def commands(text: str) -> list[str]:
    """The lines of a shell block, with continued lines joined and comments and blank lines left out."""
    joined = re.sub(r"\\\n\s*", " ", text)
    return [line for line in joined.split("\n") if line.strip() and not line.startswith("#")]
