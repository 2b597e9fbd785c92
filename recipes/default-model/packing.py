"""Packs tokenized documents into training blocks, each source at its share of the tokens."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from chat_format import END_OF_TEXT
from sources import MAN_PACKAGES

Tokens = npt.NDArray[np.uint16]

# Share of the training tokens by source; half raw text, half conversations.
SHARES = {
    "raw-docs": 0.22,
    "raw-man": 0.06,
    "raw-package-descriptions": 0.14,
    "raw-wordnet-base": 0.08,
    "chat-package": 0.19,
    "chat-word": 0.21,
    "chat-man": 0.08,
    "chat-identity": 0.02,
}


def share_of(name: str) -> str:
    """The key of `SHARES` that a token file counts for."""
    if name in SHARES:
        return name
    return "raw-man" if name.removeprefix("raw-") in MAN_PACKAGES else "raw-docs"


class Source:
    """The documents of one share, in a shuffled order that restarts when used up."""

    def __init__(self, files: list[Path], rng: np.random.Generator) -> None:
        self.documents: list[Tokens] = []
        for file in files:
            ends = np.fromfile(file.with_suffix(".idx"), np.int64)
            self.documents += np.split(np.fromfile(file, np.uint16), ends[:-1])
        self.used = 0  # tokens handed out, separators included
        self._rng = rng
        self._order: list[int] = []

    @property
    def size(self) -> int:
        """Tokens in all documents, separators included."""
        return sum(len(d) + 1 for d in self.documents)

    def next(self) -> Tokens:
        if not self._order:
            self._order = list(self._rng.permutation(len(self.documents)))
        document = self.documents[self._order.pop()]
        self.used += len(document) + 1
        return document


class Packer:
    """Makes blocks of tokens; documents are separated by the end-of-text token."""

    def __init__(self, directory: Path, seed: int, split: str = "train") -> None:
        self._rng = np.random.default_rng(seed)
        files: dict[str, list[Path]] = {}
        for file in sorted(directory.glob(f"{split}-*.bin"), key=str):
            files.setdefault(share_of(file.stem.removeprefix(f"{split}-")), []).append(file)
        if not files:
            raise SystemExit(f"no {split}-*.bin in {directory}; run train_tokenizer.py first")
        self.sources = {share: Source(paths, self._rng) for share, paths in files.items()}
        self._left: tuple[str, Tokens] | None = None  # what did not fit into the last block

    def document(self) -> tuple[str, Tokens]:
        """The next document of the share that is furthest behind."""
        share = min(self.sources, key=lambda s: self.sources[s].used / SHARES[s])
        return share, self.sources[share].next()

    def block(self, length: int) -> Tokens:
        """`[length]` tokens. Every second block starts with a separator, as a prompt of a server does."""
        parts = [np.array([END_OF_TEXT], np.uint16)] if self._rng.random() < 0.5 else []
        size = len(parts)
        while size < length:
            share, document = self._left or self.document()
            self._left = None
            room = length - size
            if len(document) + 1 > room:
                # A conversation starts again in the next block, prose goes on there.
                rest = document if share.startswith("chat") and size else document[room:]
                self._left = (share, rest) if len(rest) else None
            parts.append(np.append(document, END_OF_TEXT)[:room].astype(np.uint16))
            size += len(parts[-1])
        return np.concatenate(parts)

    def batch(self, rows: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets, both int64 `[rows, length]`; a target is the next token."""
        blocks = np.stack([self.block(length + 1) for _ in range(rows)]).astype(np.int64)
        return torch.from_numpy(blocks[:, :-1]), torch.from_numpy(blocks[:, 1:])
