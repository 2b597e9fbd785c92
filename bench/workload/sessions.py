"""Conversations: made-up ones, and the answers that go into a later turn before it is sent."""

import random
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate

import msgspec

from bench.api.decode import decode
from bench.api.encode import RequestOptions, encode
from bench.api.target import Target
from bench.types import Item, PlannedRequest, RawStream
from bench.workload.items import Workload, sampler
from bench.workload.synthetic import Writer, output_lengths
from bench.workload.tokens import TokenCounter

Message = dict[str, str]


def conversation(user: Sequence[str]) -> list[list[Message]]:
    """The messages of each turn. The answers in between are still empty, but have their places."""
    turns: list[list[Message]] = []
    messages: list[Message] = []
    for text in user:
        if messages:
            messages = [*messages, {"role": "assistant", "content": ""}]
        messages = [*messages, {"role": "user", "content": text}]
        turns.append(messages)
    return turns


def with_answers(messages: Sequence[Mapping[str, str]], answers: Sequence[str]) -> list[Message]:
    """The messages with their empty answers filled in, in order. Missing ones stay empty."""
    given = iter(answers)
    return [
        {**message, "content": next(given, "")}
        if message["role"] == "assistant" and not message["content"]
        # a copy, so that what was planned stays as it was
        else dict(message)
        for message in messages
    ]


def filler(
    target: Target, options: RequestOptions, items: Sequence[Item]
) -> Callable[[PlannedRequest, list[RawStream]], bytes]:
    """The `fill_turn` of `bench.client.pool.run_load`: a later turn's request, once the earlier turns have ended."""
    by_index = {item.index: item for item in items}

    def fill(planned: PlannedRequest, earlier: list[RawStream]) -> bytes:
        item = by_index[planned.index]
        records = [decode(raw, target, by_index[raw.index]) for raw in earlier]
        answers = [record.text for record in sorted(records, key=lambda record: record.turn)]
        messages = with_answers(planned.messages or _messages(item), answers)
        return encode(target, msgspec.structs.replace(item, prompt=messages), options)

    return fill


def _messages(item: Item) -> list[Message]:
    assert isinstance(item.prompt, list)
    return [message for message in item.prompt if isinstance(message, dict)]


def turn_items(
    turns: Sequence[Sequence[Message]],
    inputs: Sequence[int],
    outputs: Sequence[int | None],
    *,
    first_index: int,
    session: int,
) -> list[Item]:
    """The items of one conversation. A later prompt is as long as all before it together with its answers.

    That length is an estimate: answers may end early, and templates add tokens of their own.
    """
    given = accumulate(inputs)
    answered = accumulate([0, *(length or 0 for length in outputs[:-1])])
    return [
        Item(
            index=first_index + turn,
            prompt=list(messages),
            input_tokens=own + before,
            input_estimated=True,
            output_tokens=outputs[turn],
            session=session,
            turn=turn,
        )
        for turn, (messages, own, before) in enumerate(zip(turns, given, answered, strict=True))
    ]


def items(workload: Workload, count: int, tokens: TokenCounter) -> list[Item]:
    """Made-up conversations, `count` turns in all; the last conversation is cut short where they do not divide."""
    rng = random.Random(workload.seed)  # noqa: S311  # a workload, not a secret
    draw_turns, draw_in = sampler(workload.turns, "--turns"), sampler(workload.in_tokens, "--in")
    writer = Writer(tokens, rng)
    sizes: list[int] = []
    while sum(sizes) < count:
        sizes.append(min(draw_turns(rng), count - sum(sizes)))
    texts, lengths = writer.write([draw_in(rng) for _ in range(count)])
    outputs = output_lengths(workload, count, rng)
    made: list[Item] = []
    for session, size in enumerate(sizes):
        here = slice(len(made), len(made) + size)
        made += turn_items(
            conversation(texts[here]), lengths[here], outputs[here], first_index=len(made), session=session
        )
    return made
