"""Build the training text from Debian packages.

    python prepare_corpus.py --work build --out build/corpus

Standard library only; needs apt-get, dpkg and groff on a Debian 12 machine. Packages are downloaded
and unpacked under --work, never installed. Writes to --out:

    train_raw.jsonl   {"key", "source", "text"}       one document a line
    train_chat.jsonl  {"key", "source", "messages"}   one conversation a line
    eval_raw.jsonl, eval_chat.jsonl                   the held-out 1 %
    CORPUS.md                                         packages, versions, licences, sizes

A document and every conversation made from it share one key, and the hold-out is drawn by key, so
nothing in the eval files is seen in training. Paragraphs are de-duplicated over the whole corpus
before the split.
"""

import argparse
import json
import random
from dataclasses import asdict, dataclass, field
from pathlib import Path

from cleaning import Deduplicator, held_out
from conversations import Messages, identity_chats, man_chats, package_chats, word_chats
from corpus_report import Tally, report
from documents import (
    html_documents,
    is_wanted_package,
    man_documents,
    package_key,
    wordnet_documents,
    wordnet_key,
)
from html_pages import html_pages
from sources import download, man_pages, package_descriptions, package_versions, wordnet

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Document:
    key: str
    source: str
    text: str


@dataclass(frozen=True)
class Conversation:
    key: str
    source: str
    messages: Messages


@dataclass
class Corpus:
    """Gathers documents and conversations; the order of the `add` calls decides every random draw."""

    rng: random.Random
    seen: Deduplicator = field(default_factory=Deduplicator)
    documents: list[Document] = field(default_factory=list)
    conversations: list[Conversation] = field(default_factory=list)

    def add_html(self, root: Path) -> None:
        for page in html_pages(root):
            key = f"html:{page.package}:{page.path}"
            self.documents += [Document(key, page.package, text) for text in html_documents(page, self.seen)]

    def add_man_pages(self, root: Path) -> None:
        for page in man_pages(root):
            key = f"man:{page.name}.{page.section}"
            self.conversations += [Conversation(key, "man", chat) for chat in man_chats(self.rng, page)]
            self.documents += [Document(key, page.package, text) for text in man_documents(page, self.seen)]

    def add_packages(self, work: Path) -> None:
        for package in filter(is_wanted_package, package_descriptions(work)):
            key = package_key(package)
            fresh = [p for p in package.paragraphs if self.seen.fresh(p)]
            if sum(map(len, fresh)) > 60:
                self.conversations += [Conversation(key, "package", chat) for chat in package_chats(self.rng, package)]
                text = f"{package.name} - {package.short}\n\n" + "\n\n".join(fresh)
                self.documents.append(Document(key, "(package descriptions)", text))

    def add_wordnet(self, root: Path) -> None:
        synsets = list(wordnet(root))
        for synset in synsets:
            # Common words twice, in different phrasings; a third of the others.
            for _ in range(2 if synset.common else self.rng.random() < 0.33):
                chats = word_chats(self.rng, synset)
                self.conversations += [Conversation(wordnet_key(synset), "word", chat) for chat in chats]
        self.documents += [Document(key, "wordnet-base", text) for key, text in wordnet_documents(synsets)]

    def add_identity(self) -> None:
        chats = identity_chats(HERE / "identity.json")
        self.conversations += [Conversation("identity", "identity", chat) for chat in chats]

    def write(self, out: Path) -> Tally:
        """Shuffle, split and write the four files."""
        self.rng.shuffle(self.documents)
        self.rng.shuffle(self.conversations)
        tally = Tally()
        for name, entries in (("raw", self.documents), ("chat", self.conversations)):
            with (
                (out / f"train_{name}.jsonl").open("w", encoding="utf-8") as train,
                (out / f"eval_{name}.jsonl").open("w", encoding="utf-8") as held,
            ):
                for entry in entries:
                    out_of_training = held_out(entry.key) and entry.source != "identity"
                    (held if out_of_training else train).write(json.dumps(asdict(entry), ensure_ascii=False) + "\n")
                    tally.add(name, entry.source, size(entry), out_of_training)
        return tally


def size(entry: Document | Conversation) -> int:
    """Bytes of text in UTF-8."""
    texts = [entry.text] if isinstance(entry, Document) else [m["content"] for m in entry.messages]
    return sum(len(text.encode()) for text in texts)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build"), help="downloads and unpacked packages go here")
    parser.add_argument("--out", type=Path, default=Path("build/corpus"))
    parser.add_argument("--packages", type=Path, default=HERE / "packages.txt", help="a file of package names")
    parser.add_argument("--no-download", action="store_true", help="use what --work already holds")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    work = args.work.resolve()
    if not args.no_download:
        download(work, args.packages.read_text().split())
    args.out.mkdir(parents=True, exist_ok=True)
    corpus = Corpus(random.Random(args.seed))
    corpus.add_html(work / "root")
    corpus.add_man_pages(work / "root")
    corpus.add_packages(work)
    corpus.add_wordnet(work / "root")
    corpus.add_identity()
    text = report(corpus.write(args.out), package_versions(work))
    (args.out / "CORPUS.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
