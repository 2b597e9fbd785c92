"""`encode`: the whole HTTP/1.1 request for an item, head and body, ready for the wire."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from bench.api.target import Target
from bench.types import Api, Item, UsageError


@dataclass(frozen=True, kw_only=True)
class RequestOptions:
    """What holds for every request of a run. `extra` goes into the body as it is, and wins over everything else."""

    temperature: float = 0.0
    seed: int | None = None
    ignore_eos: bool | None = None  # None = where the server offers it and the item sets a length
    min_tokens: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


def encode(target: Target, item: Item, options: RequestOptions) -> bytes:
    """Raises UsageError for a prompt that the target's API cannot carry, and for a header that would break the head."""
    body = msgspec.json.encode(_BODIES[target.api](target, item, options) | dict(options.extra))
    headers = {
        "Host": target.address.authority,
        "Accept": "text/event-stream",
        "Content-Type": "application/json",
        "Connection": "keep-alive",
        **target.headers,
        **options.headers,
        "Content-Length": str(len(body)),
    }
    lines = [f"POST {target.path} HTTP/1.1"]
    for name, value in headers.items():
        if any(sign in name + value for sign in "\r\n\0") or not name:
            raise UsageError(f"a header must be one line of text. Given: {name!r}: {value!r}")
        lines.append(f"{name}: {value}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1", errors="replace") + body


def as_text(prompt: str | Sequence[int] | Sequence[Mapping[str, str]]) -> str:
    """A prompt for an API without chat: a conversation is written out, ending where the assistant speaks.

    Raises UsageError for token ids.
    """
    if isinstance(prompt, str):
        return prompt
    lines = []
    for message in prompt:
        if isinstance(message, int):
            raise UsageError("this API takes text, not token ids; leave --token-ids out, or use --api openai")
        lines.append(f"{message['role']}: {message['content']}\n")
    return "".join([*lines, "assistant:"])


def _as_messages(prompt: str | Sequence[int] | Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    messages = []
    for message in prompt:
        if isinstance(message, int):
            raise UsageError("the chat API takes messages, not token ids; leave --token-ids out, or use --api openai")
        messages.append(dict(message))
    return messages


def _forces_length(target: Target, item: Item, options: RequestOptions) -> bool:
    if options.ignore_eos is not None:
        return options.ignore_eos
    return target.can_ignore_eos and item.output_tokens is not None


def _tgi(target: Target, item: Item, options: RequestOptions) -> dict[str, Any]:
    parameters: dict[str, Any] = {"details": True, "do_sample": options.temperature > 0}
    if options.temperature > 0:  # TGI refuses 0, and samples at any other
        parameters["temperature"] = options.temperature
    if item.output_tokens is not None:
        parameters["max_new_tokens"] = item.output_tokens
    if options.seed is not None:
        parameters["seed"] = options.seed
    if _forces_length(target, item, options):
        parameters["ignore_eos"] = True
    if target.kind == "ours":
        parameters["timings"] = True  # how long the request waited and ran
    return {"inputs": as_text(item.prompt), "parameters": parameters}


def _openai(target: Target, item: Item, options: RequestOptions) -> dict[str, Any]:
    stream_options = {"include_usage": True}
    if target.continuous_usage:
        stream_options["continuous_usage_stats"] = True
    body: dict[str, Any] = {
        "model": target.model,
        "stream": True,
        "stream_options": stream_options,
        "temperature": options.temperature,
    }
    if item.output_tokens is not None:
        body["max_tokens"] = item.output_tokens
    if options.seed is not None:
        body["seed"] = options.seed
    if _forces_length(target, item, options):
        body["ignore_eos"] = True
    if options.min_tokens is not None:
        body["min_tokens"] = options.min_tokens
    if target.kind == "ours":
        body["timings"] = True  # how long the request waited and ran
    if target.kind == "llama.cpp":
        body["timings_per_token"] = True  # its way to count tokens in every chunk
    return body


def _completions(target: Target, item: Item, options: RequestOptions) -> dict[str, Any]:
    is_ids = isinstance(item.prompt, list) and bool(item.prompt) and isinstance(item.prompt[0], int)
    return {"prompt": item.prompt if is_ids else as_text(item.prompt), **_openai(target, item, options)}


def _chat(target: Target, item: Item, options: RequestOptions) -> dict[str, Any]:
    return {"messages": _as_messages(item.prompt), **_openai(target, item, options)}


_BODIES = {Api.TGI: _tgi, Api.COMPLETIONS: _completions, Api.CHAT: _chat}
