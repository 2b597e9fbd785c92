"""Reads HTML documentation: the headings, paragraphs and list items of each page, without its chrome."""

import glob
import html.parser
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from cleaning import plain

Kind = Literal["h", "p", "li", "dt"]
PAGES = {
    "python3.11-doc": "usr/share/doc/python3.11/html/**/*.html",
    "python-django-doc": "usr/share/doc/python-django-doc/html/**/*.html",
    "postgresql-doc-15": "usr/share/doc/postgresql-doc-15/html/*.html",
    "sqlite3-doc": "usr/share/doc/sqlite3/**/*.html",
    "debian-policy": "usr/share/doc/debian-policy/**/*.html",
    "debian-faq": "usr/share/doc/debian/FAQ/*.en.html",
    "debian-reference-en": "usr/share/**/*.en.html",
    "developers-reference": "usr/share/d*/developers-reference/**/*.html",
    "debian-handbook": "usr/share/doc/debian-handbook/html/en-US/*.html",
    "installation-guide-amd64": "usr/share/doc/installation-guide-amd64/en/*.html",
    "git-doc": "usr/share/doc/git-doc/**/*.html",
}
INDEX_PAGES = ("genindex", "search", "py-modindex", "index-")
SAME_AS_MAN_PAGES = re.compile(r"git-|gitk|git\.html")
SQLITE_LISTS = re.compile(r"requirement|matrix|/hlr|releaselog|/syntax/")


@dataclass(frozen=True)
class Page:
    package: str
    path: str
    blocks: list[tuple[Kind, str]]


class BlockParser(html.parser.HTMLParser):
    """Collects `(kind, text)` in `blocks`; call `flush` after the last `feed`."""

    SKIPPED = frozenset(["script", "style", "nav", "pre", "table", "head", "header", "footer", "form", "svg", "button"])
    VOID = frozenset(["br", "img", "hr", "input", "meta", "link", "col", "wbr", "source"])
    CHROME = re.compile(
        r"sphinxsidebar|related|navheader|navfooter|footer|headerlink|toctree|toc\b|menu|searchbox|admonition-title"
    )
    KINDS: ClassVar[dict[str, Kind]] = {
        "p": "p",
        "li": "li",
        "dd": "p",
        "dt": "dt",
        "h1": "h",
        "h2": "h",
        "h3": "h",
        "h4": "h",
        "h5": "h",
    }

    def __init__(self) -> None:
        super().__init__()
        self.blocks: list[tuple[Kind, str]] = []
        self._open: list[tuple[str, bool]] = []  # (tag, whether its content is skipped)
        self._skipped = 0  # how many open tags are skipped
        self._kind: Kind | None = None
        self._text: list[str] = []

    def flush(self) -> None:
        text = plain("".join(self._text))
        if self._kind and text:
            self.blocks.append((self._kind, text))
        self._text = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in self.VOID:
            return
        values = dict(attrs)
        label = f"{values.get('class') or ''} {values.get('role') or ''}"
        skipped = tag in self.SKIPPED or bool(self.CHROME.search(label))
        if tag in ("p", "li"):  # the end tag of a paragraph before may be missing
            while self._open and self._open[-1][0] == "p":
                self._skipped -= self._open.pop()[1]
        self._open.append((tag, skipped))
        self._skipped += skipped
        kind = "p" if tag == "div" and values.get("class") == "para" else self.KINDS.get(tag)
        if kind and not self._skipped:
            self.flush()
            self._kind = kind

    def handle_endtag(self, tag: str) -> None:
        if tag in self.VOID or all(t != tag for t, _ in self._open):
            return
        if (tag in self.KINDS or tag == "div") and not self._skipped:
            self.flush()
            self._kind = None
        while self._open:
            closed, skipped = self._open.pop()
            self._skipped -= skipped
            if closed == tag:
                break

    def handle_data(self, data: str) -> None:
        if not self._skipped and self._kind:
            self._text.append(data)


def parse_blocks(text: str) -> list[tuple[Kind, str]]:
    parser = BlockParser()
    parser.feed(text)
    parser.flush()
    return parser.blocks


def is_wanted(package: str, path: Path) -> bool:
    if path.name.startswith(INDEX_PAGES) or not path.is_file():
        return False
    if package == "git-doc":
        return not SAME_AS_MAN_PAGES.match(path.name)
    if package == "sqlite3-doc":
        return not SQLITE_LISTS.search(str(path))
    return True


def html_pages(root: Path) -> Iterator[Page]:
    for package, pattern in PAGES.items():
        for name in sorted(glob.glob(f"{package}/{pattern}", root_dir=root, recursive=True)):
            if is_wanted(package, root / name):
                text = (root / name).read_text(encoding="utf-8", errors="replace")
                yield Page(package, name, parse_blocks(text))
