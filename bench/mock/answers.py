"""Answers as bytes: what is sent, in which pieces, and how many tokens each of them carries.

A script is made when its request arrives, not while it runs; most of it is shared with earlier requests that asked
for as many tokens.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from bench.mock import tokens
from bench.mock.asked import Asked
from bench.mock.behaviour import Behaviour, Fault
from bench.types import Api

CONTENT, REASONING, TOOL = "content", "reasoning", "tool"
SHARED_SCRIPTS = 1024

_encode = msgspec.json.Encoder().encode


class OutputEvent(NamedTuple):
    data: bytes  # framed as it is sent
    tokens: int
    kind: str


class Script(NamedTuple):
    """`sends[i]` brings `events[i]` output events. Before it are `weights[i]` gaps, before the first one the TTFT."""

    sends: list[bytes]
    weights: list[int]
    events: list[int]
    tokens: list[int]  # of each output event
    kinds: list[str]
    opening: bytes = b""  # sent at once
    closes: bool = False  # the connection is closed behind it
    hangs: bool = False  # nothing follows, and the connection stays open


class Author:
    """Writes the scripts of one behaviour."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._shared: dict[tuple[Any, ...], list[OutputEvent]] = {}

    def script(self, asked: Asked, fault: Fault | None = None) -> Script:
        """Of a streaming request."""
        behaviour = self._behaviour
        opening = b""
        if asked.api is Api.CHAT and behaviour.role == "early":
            opening = self._frame(_event(self._chat({"role": "assistant", "content": ""})))
        if fault is None:
            events, ending = self._events(asked), self._ending(asked)
        else:
            events, ending = self._until(asked, fault)
        script = self._timed(events, ending)
        closes = fault is not None and fault.kind == "cut"
        return script._replace(
            opening=opening,
            closes=closes or behaviour.framing == "close" or behaviour.connection == "close",
            hangs=fault is not None and fault.kind == "hang",
        )

    def whole(self, asked: Asked) -> bytes:
        """The JSON answer of a request that does not stream."""
        text = _text(range(asked.output_tokens))
        usage = self._usage(asked, asked.output_tokens)
        if asked.api is Api.TGI:
            answer: dict[str, Any] = {"generated_text": text}
            if asked.details:
                answer["details"] = self._details(asked) | {"prefill": [], "tokens": []}
            return _encode(answer)
        choice: dict[str, Any] = {"index": 0, "finish_reason": asked.finish_reason}
        if asked.api is Api.CHAT:
            return _encode(
                self._labelled("chat.completion")
                | {"choices": [choice | {"message": {"role": "assistant", "content": text}}], "usage": usage}
            )
        return _encode(self._labelled("text_completion") | {"choices": [choice | {"text": text}], "usage": usage})

    # What is sent

    def _frame(self, data: bytes) -> bytes:
        return data if self._behaviour.framing == "close" else b"%x\r\n%b\r\n" % (len(data), data)

    def _timed(self, events: list[OutputEvent], ending: bytes) -> Script:
        """Group the events into sends, with comments before some; the ending follows the last one at once."""
        behaviour, size = self._behaviour, self._behaviour.coalesce
        sends, weights, counts = [], [], []
        comment = self._frame(b": still here\n\n")
        for start in range(0, len(events), size):
            group = events[start : start + size]
            commented = bool(behaviour.comments) and -start % behaviour.comments < len(group)
            if commented:
                sends.append(comment)
                weights.append(len(group))
                counts.append(0)
            sends.append(b"".join(event.data for event in group))
            weights.append(0 if commented else len(group))
            counts.append(len(group))
        if ending:
            sends.append(ending)
            weights.append(0)
            counts.append(0)
        return Script(sends, weights, counts, [event.tokens for event in events], [event.kind for event in events])

    def _until(self, asked: Asked, fault: Fault) -> tuple[list[OutputEvent], bytes]:
        """The events before a fault, and what comes in place of the ending."""
        if fault.kind == "empty":
            finish = b"" if asked.api is Api.TGI else self._frame(self._finish(asked))
            return [], finish + self._ending(asked._replace(output_tokens=0), finished=True)
        events: list[OutputEvent] = []
        sent = 0
        for event in self._events(asked):
            if sent >= fault.value:
                break
            events.append(event)
            sent += event.tokens
        if fault.kind == "error":
            return events, self._frame(_event(self._error(asked))) + self._frame_end()
        return events, self._frame_end() if fault.kind == "end" else b""

    def _frame_end(self) -> bytes:
        return b"" if self._behaviour.framing == "close" else b"0\r\n\r\n"

    def _events(self, asked: Asked) -> list[OutputEvent]:
        """All events with tokens; those before the last are shared by requests that ask for the same."""
        continuous = asked.usage == "continuous"
        key = (asked.api, asked.output_tokens, asked.token_ids, asked.prompt_tokens if continuous else None)
        groups = list(self._groups(asked))
        shared = self._shared.get(key)
        if shared is None:
            if len(self._shared) >= SHARED_SCRIPTS:
                self._shared.clear()
            shared = self._shared[key] = [self._event(asked, *group, last=False) for group in groups[:-1]]
        return [*shared, self._event(asked, *groups[-1], last=True)]

    def _groups(self, asked: Asked) -> Iterator[tuple[int, int, str]]:
        """(first position, tokens, kind) of each event."""
        behaviour, total = self._behaviour, asked.output_tokens
        reasoning = min(behaviour.reasoning, total) if asked.api is Api.CHAT else 0
        tools = min(behaviour.tools, total - reasoning) if asked.api is Api.CHAT else 0
        sizes = (1,) if asked.api is Api.TGI else behaviour.tokens_per_event
        turn = position = 0
        for end, kind in ((reasoning, REASONING), (total - tools, CONTENT), (total, TOOL)):
            while position < end:
                size = min(sizes[turn % len(sizes)], end - position)
                yield position, size, kind
                position += size
                turn += 1

    def _event(self, asked: Asked, first: int, size: int, kind: str, *, last: bool) -> OutputEvent:
        positions = range(first, first + size)
        if asked.api is Api.TGI:
            payload = self._tgi(asked, first, last=last)
        else:
            reason = asked.finish_reason if last and self._behaviour.finish == "with_last" else None
            if asked.api is Api.CHAT:
                payload = self._chat(self._delta(positions, kind), "tool_calls" if reason and kind == TOOL else reason)
            else:
                payload = self._completion(_text(positions), reason)
            if asked.token_ids:
                payload["choices"][0]["token_ids"] = [tokens.piece_id(tokens.output_piece(i)) for i in positions]
            if asked.usage == "continuous" or (asked.usage == "last_choice" and last):
                payload["usage"] = self._usage(asked, first + size)
            if last and self._behaviour.timings == "llama.cpp":
                payload["timings"] = self._timings(asked)
        return OutputEvent(self._frame(_event(payload)), size, kind)

    def _ending(self, asked: Asked, *, finished: bool = False) -> bytes:
        """What follows the last token, in one send: the rest of the events, and the end of the body."""
        parts = []
        if asked.api is not Api.TGI:
            if self._behaviour.finish == "own" and not finished:
                parts.append(self._finish(asked))
            if asked.usage in ("final", "continuous"):
                payload = self._chat(None) if asked.api is Api.CHAT else self._completion(None, None)
                parts.append(_event(payload | {"usage": self._usage(asked, asked.output_tokens)}))
            parts.append(b"data: [DONE]\n\n")
        return b"".join(self._frame(part) for part in parts) + self._frame_end()

    # The payloads

    def _labelled(self, kind: str) -> dict[str, Any]:
        return {"id": "mock", "object": kind, "created": 0, "model": self._behaviour.model}

    def _chat(self, delta: dict[str, Any] | None, reason: str | None = None) -> dict[str, Any]:
        choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": reason}]
        return self._labelled("chat.completion.chunk") | {"choices": choices}

    def _completion(self, text: str | None, reason: str | None) -> dict[str, Any]:
        choices = [] if text is None else [{"index": 0, "text": text, "finish_reason": reason}]
        return self._labelled("text_completion") | {"choices": choices}

    def _delta(self, positions: range, kind: str) -> dict[str, Any]:
        behaviour, text = self._behaviour, _text(positions)
        role = {"role": "assistant"} if positions.start == 0 and behaviour.role == "first" else {}
        if kind == REASONING:
            return role | {behaviour.reasoning_field: text}
        if kind == CONTENT:
            return role | {"content": text}
        return role | {"tool_calls": [{"index": 0, "function": {"name": None, "arguments": text}}]}

    def _finish(self, asked: Asked) -> bytes:
        if asked.api is Api.CHAT:
            return _event(self._chat({}, asked.finish_reason))
        return _event(self._completion("", asked.finish_reason))

    def _tgi(self, asked: Asked, position: int, *, last: bool) -> dict[str, Any]:
        piece = tokens.output_piece(position)
        token = {"id": tokens.piece_id(piece), "text": piece, "logprob": -0.5, "special": False}
        return {
            "index": position + 1,
            "token": token,
            "generated_text": _text(range(position + 1)) if last else None,
            "details": self._details(asked) if last and asked.details else None,
        }

    def _details(self, asked: Asked) -> dict[str, Any]:
        return {
            "finish_reason": "length" if asked.finish_reason == "length" else "eos_token",
            "generated_tokens": asked.output_tokens,
            "seed": None,
            "input_length": asked.prompt_tokens,
        }

    def _usage(self, asked: Asked, generated: int) -> dict[str, Any]:
        usage: dict[str, Any] = {
            "prompt_tokens": asked.prompt_tokens,
            "completion_tokens": generated,
            "total_tokens": asked.prompt_tokens + generated,
        }
        if self._behaviour.cached_tokens:
            cached = min(self._behaviour.cached_tokens, asked.prompt_tokens)
            usage["prompt_tokens_details"] = {"cached_tokens": cached}
        return usage

    def _timings(self, asked: Asked) -> dict[str, Any]:
        return {
            "prompt_n": asked.prompt_tokens,
            "prompt_ms": self._behaviour.ttft_ms,
            "predicted_n": asked.output_tokens,
            "predicted_ms": self._behaviour.itl_ms * asked.output_tokens,
        }

    def _error(self, asked: Asked) -> dict[str, Any]:
        message = "the mock was told to fail here"
        if asked.api is Api.TGI:
            return {"error": message, "error_type": "generation"}
        return {"error": {"message": message, "type": "server_error", "code": 500}}


def _event(payload: dict[str, Any]) -> bytes:
    return b"data: " + _encode(payload) + b"\n\n"


def _text(positions: range) -> str:
    return "".join(tokens.output_piece(position) for position in positions)
