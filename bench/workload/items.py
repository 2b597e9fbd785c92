"""`Workload` says what to ask for; `build` makes the items, all of them before the run starts."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from bench.types import Item, UsageError
from bench.workload.tokens import TokenCounter

Length = int | str

MAX_LENGTH = 10_000_000  # tokens; more is a typing error


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Lengths are token counts: a number, `uniform:LOW,HIGH`, or `lognormal:MEAN,SIGMA` with the mean in tokens.

    `in_tokens` is the whole prompt, shared prefix included, or each message of the user in a conversation. With
    `data`, prompts come from a file, and lengths only where `out_tokens` is given. With `prefix_groups`, requests
    of one group begin with the same `prefix_tokens` tokens; the groups are equally likely, or by Zipf's law with
    exponent `prefix_zipf`. With `turns`, conversations of so many turns are held, `think_s` apart. Without a seed,
    `seeded` draws one, so that no run meets what an earlier one left in a prefix cache.
    """

    in_tokens: Length = 1024
    out_tokens: Length | None = 128
    data: Path | None = None
    prefix_groups: int = 0
    prefix_tokens: int = 0
    prefix_zipf: float = 0.0
    turns: Length = 1
    think_s: float = 0.0
    seed: int | None = None
    token_ids: bool = False

    def __post_init__(self) -> None:
        """Raises UsageError for what cannot be meant."""
        for name, value in (("in", self.in_tokens), ("out", self.out_tokens), ("turns", self.turns)):
            if value is not None:
                sampler(value, f"--{name}")
        if self.prefix_groups < 0 or self.prefix_tokens < 0 or self.prefix_zipf < 0 or self.think_s < 0:
            raise UsageError("prefix groups, prefix length, zipf exponent and think time must not be negative")
        if bool(self.prefix_groups) != bool(self.prefix_tokens):
            raise UsageError("a shared prefix needs both a number of groups and a length: groups=16,len=2048")
        if isinstance(self.in_tokens, int) and self.prefix_tokens >= self.in_tokens and self.data is None:
            raise UsageError(
                f"the shared prefix ({self.prefix_tokens} tokens) must be shorter than the prompt "
                f"({self.in_tokens} tokens)"
            )
        if self.token_ids and (self.turns != 1 or self.data is not None):
            raise UsageError("token ids are for made-up single prompts, not for conversations or files")

    @property
    def think_ns(self) -> int:
        return round(self.think_s * 1e9)


def seeded(workload: Workload) -> Workload:
    """The same with a seed: a new one if there was none."""
    return workload if workload.seed is not None else replace(workload, seed=random.SystemRandom().randrange(2**32))


def sampler(length: Length, name: str) -> Callable[[random.Random], int]:
    """A function that draws lengths. Raises UsageError for one that means nothing."""
    if isinstance(length, int) or length.strip().isdecimal():
        number = int(length)
        if not 1 <= number <= MAX_LENGTH:
            raise UsageError(f"{name} must be at least 1 and at most {MAX_LENGTH}. Given: {length}")
        return lambda rng: number
    kind, _, rest = length.partition(":")
    try:
        first, second = (float(part) for part in rest.split(","))
    except ValueError:
        first = second = float("nan")
    if kind == "uniform" and 1 <= first <= second <= MAX_LENGTH:
        low, high = int(first), int(second)
        return lambda rng: rng.randint(low, high)
    if kind == "lognormal" and 1 <= first <= MAX_LENGTH and 0 <= second <= 10:
        return lambda rng: _lognormal(rng, first, second)
    raise UsageError(f"{name} must be a number, uniform:LOW,HIGH or lognormal:MEAN,SIGMA. Given: {length!r}")


def _lognormal(rng: random.Random, mean: float, sigma: float) -> int:
    """Drawn so that the mean of the distribution, not its median, is `mean`; cut off at a hundred times that."""
    drawn = mean * rng.lognormvariate(-sigma * sigma / 2, sigma) if sigma else mean
    return max(1, round(min(drawn, 100 * mean, MAX_LENGTH)))


def build(workload: Workload, count: int, tokens: TokenCounter, *, max_context: int | None = None) -> list[Item]:
    """`count` items, numbered from 0, the turns of a conversation one after another.

    The same workload with the same seed gives the same items. Prompts are all different, unless a file repeats
    itself. Raises UsageError where the lengths do not fit `max_context`, or a file cannot be read.
    """
    from bench.workload import datasets, sessions, synthetic

    if count < 1:
        raise UsageError(f"at least one request is needed. Given: {count}")
    workload = seeded(workload)
    if workload.data is not None:
        items = datasets.items(workload, count, tokens, max_context)
    elif workload.turns != 1:
        items = sessions.items(workload, count, tokens)
    else:
        items = synthetic.items(workload, count, tokens)
    _check_lengths(items, max_context)
    return items


def _check_lengths(items: list[Item], max_context: int | None) -> None:
    if max_context is None:
        return
    for item in items:
        wanted = (item.input_tokens or 0) + (item.output_tokens or 0)
        if wanted > max_context:
            raise UsageError(
                f"the server's context is {max_context} tokens, but a request of this workload needs {wanted} "
                f"({item.input_tokens} in, {item.output_tokens} out): ask for shorter ones"
            )
