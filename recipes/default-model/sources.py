"""Where the text comes from: Debian packages, downloaded and unpacked, never installed.

Each reader yields what one kind of source holds: package descriptions, WordNet synsets, manual pages.
HTML documentation is read by `html_pages.py`.
"""

import collections
import gzip
import re
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cleaning import plain

MAN_PACKAGES = (
    "manpages",
    "manpages-dev",
    "coreutils",
    "findutils",
    "util-linux",
    "procps",
    "iproute2",
    "openssh-client",
    "rsync",
    "systemd",
    "apt",
    "dpkg",
    "git-man",
    "perl-doc",
)
PARTS_OF_SPEECH = {"n": "noun", "v": "verb", "a": "adjective", "s": "adjective", "r": "adverb"}
MAN_TO_TEXT = ("groff", "-t", "-mandoc", "-Tutf8", "-P-cbou", "-rLL=9000n", "-rHY=0")
MAN_SHORT = re.compile(r"\s*.*?\s+(?:-|\u2010|\u2013|\u2014|\u2212)\s+(.*)")


@dataclass(frozen=True)
class PackageDescription:
    name: str
    short: str
    paragraphs: list[str]


@dataclass
class Synset:
    """One meaning of WordNet. `first`: the lemmas (lower case) that mean this before all else."""

    id: str
    pos: str
    words: list[str]
    definition: str
    examples: list[str]
    pointers: list[tuple[str, str]]  # (relation, id of the other synset); hypernyms only
    first: set[str] = field(default_factory=set)
    common: bool = False  # seen in sense-tagged text
    kind: str | None = None  # what it is a kind of

    @property
    def is_instance(self) -> bool:
        """Whether it is a single thing, such as a city, not a class of things."""
        return any(relation == "@i" for relation, _ in self.pointers)


@dataclass(frozen=True)
class ManPage:
    package: str
    name: str
    section: str
    short: str
    parts: list[tuple[str, list[str]]]  # (heading, its lines; a paragraph is one line)


def download(work: Path, packages: list[str]) -> None:
    """Fetch the package index and the packages, and unpack each under `work/root/NAME`."""
    for folder in ("apt/lists/partial", "apt/cache/archives/partial", "debs", "root"):
        (work / folder).mkdir(parents=True, exist_ok=True)
    apt = ["apt-get", "-o", "Acquire::Languages=en"]
    apt += ["-o", f"Dir::State::Lists={work}/apt/lists", "-o", f"Dir::Cache={work}/apt/cache"]
    subprocess.run([*apt, "update"], check=True)
    subprocess.run([*apt, "download", *packages], check=True, cwd=work / "debs")
    for deb in (work / "debs").glob("*.deb"):
        target = work / "root" / deb.name.split("_")[0]
        target.mkdir(parents=True, exist_ok=True)
        subprocess.run(["dpkg", "-x", deb, target], check=True)


def package_versions(work: Path) -> dict[str, str]:
    versions = {}
    for deb in (work / "debs").glob("*.deb"):
        name, version, _ = deb.name.split("_")
        versions[name] = version.replace("%3a", ":")
    return versions


def package_descriptions(work: Path) -> Iterator[PackageDescription]:
    """Every package of the Translation-en indices, each name once."""
    seen = set()
    for path in sorted((work / "apt/lists").glob("*Translation-en*")):
        read = subprocess.run(["/usr/lib/apt/apt-helper", "cat-file", path], check=True, capture_output=True)
        for block in read.stdout.decode("utf-8", "replace").split("\n\n"):
            name = re.search(r"^Package: (\S+)$", block, re.M)
            short = re.search(r"^Description-en: (.*)$", block, re.M)
            if name and short and name[1] not in seen:
                seen.add(name[1])
                yield PackageDescription(name[1], plain(short[1]), description_paragraphs(block[short.end() :]))


def description_paragraphs(body: str) -> list[str]:
    """Paragraphs and list items of an extended description (Debian policy 5.6.13)."""
    paragraphs: list[list[str]] = []
    current: list[str] = []
    for line in body.split("\n"):
        text = line[1:] if line.startswith(" ") else ""
        if text.strip() == ".":
            paragraphs.append(current)
            current = []
        elif re.match(r"\s*[-*o+]\s+\S", text):
            if current:
                paragraphs.append(current)
            current = ["- " + re.sub(r"^\s*[-*o+]\s+", "", text)]
        elif text.strip():
            current.append(text.strip())
    paragraphs.append(current)
    return [plain(" ".join(lines)) for lines in paragraphs if lines]


def wordnet(root: Path) -> Iterator[Synset]:
    """The synsets of the WordNet database files (wndb(5WN)), in file order."""
    base = root / "wordnet-base/usr/share/wordnet"
    synsets: dict[str, Synset] = {}
    first: dict[str, set[str]] = collections.defaultdict(set)
    common = set()
    for name in ("noun", "verb", "adj", "adv"):
        for line in lines_of(base / f"data.{name}"):
            synset = parse_synset(name, line)
            synsets[synset.id] = synset
        for line in lines_of(base / f"index.{name}"):
            f = line.split()
            offsets = -int(f[2])  # the last fields are the synsets of the lemma, most frequent first
            first[name + f[offsets]].add(f[0].replace("_", " "))
            if f[offsets - 1] != "0":
                common.add(name + f[offsets])
    for key, synset in synsets.items():
        synset.first, synset.common = first[key], key in common
        synset.kind = next((synsets[k].words[0] for _, k in synset.pointers if k in synsets), None)
        yield synset


def lines_of(path: Path) -> Iterator[str]:
    """The lines of a WordNet file without its licence, which is indented."""
    with path.open(encoding="latin-1") as file:
        yield from (line for line in file if not line.startswith("  "))


def parse_synset(name: str, line: str) -> Synset:
    left, gloss = line.split(" | ", 1)
    f = left.split()
    count = int(f[3], 16)
    words = [re.sub(r"\(\w+\)$", "", w).replace("_", " ") for w in f[4 : 4 + 2 * count : 2]]
    rest = f[4 + 2 * count + 1 :]
    pointers = [(rest[i], name + rest[i + 1]) for i in range(0, len(rest) - 3, 4) if rest[i] in ("@", "@i")]
    definition = re.split(r'; "|\s*;\s*$', gloss)[0]
    return Synset(
        id=name + f[0],
        pos=PARTS_OF_SPEECH[f[2]],
        words=words,
        definition=plain(re.sub(r';?\s*"[^"]*"?', "", definition)).strip(" ;"),
        examples=[plain(e) for e in re.findall(r'"([^"]{8,})"', gloss)],
        pointers=pointers,
    )


def man_pages(root: Path, packages: Iterable[str] = MAN_PACKAGES) -> Iterator[ManPage]:
    for package in packages:
        for path in sorted((root / package / "usr/share/man").glob("man*/*.gz"), key=str):
            raw = gzip.decompress(path.read_bytes())
            if len(raw) < 400:  # only a ".so" redirect
                continue
            text = subprocess.run(MAN_TO_TEXT, input=raw, capture_output=True).stdout.decode("utf-8", "replace")
            name, section = path.stem.rsplit(".", 1)
            parts = man_parts(text)
            yield ManPage(package, name, section, man_short(parts), parts)


def man_parts(text: str) -> list[tuple[str, list[str]]]:
    parts: list[tuple[str, list[str]]] = []
    for line in text.split("\n"):
        if len(line) > 2000 and " " * 40 in line:  # page header or footer
            continue
        if re.match(r"^[A-Z][A-Z ,/-]+$", line):
            parts.append((line.strip(), []))
        elif parts and line.strip():
            parts[-1][1].append(line.rstrip())
    return parts


def man_short(parts: list[tuple[str, list[str]]]) -> str:
    """What stands behind the dash of the NAME section."""
    short = ""
    for heading, lines in parts:
        if heading == "NAME" and lines:
            match = MAN_SHORT.match(" ".join(line.strip() for line in lines))
            short = plain(match[1]) if match else ""
    return short
