"""Made-up prompts of exact length: common words in random order, adjusted until the tokenizer agrees."""

import random
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

from bench.types import Item
from bench.workload.items import Workload, sampler
from bench.workload.tokens import IdTokens, TokenCounter
from bench.workload.words import COMMON

ROUNDS = 12  # of corrections; words of one token need one at most
CLOSE = 8  # tokens
ENOUGH_WORDS = 32
SAMPLE = 256  # prompts of one-token words that are checked before the rest is believed
SHORT = ("a", "I", ".", ",", "1", "x", "\n", "!", "e")  # to close the last gap with, where a word is too much


class Writer:
    """Writes texts of wanted lengths, each of them another one."""

    def __init__(self, tokens: TokenCounter, rng: random.Random) -> None:
        self.tokens = tokens
        self.rng = rng
        self._written: set[str] = set()
        known = Vocabulary((), (), 0) if tokens.estimated else vocabulary(tokens)
        self._overhead = known.overhead
        self._words, self._firsts = known.words or COMMON, known.firsts or COMMON
        self._exact = bool(known.words)  # a word more or less is a token more or less

    def write(self, lengths: Sequence[int], prefixes: Sequence[str] | None = None) -> tuple[list[str], list[int]]:
        """Texts of these lengths in tokens, and the lengths they have, which are the same if that can be had.

        Each begins with its prefix, whose tokens count.
        """
        prefixes = prefixes or [""] * len(lengths)
        starts = self._starts(prefixes)
        texts = [
            self._draw(prefix, length - start) for prefix, length, start in zip(prefixes, lengths, starts, strict=True)
        ]
        if self.tokens.estimated:
            return texts, list(lengths)
        return self._corrected(texts, lengths, prefixes)

    def _starts(self, prefixes: Sequence[str]) -> list[int]:
        """Tokens of each text before its own words: the special ones and the prefix."""
        known = {"": self._overhead}
        new = sorted(set(prefixes) - {""})
        counts = [len(prefix.split()) for prefix in new] if self.tokens.estimated else self.tokens.count(new)
        known |= dict(zip(new, counts, strict=True))
        return [known[prefix] for prefix in prefixes]

    def _draw(self, prefix: str, words: int) -> str:
        """A text that was not written before, as far as so few words allow."""
        for _ in range(ROUNDS):
            first = prefix or self.rng.choice(self._firsts)
            text = " ".join([first, *self.rng.choices(self._words, k=max(1 if prefix else 0, words - (not prefix)))])
            if text not in self._written:
                break
        self._written.add(text)
        return text

    def _corrected(
        self, texts: list[str], lengths: Sequence[int], prefixes: Sequence[str]
    ) -> tuple[list[str], list[int]]:
        if self._exact and len(texts) > SAMPLE and self.tokens.count(texts[:SAMPLE]) == [*lengths[:SAMPLE]]:
            return texts, [*lengths]
        counts = self.tokens.count(texts)
        best = list(zip(texts, counts, strict=True))
        for _ in range(ROUNDS):
            wrong = [i for i, count in enumerate(counts) if count != lengths[i]]
            if not wrong:
                break
            for i in wrong:
                texts[i] = self._adjust(texts[i], counts[i], lengths[i], prefixes[i])
            for i, count in zip(wrong, self.tokens.count([texts[i] for i in wrong]), strict=True):
                counts[i] = count
                if abs(count - lengths[i]) < abs(best[i][1] - lengths[i]):
                    best[i] = texts[i], count
        return [text for text, _ in best], [count for _, count in best]

    def _adjust(self, text: str, count: int, wanted: int, prefix: str) -> str:
        """A text that is nearer: longer by what is missing, or shorter by what is too much."""
        gap = wanted - count
        if 0 < gap <= CLOSE and not self._exact:
            return text + "".join(self.rng.choices(SHORT, k=gap))
        words = abs(gap) if self._exact else max(1, round(abs(gap) * len(text.split()) / max(1, count)))
        if gap > 0:
            return f"{text} {' '.join(self.rng.choices(self._words, k=words))}"
        own = text[len(prefix) :]
        shorter = " ".join(own.split(" ")[:-words])
        return prefix + (shorter or own[: max(1, len(own) + gap)])


class Vocabulary(NamedTuple):
    """The common words that are one token each: at the beginning of a text, and after a space.

    Neither, where the vocabulary has hardly any of them: then lengths are found by trying. `overhead` is what every
    text has besides, the special tokens.
    """

    firsts: tuple[str, ...]
    words: tuple[str, ...]
    overhead: int


@lru_cache(maxsize=4)
def vocabulary(tokens: TokenCounter) -> Vocabulary:
    start = COMMON[0]
    single, double = tokens.count([start, f"{start} {start}"])
    overhead = max(0, 2 * single - double)
    counts = tokens.count([f"{start} {word} {word}" for word in COMMON])
    words = tuple(word for word, count in zip(COMMON, counts, strict=True) if count == single + 2)
    if len(words) < ENOUGH_WORDS:
        return Vocabulary((), (), overhead)
    alone = tokens.count(words)
    firsts = tuple(word for word, count in zip(words, alone, strict=True) if count == overhead + 1)
    return Vocabulary(firsts, words, overhead)


def items(workload: Workload, count: int, tokens: TokenCounter) -> list[Item]:
    """Single prompts, with shared prefixes where the workload has groups."""
    rng = random.Random(workload.seed)  # noqa: S311  # a workload, not a secret
    draw_in = sampler(workload.in_tokens, "--in")
    inputs = [draw_in(rng) for _ in range(count)]
    outputs = output_lengths(workload, count, rng)
    groups = _groups(workload, count, rng)
    if workload.prefix_groups:
        inputs = [max(length, workload.prefix_tokens + 1) for length in inputs]
    prompts: Sequence[str | list[int]]
    if isinstance(tokens, IdTokens):
        prompts, counts = _ids(workload, tokens, rng, inputs, groups), inputs
    else:
        writer = Writer(tokens, rng)
        prefixes = None
        if workload.prefix_groups:
            shared, _ = writer.write([workload.prefix_tokens] * workload.prefix_groups)
            prefixes = [shared[group] for group in groups if group is not None]
        prompts, counts = writer.write(inputs, prefixes)
    return [
        Item(
            index=index,
            prompt=prompts[index],
            input_tokens=counts[index],
            input_estimated=tokens.estimated,
            output_tokens=outputs[index],
            group=groups[index],
        )
        for index in range(count)
    ]


def output_lengths(workload: Workload, count: int, rng: random.Random) -> list[int | None]:
    if workload.out_tokens is None:
        return [None] * count
    draw = sampler(workload.out_tokens, "--out")
    return [draw(rng) for _ in range(count)]


def _groups(workload: Workload, count: int, rng: random.Random) -> list[int | None]:
    if not workload.prefix_groups:
        return [None] * count
    weights = [1 / rank**workload.prefix_zipf for rank in range(1, workload.prefix_groups + 1)]
    return [*rng.choices(range(workload.prefix_groups), weights=weights, k=count)]


def _ids(
    workload: Workload, tokens: IdTokens, rng: random.Random, lengths: Sequence[int], groups: Sequence[int | None]
) -> list[list[int]]:
    shared = [tokens.draw(rng, workload.prefix_tokens) for _ in range(workload.prefix_groups)]
    start: Callable[[int | None], list[int]] = lambda group: [] if group is None else shared[group]  # noqa: E731
    written: set[tuple[int, ...]] = set()
    prompts = []
    for length, group in zip(lengths, groups, strict=True):
        for _ in range(ROUNDS):
            prompt = start(group) + tokens.draw(rng, length - len(start(group)))
            if tuple(prompt) not in written:
                break
        written.add(tuple(prompt))
        prompts.append(prompt)
    return prompts
