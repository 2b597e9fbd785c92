"""`POST /v1/completions`: one or several prompts, as text or token ids, each with one or several answers."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing

from msgspec import UNSET, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from engine.errors import InvalidRequest
from engine.server import limits, strict
from engine.server.body import read_struct
from engine.server.completion_choices import Choice, scores_only
from engine.server.endpoint import Endpoint
from engine.server.errors import BatchTooLarge, SuffixUnsupported
from engine.server.generation import Generation, Prepared, Stopwatch, merge, observed, prepare, run_all
from engine.server.headers import compute_headers, stream_headers
from engine.server.openai import (
    Label,
    RunningUsage,
    new_id,
    stream_error,
    stream_timings,
    to_parameters,
    usage,
)
from engine.server.schema.common import encode
from engine.server.schema.completions import COMPLETION_DECODER, Completion, CompletionBody, CompletionChoice
from engine.server.schema.openai import Usage
from engine.server.service import SYSTEM_FINGERPRINT, Service, service
from engine.server.sse import event, event_stream, unless_disconnected
from engine.types import Timings

Prompt = str | tuple[int, ...]


async def completions(request: Request) -> Response:
    """Answers as JSON, or with `stream` as events. `model` is the server's own, as in TGI."""
    here = service(request)
    body = await read_struct(request, COMPLETION_DECODER, here.options.payload_limit, here.executor)
    label = Label(id=new_id("cmpl", here), model=here.options.model_id)
    if body.stream:
        events, path = _events(here, body, label), request.scope["path"]
        characters = sum(len(prompt) for prompt in _prompts(body) if isinstance(prompt, str))
        return event_stream(events, path, stream_headers(here, characters), stream_error(here))
    answer, headers = await unless_disconnected(request, _complete(here, body, label))
    return Response(encode(answer), headers=headers, media_type="application/json")


def _prompts(body: CompletionBody) -> list[Prompt]:
    """A string, a list of them, a list of token ids, or a list of such lists."""
    given = body.prompt
    if isinstance(given, str):
        return [given]
    ids = tuple(item for item in given if isinstance(item, int))
    others = [tuple(item) if isinstance(item, list) else item for item in given if not isinstance(item, int)]
    return [ids, *others] if ids else [*others]


def _check(here: Service, body: CompletionBody, prompts: Sequence[Prompt]) -> tuple[int, int]:
    """What needs no tokens to be refused. Returns how many answers to return, and to make, of each prompt."""
    if body.suffix is not None:
        raise SuffixUnsupported("Suffix is not supported and can be achieved by preprocessing the prompt.")
    if isinstance(body.prompt, list) and len({type(item) for item in body.prompt}) != 1:
        raise InvalidRequest("`prompt` must be a string or a non-empty list of strings, token ids or token id lists")
    if len(prompts) > here.options.max_client_batch_size:
        raise BatchTooLarge(
            f"Number of prompts exceeds the maximum allowed batch size of {here.options.max_client_batch_size}"
        )
    n = limits.check_choices(body.n, here.options)
    best_of = n if body.best_of is None else body.best_of
    if best_of < n:
        raise InvalidRequest(f"`best_of` must be >= `n` ({n}). Given: {best_of}")
    if best_of > n:
        limits.check_best_of(best_of, here.options)
        if body.stream:
            raise InvalidRequest("`best_of` > `n` is not supported when streaming tokens")
    return n, best_of


async def _prepare(
    here: Service, body: CompletionBody, prompts: Sequence[Prompt], best_of: int, watch: Stopwatch
) -> list[Prepared]:
    wants_logprobs = body.logprobs is not None
    max_new_tokens = 1 if scores_only(body) else body.max_tokens
    parameters = to_parameters(body, max_new_tokens=max_new_tokens, top_n_tokens=body.logprobs)
    prepared = [
        await prepare(
            here,
            parameters,
            prompt,
            openai=True,
            logprobs=wants_logprobs or best_of > 1,
            prompt_logprobs=wants_logprobs and bool(body.echo),
        )
        for prompt in prompts
    ]
    watch.validated(here.metrics)
    return prepared


async def _complete(here: Service, body: CompletionBody, label: Label) -> tuple[Completion, Mapping[str, str]]:
    prompts = _prompts(body)
    with observed(here.metrics) as watch:
        n, best_of = _check(here, body, prompts)
        with here.permits.hold(len(prompts) * best_of):
            prepared = await _prepare(here, body, prompts, best_of, watch)
            groups = [[Generation(here, one, watch) for one in each.candidates(best_of)] for each in prepared]
            everything = [generation for group in groups for generation in group]
            await run_all(everything)
    kept = [generation for group in groups for generation in _best(group, n)]
    answers = [Choice(here, body, index, generation) for index, generation in enumerate(kept)]
    choices = [answer.whole() for answer in (strict.as_finished(answers) if here.strict else answers)]
    prompt_tokens = sum(len(each.prompt) for each in prepared)
    characters = sum(len(each.inputs) for each in prepared)
    headers = compute_headers(here, watch, everything, characters=characters, prompt_tokens=prompt_tokens)
    del headers["x-compute-time"]  # TGI leaves it out on this route
    return _completion(label, choices, usage(prompt_tokens, [] if scores_only(body) else everything)), headers


def _best(group: list[Generation], n: int) -> list[Generation]:
    """The `n` with the highest mean score, best first; all as they are where none is left over."""
    if len(group) == n:
        return group
    return sorted(group, key=lambda generation: generation.mean_logprob, reverse=True)[:n]


async def _events(here: Service, body: CompletionBody, label: Label) -> AsyncGenerator[bytes, None]:
    """One chunk for each token; with `echo` a first one for the prompt.

    Usage goes where `stream_options` says. Without them it is on the last chunk of each answer, where TGI
    puts it.
    """
    prompts = _prompts(body)
    with observed(here.metrics) as watch:
        n, _ = _check(here, body, prompts)
        with here.permits.hold(len(prompts) * n):
            prepared = await _prepare(here, body, prompts, n, watch)
            generations = [Generation(here, one, watch) for each in prepared for one in each.candidates(n)]
            choices = [Choice(here, body, index, each) for index, each in enumerate(generations)]
            prompt_tokens = sum(len(each.prompt) for each in prepared)
            running = RunningUsage(body.stream_options, prompt_tokens)
            async with aclosing(merge(generations)) as steps:
                async for step in steps:
                    chunks = []
                    made = list(choices[step.index].stream(step))
                    echoed = max(0, len(made) - len(step.pieces))  # the prompt, which is no new token
                    for i, choice in enumerate(made):
                        used = running.count(i >= echoed) or _tgi_usage(body, choice, generations[step.index])
                        chunks.append(event(encode(_completion(label, [choice], used))))
                    yield b"".join(chunks)
        if running.at_the_end:
            total = usage(prompt_tokens, [] if scores_only(body) else generations)
            yield event(encode(_completion(label, [], total, stream_timings(body.timings, generations))))


def _tgi_usage(body: CompletionBody, choice: CompletionChoice, generation: Generation) -> Usage | None:
    if body.stream_options is not None or not choice.finish_reason:
        return None
    return usage(len(generation.prepared.prompt), [] if scores_only(body) else [generation])


def _completion(
    label: Label,
    choices: list[CompletionChoice],
    used: Usage | None,
    timings: Timings | UnsetType = UNSET,
) -> Completion:
    return Completion(
        id=label.id,
        created=label.created,
        model=label.model,
        system_fingerprint=SYSTEM_FINGERPRINT,
        choices=choices,
        usage=used,
        timings=timings,
    )


ENDPOINTS = (
    Endpoint(
        method="POST",
        path="/v1/completions",
        handler=completions,
        summary="Continue prompts",
        tag="OpenAI",
        body=CompletionBody,
        answer=Completion,
        event=Completion,
        errors=(424, 429, 500, 503),
    ),
)
