"""The content of one of Anthropic's messages as it grows: its blocks, and the events that tell a stream of them."""

from collections.abc import Iterator
from typing import Any

import msgspec

from engine.server.conversation import Event, Reasoning
from engine.server.schema.messages import (
    BlockDelta,
    BlockStart,
    BlockStop,
    ContentBlock,
    InputJSONDelta,
    MessagesEvent,
    Ping,
    SignatureDelta,
    TextBlock,
    TextDelta,
    ThinkingBlock,
    ThinkingDelta,
    ToolUseBlock,
)
from engine.text.tools import CallArguments, CallStarted, Text


class Content:
    """Read what happens in an answer. One block is open at a time; `blocks` are the finished ones."""

    def __init__(self) -> None:
        self.blocks: list[ContentBlock] = []
        self._open: Text | Reasoning | CallStarted | None = None  # what the open block began with
        self._texts: list[str] = []

    def read(self, event: Event) -> Iterator[MessagesEvent]:
        if isinstance(event, CallStarted):
            yield from self._begin(event)
        elif event.text:
            if not self._continues(event):
                assert not isinstance(event, CallArguments), "arguments of a call that has not started"
                yield from self._begin(event)
            self._texts.append(event.text)
            yield BlockDelta(index=len(self.blocks), delta=_delta(event))

    def close(self) -> Iterator[MessagesEvent]:
        """Finish the open block, if there is one."""
        if self._open is None:
            return
        index, block = len(self.blocks), _block(self._open, "".join(self._texts))
        if isinstance(block, ThinkingBlock):
            yield BlockDelta(index=index, delta=SignatureDelta(signature=block.signature))
        yield BlockStop(index=index)
        self.blocks.append(block)
        self._open, self._texts = None, []

    def _continues(self, event: Text | Reasoning | CallArguments) -> bool:
        kind = CallStarted if isinstance(event, CallArguments) else type(event)
        return isinstance(self._open, kind)

    def _begin(self, event: Text | Reasoning | CallStarted) -> Iterator[MessagesEvent]:
        yield from self.close()
        self._open = event
        yield BlockStart(index=len(self.blocks), content_block=_block(event, ""))
        if not self.blocks:
            yield Ping()


def _delta(event: Text | Reasoning | CallArguments) -> TextDelta | ThinkingDelta | InputJSONDelta:
    match event:
        case Text(text):
            return TextDelta(text=text)
        case Reasoning(text):
            return ThinkingDelta(thinking=text)
        case CallArguments():
            return InputJSONDelta(partial_json=event.text)


def _block(begun: Text | Reasoning | CallStarted, text: str) -> ContentBlock:
    match begun:
        case Text():
            return TextBlock(text=text)
        case Reasoning():
            return ThinkingBlock(thinking=text)
        case CallStarted():
            return ToolUseBlock(id=begun.id, name=begun.name, input=_input(text))


def _input(text: str) -> dict[str, Any]:
    """The arguments of a call; empty where the answer ended in the middle of them."""
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError:
        return {}
