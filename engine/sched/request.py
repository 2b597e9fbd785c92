"""What the scheduler keeps of one request. A request is a gap to close: known tokens minus `computed`."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from engine.sched.plan import Chunk, Enter
from engine.types import FinishReason, SamplingParams


class Status(StrEnum):
    WAITING = "waiting"  # holds no slot and no block; also after a preemption
    RUNNING = "running"  # holds a slot and the blocks of what is computed
    FINISHED = "finished"


@dataclass(slots=True, eq=False, kw_only=True)
class Request:
    """One request. What the caller sets comes first; the rest belongs to the scheduler."""

    id: int
    tokens: list[int]  # all that are known: the prompt, then the output
    prompt_len: int
    params: SamplingParams
    eos_ids: frozenset[int] = frozenset()  # the model's end tokens, empty with ignore_eos
    priority: int = 0  # lower runs first
    tenant: int = 0
    salt: bytes = b""
    embed: bool = False  # computed whole in one step for its vector; `params.max_new_tokens` is 0
    bidirectional: bool = False  # how an encoder computes it

    arrival: int = 0  # order of arrival, never the same twice
    stop_ids: frozenset[int] = field(init=False)  # every token that ends the text
    computed: int = 0  # positions whose keys and values are in `blocks`; the only counter of progress
    blocks: list[int] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)  # see BlockPool: the salt's, then one for each full block hashed
    draft: tuple[int, ...] = ()  # a guess at what follows `tokens`
    slot: int = 0  # 0 = none
    status: Status = Status.WAITING
    reason: FinishReason | None = None
    waiting_since: int = 0  # the step in which it began to wait
    preemptions: int = 0
    admitted: bool = False  # has held a slot, so that one who waits and was admitted has been preempted
    cached_tokens: int = 0  # prompt tokens found in the prefix cache at the first admission

    def __post_init__(self) -> None:
        self.stop_ids = self.eos_ids | frozenset(self.params.stop_token_ids)

    @property
    def gap(self) -> int:
        """Known tokens left to compute; at least 1 until the request ends."""
        return len(self.tokens) - self.computed

    @property
    def max_tokens(self) -> int:
        """What `tokens` may grow to."""
        return self.prompt_len + self.params.max_new_tokens

    @property
    def remaining(self) -> int:
        """Tokens it may still generate."""
        return self.max_tokens - len(self.tokens)

    @property
    def scores_prompt(self) -> bool:
        """Whether its prompt's logprobs are still owed. They come with the first new token, and need every row."""
        return self.params.prompt_logprobs and len(self.tokens) == self.prompt_len

    def extend(self, tokens: Iterable[int]) -> int:
        """Append generated tokens up to the one that ends the request; return how many were kept.

        The length is checked before the end tokens: an end token in the last place reports LENGTH, as in TGI.
        """
        before = len(self.tokens)
        for token in tokens:
            self.tokens.append(token)
            if self.remaining == 0:
                self.reason = FinishReason.LENGTH
            elif token in self.stop_ids:
                self.reason = FinishReason.EOS
            if self.reason is not None:
                break
        return len(self.tokens) - before


@dataclass(slots=True, eq=False)
class Row:
    """A request's part in the step being planned: `count` of its known tokens, then a draft."""

    request: Request
    count: int
    draft: tuple[int, ...] = ()

    def chunk(self) -> Chunk:
        request, start = self.request, self.request.computed
        return Chunk(
            request_id=request.id,
            slot=request.slot,
            start=start,
            tokens=(*request.tokens[start : start + self.count], *self.draft),
            num_draft=len(self.draft),
            blocks=tuple(request.blocks),
            sample=self.count == request.gap and not request.embed,
            prompt_logprobs=request.scores_prompt,
            embed=request.embed,
            bidirectional=request.bidirectional,
        )

    def enter(self) -> Enter:
        request = self.request
        return Enter(request.id, request.slot, tuple(request.tokens), request.prompt_len, request.params)
