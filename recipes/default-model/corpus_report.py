"""Counts what went into the corpus and writes the table of sources and licences."""

from collections import defaultdict
from dataclasses import dataclass, field

# From each package's copyright file; where a package mixes terms, those of its documentation.
LICENCES = {
    "(package descriptions)": "Debian package metadata of component main; "
    "a description follows the licence of its package (all DFSG-free)",
    "wordnet-base": "WordNet 3.0 licence (permissive, Princeton University)",
    "manpages": "Linux-man-pages-copyleft ('verbatim'), GPL-2+, GPL-1+, GPL-2, MIT, BSD (1)",
    "manpages-dev": "as manpages (1)",
    "coreutils": "GPL-3+",
    "findutils": "GPL-3+",
    "util-linux": "GPL-2+, GPL-2, LGPL-2.1+, BSD-3-Clause, public domain",
    "procps": "GPL-2+, LGPL-2+",
    "iproute2": "GPL-2",
    "openssh-client": "BSD, ISC-like, public domain",
    "rsync": "GPL-3+",
    "systemd": "LGPL-2.1+",
    "apt": "GPL-2+",
    "dpkg": "GPL-2+, GPL-2",
    "git-man": "GPL-2, GPL-2+",
    "git-doc": "GPL-2, GPL-2+",
    "python3.11-doc": "PSF-2 (Python licence)",
    "perl-doc": "GPL-1+ or Artistic",
    "debian-reference-en": "GPL-2+",
    "developers-reference": "GPL-2+",
    "debian-policy": "GPL-2+",
    "debian-handbook": "GPL-2+ or CC-BY-SA-3.0",
    "debian-faq": "copyleft notice of its own ('verbatim' copies, modified versions under the same terms)",
    "installation-guide-amd64": "GPL-2",
    "postgresql-doc-15": "PostgreSQL licence (permissive)",
    "sqlite3-doc": "public domain",
    "python-django-doc": "BSD-3-Clause",
}
HEAD = """# Corpus

Debian 12 (bookworm), component main, amd64. Text only, cleaned and de-duplicated by `prepare_corpus.py`.
Each package's own terms are in its `/usr/share/doc/<package>/copyright`.

| Source | Version | Licence | Documents | Text, MB | Held out |
|---|---|---|---|---|---|
"""
CHATS = """
(1) About 110 pages of Berkeley origin are marked BSD-4-Clause; the University of California
withdrew the advertising clause from its works in 1999.

## Conversations made from it

| Kind | Conversations | Text, MB | Held out |
|---|---|---|---|
"""
TAIL = "\nThe identity and greeting turns are written for this model (`identity.json`).\n"


@dataclass
class Count:
    texts: int = 0
    bytes: int = 0
    held_out: int = 0


@dataclass
class Tally:
    """Counts for each source of each kind (`raw`, `chat`)."""

    counts: dict[str, dict[str, Count]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(Count)))

    def add(self, kind: str, source: str, size: int, held_out: bool) -> None:
        count = self.counts[kind][source]
        count.texts += 1
        count.bytes += size
        count.held_out += held_out


def report(tally: Tally, versions: dict[str, str]) -> str:
    """The table as Markdown: sources by size, a total, and the conversations by kind."""
    raw, chat = tally.counts["raw"], tally.counts["chat"]
    lines = []
    for source in sorted(raw, key=lambda source: -raw[source].bytes):
        version = versions.get(source, "Translation-en index")
        lines.append(f"| {source} | {version} | {LICENCES.get(source, '?')} | {columns(raw[source])} |\n")
    total = Count(
        sum(c.texts for c in raw.values()), sum(c.bytes for c in raw.values()), sum(c.held_out for c in raw.values())
    )
    lines.append(f"| total | | | {columns(total)} |\n")
    chats = [f"| {kind} | {columns(chat[kind])} |\n" for kind in sorted(chat)]
    return HEAD + "".join(lines) + CHATS + "".join(chats) + TAIL


def columns(count: Count) -> str:
    return f"{count.texts} | {count.bytes / 1e6:.2f} | {count.held_out}"
