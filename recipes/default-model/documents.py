"""Raw documents: sources cut into texts of a few thousand characters, no paragraph twice."""

import re
from collections.abc import Iterable, Iterator

from cleaning import Deduplicator, capital, is_prose, plain, sentence
from html_pages import Page
from sources import ManPage, PackageDescription, Synset

SECTION_SIZE, DOCUMENT_SIZE = 600, 2500  # characters after which a heading, or any paragraph, ends a document
SHORTEST = 150
SKIPPED_MAN_SECTIONS = frozenset(
    {
        "NAME",
        "SYNOPSIS",
        "AUTHOR",
        "AUTHORS",
        "COPYRIGHT",
        "SEE ALSO",
        "REPORTING BUGS",
        "COLOPHON",
        "ATTRIBUTES",
        "STANDARDS",
        "HISTORY",
        "LIBRARY",
        "LICENSE",
        "COPYRIGHT AND LICENSE",
        "GIT",
        "AVAILABILITY",
        "VERSIONS",
    }
)


def html_documents(page: Page, seen: Deduplicator) -> Iterator[str]:
    """A document for each section of a page, at most about 3000 characters long."""
    documents: list[list[tuple[str, str]]] = [[]]
    size = 0
    for kind, text in page.blocks:
        if kind == "h":
            heading = re.sub(r"^[\d.]+\s+|^Chapter \d+\.\s*", "", text).rstrip("# ")
            if size > SECTION_SIZE:
                documents.append([])
                size = 0
            if 3 < len(heading) < 90:
                documents[-1].append(("h", heading))
        elif is_prose(text) and seen.fresh(text):
            documents[-1].append((kind, ("- " if kind == "li" else "") + text))
            size += len(text)
            if size > DOCUMENT_SIZE:
                documents.append([])
                size = 0
    for document in documents:
        text = "\n\n".join(without_empty_sections(document))
        if len(text) > SHORTEST:
            yield text


def without_empty_sections(document: list[tuple[str, str]]) -> Iterator[str]:
    """The texts, without a heading that another heading or the end follows."""
    following = [kind for kind, _ in document[1:]] + ["h"]
    for (kind, text), after in zip(document, following, strict=False):
        if not (kind == "h" and after == "h"):
            yield text


def man_documents(page: ManPage, seen: Deduplicator) -> Iterator[str]:
    title = f"{page.name}({page.section[0]}) - {page.short}"
    documents: list[list[str]] = [[title] if page.short else []]
    size = 0
    for heading, lines in page.parts:
        paragraphs = list(man_paragraphs(lines, seen)) if heading not in SKIPPED_MAN_SECTIONS else []
        if paragraphs:
            documents[-1].append(capital(heading.lower()))
        for paragraph in paragraphs:
            documents[-1].append(paragraph)
            size += len(paragraph)
            if size > DOCUMENT_SIZE:
                documents.append([])
                size = 0
    for document in documents:
        text = "\n\n".join(document)
        if len(text) > SHORTEST:
            yield text


def man_paragraphs(lines: list[str], seen: Deduplicator) -> Iterator[str]:
    """The prose of a section; a short line right before a paragraph is the term it explains."""
    for i, line in enumerate(lines):
        paragraph = plain(line)
        if is_prose(paragraph) and seen.fresh(paragraph):
            term = plain(lines[i - 1]) if i and len(lines[i - 1].strip()) < 60 else ""
            names_it = term and not is_prose(term) and term[-1] not in ".;{}"
            yield f"{term}: {paragraph}" if names_it else paragraph


def is_wanted_package(package: PackageDescription) -> bool:
    """False for packages whose descriptions are all alike or say nothing."""
    if package.name.startswith("librust-") or not package.paragraphs:
        return False
    if re.search(r"transitional|dummy package|debug symbols|obsolete", package.short, re.I):
        return False
    return not package.paragraphs[0].startswith("This package is a transitional")


def package_key(package: PackageDescription) -> str:
    """Siblings that share their first paragraph share a key."""
    return "pkg:" + re.sub(r"[^a-z]", "", package.paragraphs[0].lower())[:80]


def wordnet_key(synset: Synset) -> str:
    """Neighbours in the file share a key, so that a raw document is more than one line."""
    return f"wn:{synset.id[:-3]}"


def wordnet_line(synset: Synset) -> str:
    line = f"{synset.words[0]} ({synset.pos}): {sentence(synset.definition)}"
    if len(synset.words) > 1:
        line += f" Also: {', '.join(synset.words[1:5])}."
    if synset.examples:
        line += f' Example: "{synset.examples[0]}".'
    return line


def wordnet_documents(synsets: Iterable[Synset]) -> Iterator[tuple[str, str]]:
    """`(key, text)` for each run of synsets with one key."""
    key, lines = "", list[str]()
    for synset in synsets:
        if lines and wordnet_key(synset) != key:
            yield key, "\n".join(lines)
            lines = []
        key = wordnet_key(synset)
        lines.append(wordnet_line(synset))
    if lines:
        yield key, "\n".join(lines)
