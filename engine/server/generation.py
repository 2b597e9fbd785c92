"""From a validated request to text: the path that every route shares.

A route turns its body into `GenerateParameters` and a prompt; `prepare` checks them as TGI does and makes
what the engine understands; a `Generation` runs it and gathers what comes back; `observed` counts it.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace

import msgspec

from engine.answer import Answer
from engine.errors import EngineError, InvalidRequest
from engine.metrics import Metrics
from engine.server import limits, strict, tracing
from engine.server.errors import IncompleteGeneration, reason
from engine.server.grammar import check_grammar, grammar_of
from engine.server.schema.tgi import GenerateParameters
from engine.server.service import Service
from engine.text.output import Piece
from engine.types import FinishReason, GenerateRequest, Grammar, SamplingParams, TokenEvent, TokenScore


class SharedPrompt:
    """What several answers to one prompt have in common: the first computes the prompt, the others wait for that.

    They find its blocks in the prefix cache then, and its scores here.
    """

    def __init__(self) -> None:
        self.computed = asyncio.Event()
        self.logprobs: tuple[float, ...] = ()
        self.top: tuple[tuple[TokenScore, ...], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """A request that passed every check. `inputs` is its prompt as text."""

    inputs: str
    prompt: tuple[int, ...]
    params: SamplingParams
    stop: tuple[str, ...]
    keep_stop: bool
    scores_prompt: bool = False  # whether the client sees the scores of the prompt
    shared: SharedPrompt | None = None  # with the other candidates
    leads: bool = True  # whether it is the one that computes the shared prompt

    @property
    def seed(self) -> int | None:
        """What a client is told: the seed where tokens are drawn, nothing where they are not."""
        return self.params.seed if self.params.temperature > 0 else None

    def candidates(self, count: int) -> list["Prepared"]:
        """As many requests for the same prompt, which differ in their seeds and compute the prompt once."""
        if count == 1:
            return [self]
        shared, first = SharedPrompt(), self.params.seed or 0
        candidates = [replace(self, shared=shared)]
        for i in range(1, count):
            params = msgspec.structs.replace(self.params, seed=(first + i) % 2**64, prompt_logprobs=False)
            candidates.append(replace(self, params=params, shared=shared, leads=False))
        return candidates


def check_generates(service: Service) -> None:
    """Refuse what an encoder cannot do."""
    if service.info.is_encoder:
        raise InvalidRequest(
            f"{service.options.model_id} is an encoder: it turns texts into vectors and cannot generate; "
            "use POST /embed or /v1/embeddings"
        )


async def prepare(
    service: Service,
    parameters: GenerateParameters,
    prompt: str | Sequence[int],
    *,
    openai: bool = False,
    logprobs: bool = False,
    prompt_logprobs: bool = False,
    add_special_tokens: bool = True,
    grammar: Grammar | None = None,
) -> Prepared:
    """Check a request in TGI's order, tokenize its prompt and fill in the defaults.

    `openai` cuts stop sequences off the text, and `frequency_penalty` is OpenAI's; TGI keeps the one and counts
    the other relative to the length. `grammar` is what the answer must match; on TGI's routes it is among the
    parameters. Raises InvalidRequest, and Overloaded where too many grammars are being checked.
    """
    check_generates(service)
    options = service.options
    if options.strict:
        parameters, openai = strict.as_tgi_means(parameters, openai=openai), False
    limits.check_parameters(parameters, options)
    if not prompt:
        raise InvalidRequest("`inputs` cannot be empty")
    limits.check_truncate(parameters.truncate, service.max_input_tokens)
    if isinstance(prompt, str):
        ids = tuple(await service.in_executor(_encode, service, prompt, add_special_tokens))
    else:
        ids = tuple(prompt)
        limits.check_prompt_ids(ids, service.info.vocab_size)
    if parameters.truncate is not None:
        ids = ids[-parameters.truncate :]
    check_lengths = strict.check_lengths if options.strict else limits.check_lengths
    max_new_tokens = check_lengths(
        len(ids), parameters.max_new_tokens, service.max_input_tokens, service.info.max_total_tokens
    )
    tracing.record(parameters=parameters)
    inputs = prompt if isinstance(prompt, str) else service.tokenizer.decode(ids, skip_special_tokens=False)
    limits.check_unsupported(parameters)
    if parameters.grammar is not None:
        grammar = grammar_of(parameters.grammar, strict=options.strict)
    if grammar is not None:
        await check_grammar(service, grammar)
    service.metrics.request_input_length.observe(len(ids))
    service.metrics.request_max_new_tokens.observe(max_new_tokens)
    params = _sampling_params(service, parameters, max_new_tokens)
    params = msgspec.structs.replace(
        params,
        logprobs=logprobs,
        raw_logprobs=options.logprobs == "raw" and not options.strict,
        prompt_logprobs=prompt_logprobs and (options.enable_prefill_logprobs or not options.strict),
        relative_frequency=not openai,
        grammar=grammar,
    )
    stop = limits.stop_sequences(parameters.stop)
    return Prepared(
        inputs=inputs,
        prompt=ids,
        params=params,
        stop=stop,
        keep_stop=not openai,
        scores_prompt=params.prompt_logprobs,
    )


def _encode(service: Service, text: str, add_special_tokens: bool) -> list[int]:
    return service.tokenizer.encode(text, add_special_tokens=add_special_tokens)


def _sampling_params(service: Service, parameters: GenerateParameters, max_new_tokens: int) -> SamplingParams:
    sampled = limits.samples(parameters)
    seed = parameters.seed if parameters.seed is not None else secrets.randbits(64)
    given = {
        name: value
        for name in ("repetition_penalty", "frequency_penalty", "presence_penalty", "ignore_eos", "top_n_tokens")
        if (value := getattr(parameters, name)) is not None
    }
    if sampled:
        given["temperature"] = 1.0 if parameters.temperature is None else parameters.temperature
        for name in ("top_k", "top_p", "typical_p", "min_p"):
            if (value := getattr(parameters, name)) is not None:
                given[name] = value
    return SamplingParams(
        max_new_tokens=max_new_tokens,
        logit_bias=limits.check_logit_bias(parameters.logit_bias, service.info.vocab_size),
        seed=seed if sampled else 0,
        **given,
    )


class Stopwatch:
    """Seconds of one HTTP request, for its metrics and headers."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.validation = 0.0

    @property
    def total(self) -> float:
        return time.monotonic() - self.started

    def validated(self, metrics: Metrics) -> None:
        self.validation = self.total
        metrics.request_validation_duration.observe(self.validation)
        tracing.validated(self.validation)


@contextmanager
def observed(metrics: Metrics) -> Iterator[Stopwatch]:
    """Count a request once, and how it ends: in success, in an error or with a client that left."""
    metrics.request_count.inc()
    watch = Stopwatch()
    try:
        yield watch
    except EngineError as error:
        metrics.request_failure.inc(1, reason(error))
        raise
    except (asyncio.CancelledError, GeneratorExit):
        metrics.request_failure.inc(1, "dropped")
        raise
    metrics.request_success.inc()
    metrics.request_duration.observe(watch.total)
    tracing.record(total_time=watch.total)


class Generation(Answer):
    """The answer to an HTTP request: also how long it took, and its part of the metrics."""

    def __init__(self, service: Service, prepared: Prepared, watch: Stopwatch) -> None:
        request = GenerateRequest(prompt=prepared.prompt, params=prepared.params)
        super().__init__(service.client, service.tokenizer, request, stop=prepared.stop, keep_stop=prepared.keep_stop)
        self.prepared = prepared
        self.inference = 0.0  # seconds from the first step to the end
        self.queue = 0.0  # seconds before that
        self.ended = 0.0  # on the clock of `time.monotonic`
        self._service = service
        self._watch = watch
        self._last_event: float | None = None

    @property
    def mean_logprob(self) -> float:
        """What `best_of` compares."""
        scores = [piece.logprob for piece in self.pieces if piece.logprob is not None]
        return sum(scores) / len(scores) if scores else float("-inf")

    async def run(self) -> None:
        async with aclosing(self.stream()) as steps:
            async for _ in steps:
                pass

    async def stream(self) -> AsyncGenerator[list[Piece], None]:
        """As `steps`, counted. Raises what `EngineClient.generate` does, and IncompleteGeneration.

        Of several answers to one prompt all but the first begin when the prompt has been computed.
        """
        shared = self.prepared.shared
        if shared is not None and not self.prepared.leads:
            await shared.computed.wait()
            self.prompt_logprobs, self.prompt_top = shared.logprobs, shared.top
        submitted = time.monotonic()
        async with aclosing(self.steps()) as steps:
            async for pieces in steps:
                if shared is not None and not shared.computed.is_set():
                    shared.logprobs, shared.top = self.prompt_logprobs, self.prompt_top
                    shared.computed.set()
                if self.finish_reason is not None:
                    self._finish(submitted)
                yield pieces
        if self.finish_reason is None:
            raise IncompleteGeneration("Incomplete generation")

    def _read(self, event: TokenEvent) -> list[Piece]:
        self._observe(event)
        began, method = time.monotonic(), "decode" if self.pieces else "prefill"
        pieces = super()._read(event)
        self._service.metrics.batch_decode_duration.observe(time.monotonic() - began, method)
        return pieces

    def _observe(self, event: TokenEvent) -> None:
        metrics, now = self._service.metrics, time.monotonic()
        if event.drafted:
            metrics.request_skipped_tokens.observe(event.accepted)
        if not event.tokens:
            return
        if self._last_event is None:
            metrics.request_first_token_duration.observe(now - self._watch.started)
        else:
            metrics.request_inter_token_duration.observe((now - self._last_event) / len(event.tokens))
        self._last_event = now

    def _finish(self, submitted: float) -> None:
        metrics, tokens = self._service.metrics, len(self.pieces)
        self.ended = time.monotonic()
        self.queue = self.timings.queue if self.timings else 0.0
        self.inference = max(0.0, self.ended - submitted - self.queue)
        metrics.request_queue_duration.observe(self.queue)
        metrics.request_inference_duration.observe(self.inference)
        metrics.request_mean_time_per_token_duration.observe(self.inference / max(1, tokens))
        metrics.request_generated_tokens.observe(tokens)
        tracing.answered(self.queue, self.inference, tokens, self.prepared.seed, self.timings)


async def run_all(generations: Sequence[Generation]) -> None:
    """Run several answers at once; when one fails, the others are cancelled."""
    tasks = [asyncio.create_task(generation.run()) for generation in generations]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class Step:
    """What one step of the engine added to one of several answers, and whether it ended with that."""

    index: int
    pieces: list[Piece]
    finish_reason: FinishReason | None


async def merge(generations: Sequence[Generation]) -> AsyncGenerator[Step, None]:
    """Stream several answers at once, each step as it comes. When one fails, the others are cancelled."""
    arrived: asyncio.Queue[Step | Exception | None] = asyncio.Queue()

    async def pump(index: int, generation: Generation) -> None:
        try:
            async with aclosing(generation.stream()) as steps:
                async for pieces in steps:
                    # The answer may have ended by the time its earlier steps are read from the queue.
                    arrived.put_nowait(Step(index, pieces, generation.finish_reason))
            arrived.put_nowait(None)
        except Exception as error:
            arrived.put_nowait(error)

    tasks = [asyncio.create_task(pump(index, generation)) for index, generation in enumerate(generations)]
    try:
        running = len(tasks)
        while running:
            item = await arrived.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                running -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
