"""What every engine does in a side-by-side run, and the prompts all of them get.

Decoding is one session: `start` computes the contexts untimed, then each `decode` goes on where the last one ended,
so that engines can take turns at the same context length without computing prompts again.
"""

import random
from collections.abc import Sequence
from typing import Protocol

TOKENS = range(300, 8192)  # ids of every shape's vocabulary, without special ones


class Engine(Protocol):
    """One engine with one model, greedy. Times are seconds of wall time inside the engine's process."""

    version: str

    def prefill(self, prompt: Sequence[int]) -> float:
        """From a prompt, of which nothing is cached, to its first token."""

    def start(self, prompts: Sequence[Sequence[int]], room: int) -> None:
        """Compute the prompts and one token each; `room` more will be decoded at most."""

    def decode(self, steps: int) -> float:
        """`steps` more tokens for every prompt, sampled and fed back."""

    def stop(self) -> None:
        """End what `start` began."""


class Scorer(Protocol):
    """An engine whose quality can be compared too."""

    def score(self, tokens: Sequence[int]) -> float:
        """The log probability of every token but the first, added up."""


def prompt(seed: int, count: int) -> list[int]:
    return random.Random(seed).choices(TOKENS, k=count)  # noqa: S311  # the same everywhere, not secret
