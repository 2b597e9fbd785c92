"""A stand-in for a language model whose every token depends on every KV slot that is read.

Slot p of a sequence must hold H(...H(H(salt), t0)..., tp). The next token, and its score, are a function of all
slots from 0 to p, read through the block table. So a block that is wrong, stale, shared with a stranger or not
written yet changes the text, and the text is compared with `expect`, which knows no blocks, batches or slots.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from zlib import crc32

from engine.sched.plan import Chunk, ChunkOutput, Enter, StepPlan, StepResult
from engine.types import FinishReason, GenerateRequest, SamplingParams, TokenScore

VOCAB = 5
EOS = 0
POISON = -1  # what a block holds from the moment it is handed out

Draft = Callable[[int, Sequence[int]], tuple[int, ...]]  # request id, its tokens -> a guess at what follows


def absorb(value: int, token: int) -> int:
    return (value * 1_000_003 + token * 7_919 + 12_345) & 0xFFFF_FFFF_FFFF


def slot_values(tokens: Iterable[int], salt: bytes) -> list[int]:
    """What the KV slots of a sequence must hold. The salt counts: it stands for an adapter, say."""
    values, value = [], 1 + crc32(salt)
    for token in tokens:
        value = absorb(value, token)
        values.append(value)
    return values


def read(values: Iterable[int]) -> int:
    """The hidden state after reading these slots."""
    state = 7
    for value in values:
        state = absorb(state, value)
    return state


def choose(state: int) -> int:
    return (state >> 11) % VOCAB


def score(state: int, token: int) -> float:
    """The "log probability" of a token: a number that no other state gives."""
    return -float(absorb(state, token))


def alternatives(state: int) -> tuple[TokenScore, ...]:
    return tuple(TokenScore(token, score(state, token)) for token in range(2))


@dataclass
class Expected:
    """The whole answer to a request, computed alone and in one piece."""

    tokens: list[int]
    scores: list[float]
    top: list[tuple[TokenScore, ...]]
    prompt_scores: list[float]
    reason: FinishReason


def expect(request: GenerateRequest) -> Expected:
    params = request.params
    states = [read(slot_values(request.prompt[:end], request.salt)) for end in range(1, len(request.prompt) + 1)]
    prompt_scores = [score(state, token) for state, token in zip(states, request.prompt[1:], strict=False)]
    answer = Expected([], [], [], prompt_scores, FinishReason.LENGTH)
    state = states[-1]
    known = list(request.prompt)
    ends = {*params.stop_token_ids, *(() if params.ignore_eos else (EOS,))}
    while True:
        token = choose(state)
        answer.tokens.append(token)
        answer.scores.append(score(state, token))
        answer.top.append(alternatives(state))
        if len(answer.tokens) == params.max_new_tokens:
            return answer
        if token in ends:
            answer.reason = FinishReason.EOS
            return answer
        known.append(token)
        state = read(slot_values(known, request.salt))


@dataclass
class Seat:
    """A worker's slot: the sequence so far, known from `Enter` and from what was sampled since."""

    request_id: int
    tokens: list[int]
    prompt_len: int
    params: SamplingParams
    guess: tuple[int, ...] = ()


@dataclass
class ModelWorker:
    """Executes plans on the rolling hash, and asserts that each plan makes sense to a worker."""

    num_blocks: int
    block_size: int
    max_batch_size: int
    seats: dict[int, Seat] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.kv = [[POISON] * self.block_size for _ in range(self.num_blocks)]
        self.salts: dict[int, bytes] = {}  # request id -> salt
        self.forgiven: set[int] = set()  # slots that may leave twice, after a failed step

    def poison(self, blocks: Iterable[int]) -> None:
        for block in blocks:
            self.kv[block] = [POISON] * self.block_size

    def seat(self, plan: StepPlan) -> None:
        """Apply `leave`, then `enter`."""
        assert len(set(plan.leave)) == len(plan.leave)
        for slot in plan.leave:
            assert slot in self.seats or slot in self.forgiven, f"slot {slot} leaves but is empty"
            self.seats.pop(slot, None)
        self.forgiven.clear()
        for enter in plan.enter:
            self._enter(enter)

    def _enter(self, enter: Enter) -> None:
        assert 1 <= enter.slot <= self.max_batch_size, f"slot {enter.slot} does not exist or is reserved"
        assert enter.slot not in self.seats, f"slot {enter.slot} is taken"
        assert all(seat.request_id != enter.request_id for seat in self.seats.values()), "two slots for one request"
        self.seats[enter.slot] = Seat(enter.request_id, list(enter.tokens), enter.prompt_len, enter.params)

    def execute(self, plan: StepPlan, draft: Draft, faults: dict[int, str]) -> StepResult:
        written: set[tuple[int, int]] = set()
        outputs = {}
        for chunk in plan.chunks:
            assert chunk.request_id not in outputs, "two chunks for one request"
            output = self._compute(chunk, draft, written)
            error = faults.get(chunk.request_id)
            outputs[chunk.request_id] = output if error is None else ChunkOutput(error=error)
        return StepResult(plan.step, outputs)

    def _compute(self, chunk: Chunk, draft: Draft, written: set[tuple[int, int]]) -> ChunkOutput:
        seat = self._check(chunk)
        states = []
        for position, token in enumerate(chunk.tokens, chunk.start):
            before = self._at(chunk, position - 1) if position else 1 + crc32(self.salts[chunk.request_id])
            block, offset = chunk.blocks[position // self.block_size], position % self.block_size
            assert (block, offset) not in written, "two rows write one slot"
            written.add((block, offset))
            self.kv[block][offset] = absorb(before, token)
            states.append(read(self._at(chunk, p) for p in range(position + 1)))
        prompt = seat.tokens[chunk.start + 1 : min(chunk.start + 1 + len(states), seat.prompt_len)]
        scored = list(zip(states, prompt, strict=False)) if chunk.prompt_logprobs else []
        new = self._verify(chunk, states) if chunk.sample else []
        seat.tokens += [token for _, token in new]
        seat.guess = draft(chunk.request_id, seat.tokens) if chunk.sample else ()
        return ChunkOutput(
            tokens=tuple(token for _, token in new),
            logprobs=tuple(score(state, token) for state, token in new),
            top=tuple(alternatives(state) for state, _ in new),
            prompt_logprobs=tuple(score(state, token) for state, token in scored),
            prompt_top=tuple(alternatives(state) for state, _ in scored),
            draft=seat.guess,
        )

    def _check(self, chunk: Chunk) -> Seat:
        """A chunk must belong to its slot, continue what the slot knows and lie inside its block table."""
        seat = self.seats[chunk.slot]
        assert seat.request_id == chunk.request_id, f"slot {chunk.slot} belongs to request {seat.request_id}"
        known = len(chunk.tokens) - chunk.num_draft
        assert known > 0, "a chunk of nothing"
        end = chunk.start + known
        assert list(chunk.tokens[:known]) == seat.tokens[chunk.start : end], "the chunk is not what the slot knows"
        assert chunk.sample == (end == len(seat.tokens)), "only the last known token is sampled after"
        assert chunk.tokens[known:] == seat.guess[: chunk.num_draft], "not the draft that was proposed"
        assert not chunk.num_draft or chunk.sample, "a draft in mid-prompt"
        assert len(chunk.blocks) * self.block_size >= chunk.start + len(chunk.tokens), "the block table is too short"
        assert len(set(chunk.blocks)) == len(chunk.blocks), "a block twice in one table"
        assert 0 not in chunk.blocks, "block 0 is reserved"
        return seat

    def _at(self, chunk: Chunk, position: int) -> int:
        return self.kv[chunk.blocks[position // self.block_size]][position % self.block_size]

    @staticmethod
    def _verify(chunk: Chunk, states: list[int]) -> list[tuple[int, int]]:
        """The state and token of each accepted draft, and of the one token after them."""
        first = len(chunk.tokens) - chunk.num_draft
        new = [(states[first - 1], choose(states[first - 1]))]
        for index in range(first, len(chunk.tokens)):
            if chunk.tokens[index] != new[-1][1]:
                break
            new.append((states[index], choose(states[index])))
        return new
