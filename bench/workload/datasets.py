"""Prompts from files: ShareGPT's JSON, and JSON lines with `prompt`, `text` or `messages`. Only JSON is ever read."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench.types import Item, UsageError
from bench.workload.items import Workload, sampler
from bench.workload.sessions import Message, conversation, turn_items
from bench.workload.synthetic import output_lengths
from bench.workload.tokens import TokenCounter


class Entry(msgspec.Struct, kw_only=True):
    """One line of a file: a prompt, or the user's side of a conversation, with the answers' lengths if known."""

    prompt: str | list[Message] = ""
    user: list[str] = []  # of a conversation with several turns
    answers: list[str] = []  # which the file has; their lengths are asked for
    output_tokens: int | None = None


def read(path: Path) -> list[Entry]:
    """Raises UsageError, with the line where there is one, for a file that is not what it should be."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    entries = list(_sharegpt(path, raw) if raw.lstrip()[:1] == b"[" else _lines(path, raw))
    if not entries:
        raise UsageError(f"{path} has no prompt")
    return entries


def _lines(path: Path, raw: bytes) -> Iterator[Entry]:
    for number, line in enumerate(raw.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            fields = msgspec.json.decode(line)
            yield _entry(fields)
        except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
            raise UsageError(f"{path}, line {number}: {error}") from None


def _entry(fields: Any) -> Entry:
    """Raises ValueError."""
    if not isinstance(fields, dict):
        raise ValueError("a line must be a JSON object")
    if "conversations" in fields:
        return _conversation(fields)
    output = fields.get("output_tokens", fields.get("max_tokens"))
    if output is not None and (not isinstance(output, int) or output < 1):
        raise ValueError(f"`output_tokens` must be a whole number above 0. Given: {output!r}")
    if "messages" in fields:
        messages = msgspec.convert(fields["messages"], list[Message])
        if not messages or any(message.keys() < {"role", "content"} for message in messages):
            raise ValueError("`messages` must be a list of objects with `role` and `content`")
        return Entry(prompt=messages, output_tokens=output)
    prompt = fields.get("prompt", fields.get("text"))
    if not isinstance(prompt, str) or not prompt:
        raise ValueError("an object needs `prompt`, `text`, `messages` or `conversations`")
    return Entry(prompt=prompt, output_tokens=output)


def _conversation(fields: dict[str, Any]) -> Entry:
    """ShareGPT's: `from` is human or gpt, and some begin with gpt. Raises ValueError."""
    turns = msgspec.convert(fields["conversations"], list[dict[str, Any]])
    said = [(str(turn.get("from")), str(turn.get("value") or "")) for turn in turns]
    while said and said[0][0] not in ("human", "user"):
        said.pop(0)
    user, answers = [text for _, text in said[::2]], [text for _, text in said[1::2]]
    return Entry(prompt=user[0] if user else "", user=user, answers=answers)


def _sharegpt(path: Path, raw: bytes) -> Iterator[Entry]:
    try:
        listed = msgspec.json.decode(raw, type=list[Any])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not JSON: {error}") from None
    for number, fields in enumerate(listed):
        try:
            entry = _entry(fields)
        except (msgspec.ValidationError, ValueError) as error:
            raise UsageError(f"{path}, entry {number}: {error}") from None
        if entry.prompt:
            yield entry


def items(workload: Workload, count: int, tokens: TokenCounter, max_context: int | None) -> list[Item]:
    """`count` requests in random order, begun anew when the file is used up; what does not fit the context is left out.

    Raises UsageError where nothing fits.
    """
    assert workload.data is not None
    rng = random.Random(workload.seed)  # noqa: S311  # a workload, not a secret
    entries = read(workload.data)
    rng.shuffle(entries)
    if workload.turns != 1:
        return _sessions(workload, entries, count, tokens, rng, max_context)
    made: list[Item] = []
    while len(made) < count:
        before = len(made)
        for start in range(0, len(entries), count):
            made += _singles(workload, entries[start : start + count], tokens, rng, max_context, len(made))
            if len(made) >= count:
                break
        if len(made) == before:
            raise UsageError(f"no prompt of {workload.data} fits the server's context of {max_context} tokens")
    return made[:count]


def _text(prompt: str | list[Message]) -> str:
    return prompt if isinstance(prompt, str) else "\n".join(message["content"] for message in prompt)


def _singles(
    workload: Workload,
    entries: Sequence[Entry],
    tokens: TokenCounter,
    rng: random.Random,
    max_context: int | None,
    first_index: int,
) -> list[Item]:
    inputs = tokens.count([_text(entry.prompt) for entry in entries])
    outputs = _outputs(workload, entries, tokens, rng)
    made: list[Item] = []
    for entry, own, output in zip(entries, inputs, outputs, strict=True):
        if max_context is not None and own + (output or 1) > max_context:
            continue
        made.append(
            Item(
                index=first_index + len(made),
                prompt=entry.prompt,
                input_tokens=own,
                input_estimated=tokens.estimated or not isinstance(entry.prompt, str),
                output_tokens=output,
            )
        )
    return made


def _outputs(
    workload: Workload, entries: Sequence[Entry], tokens: TokenCounter, rng: random.Random
) -> list[int | None]:
    """The workload's lengths if it has any, else what the file asks for, else the length of the file's answer."""
    if workload.out_tokens is not None:
        return output_lengths(workload, len(entries), rng)
    answered = [entry.answers[0] for entry in entries if entry.answers]
    counts = iter(tokens.count(answered))
    measured = [next(counts) if entry.answers else None for entry in entries]
    return [entry.output_tokens or count for entry, count in zip(entries, measured, strict=True)]


def _sessions(
    workload: Workload,
    entries: Sequence[Entry],
    count: int,
    tokens: TokenCounter,
    rng: random.Random,
    max_context: int | None,
) -> list[Item]:
    """The user's side of conversations; the server's own answers are put in as they come."""
    draw_turns = sampler(workload.turns, "--turns")
    longer = [entry for entry in entries if len(entry.user) > 1]
    if not longer:
        raise UsageError(f"{workload.data} has no conversation of two turns or more: leave --turns out")
    made: list[Item] = []
    session = 0
    while len(made) < count:
        before = len(made)
        for entry in longer:
            user = entry.user[: min(draw_turns(rng), count - len(made))]
            lengths = tokens.count(user)
            outputs = _turn_outputs(workload, entry, len(user), tokens, rng)
            turns = turn_items(conversation(user), lengths, outputs, first_index=len(made), session=session)
            if max_context is not None and (turns[-1].input_tokens or 0) + (turns[-1].output_tokens or 1) > max_context:
                continue
            made += turns
            session += 1
            if len(made) >= count:
                return made
        if len(made) == before:
            raise UsageError(f"no conversation of {workload.data} fits the server's context of {max_context} tokens")
    return made


def _turn_outputs(
    workload: Workload, entry: Entry, turns: int, tokens: TokenCounter, rng: random.Random
) -> list[int | None]:
    if workload.out_tokens is not None:
        return output_lengths(workload, turns, rng)
    answers = entry.answers[:turns]
    return [*tokens.count(answers), *[None] * (turns - len(answers))]
