"""The output of a response as it grows: its items, and the events that tell a stream of them.

An item is a message, a tool call or a thought. One is open at a time; what does not belong to it closes it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any
from uuid import uuid4

from engine.server.conversation import Event, Reasoning, Step
from engine.server.schema.responses import (
    ArgumentsDelta,
    ArgumentsDone,
    ItemAdded,
    ItemDone,
    OutputCall,
    OutputItem,
    OutputLogprob,
    OutputMessage,
    OutputText,
    OutputTextDelta,
    OutputTextDone,
    OutputTopLogprob,
    PartAdded,
    PartDone,
    ReasoningDelta,
    ReasoningDone,
    ReasoningItem,
    ReasoningText,
    ResponseEvent,
    Status,
)
from engine.text.output import Piece
from engine.text.tokenizer import Tokenizer
from engine.text.tools import CallArguments, CallStarted, Text

Scores = Callable[[Sequence[Piece]], list[OutputLogprob]]


def new_id(prefix: str) -> str:
    return f"{prefix}_{uuid4().hex}"


def scores(tokenizer: Tokenizer, alternatives: int) -> Scores:
    """What makes log probabilities of pieces, each with so many of the best tokens at its place."""

    def made(pieces: Sequence[Piece]) -> list[OutputLogprob]:
        found = []
        for piece in pieces:
            if piece.special:  # no part of the text
                continue
            top = []
            for score in piece.top[:alternatives]:
                other = tokenizer.token_text(score.id)
                top.append(OutputTopLogprob(token=other, logprob=score.logprob, bytes=list(other.encode())))
            text = tokenizer.token_text(piece.id)
            logprob = float("nan") if piece.logprob is None else piece.logprob
            found.append(OutputLogprob(token=text, logprob=logprob, bytes=list(text.encode()), top_logprobs=top))
        return found

    return made


class _Growing(ABC):
    """An item that is not finished. `numbers` counts the events of the whole stream."""

    def __init__(self, prefix: str, index: int, numbers: Iterator[int]) -> None:
        self.id = new_id(prefix)
        self._index = index
        self._numbers = numbers
        self._texts: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self._texts)

    def _at(self) -> dict[str, Any]:
        """What the next event of the item says about where it belongs."""
        return {"sequence_number": next(self._numbers), "item_id": self.id, "output_index": self._index}

    @abstractmethod
    def item(self, status: Status) -> OutputItem: ...

    @abstractmethod
    def add(self, text: str, logprobs: list[OutputLogprob]) -> Iterator[ResponseEvent]: ...

    def begin(self) -> Iterator[ResponseEvent]:
        item = self.item("in_progress")
        yield ItemAdded(sequence_number=next(self._numbers), output_index=self._index, item=item)

    def end(self, status: Status) -> Iterator[ResponseEvent]:
        yield ItemDone(sequence_number=next(self._numbers), output_index=self._index, item=self.item(status))


class _Message(_Growing):
    def __init__(self, index: int, numbers: Iterator[int]) -> None:
        super().__init__("msg", index, numbers)
        self._logprobs: list[OutputLogprob] = []

    def item(self, status: Status) -> OutputMessage:
        return OutputMessage(id=self.id, status=status, content=[] if status == "in_progress" else [self._part()])

    def _part(self) -> OutputText:
        return OutputText(text=self.text, logprobs=self._logprobs)

    def begin(self) -> Iterator[ResponseEvent]:
        yield from super().begin()
        yield PartAdded(**self._at(), part=OutputText(text=""))

    def add(self, text: str, logprobs: list[OutputLogprob]) -> Iterator[ResponseEvent]:
        self._texts.append(text)
        self._logprobs += logprobs
        yield OutputTextDelta(**self._at(), delta=text, logprobs=logprobs)

    def end(self, status: Status) -> Iterator[ResponseEvent]:
        part = self._part()
        yield OutputTextDone(**self._at(), text=part.text, logprobs=part.logprobs)
        yield PartDone(**self._at(), part=part)
        yield from super().end(status)


class _Thought(_Growing):
    def __init__(self, index: int, numbers: Iterator[int]) -> None:
        super().__init__("rs", index, numbers)

    def item(self, status: Status) -> ReasoningItem:
        content = [] if status == "in_progress" else [ReasoningText(text=self.text)]
        return ReasoningItem(id=self.id, status=status, content=content)

    def begin(self) -> Iterator[ResponseEvent]:
        yield from super().begin()
        yield PartAdded(**self._at(), part=ReasoningText(text=""))

    def add(self, text: str, logprobs: list[OutputLogprob]) -> Iterator[ResponseEvent]:
        self._texts.append(text)
        yield ReasoningDelta(**self._at(), delta=text)

    def end(self, status: Status) -> Iterator[ResponseEvent]:
        part = ReasoningText(text=self.text)
        yield ReasoningDone(**self._at(), text=part.text)
        yield PartDone(**self._at(), part=part)
        yield from super().end(status)


class _Call(_Growing):
    def __init__(self, index: int, numbers: Iterator[int], started: CallStarted) -> None:
        super().__init__("fc", index, numbers)
        self._started = started

    def item(self, status: Status) -> OutputCall:
        call = self._started
        return OutputCall(id=self.id, status=status, call_id=call.id, name=call.name, arguments=self.text)

    def add(self, text: str, logprobs: list[OutputLogprob]) -> Iterator[ResponseEvent]:
        self._texts.append(text)
        yield ArgumentsDelta(**self._at(), delta=text)

    def end(self, status: Status) -> Iterator[ResponseEvent]:
        yield ArgumentsDone(**self._at(), name=self._started.name, arguments=self.text)
        yield from super().end(status)


class Output:
    """Read the steps of an answer. `items` are the finished ones; `scores` is given where they are wanted."""

    def __init__(self, scores: Scores | None) -> None:
        self.items: list[OutputItem] = []
        self.reasoning_tokens = 0
        self.numbers = count()
        self._scores = scores
        self._open: _Growing | None = None
        self._pieces: list[Piece] = []  # tokens whose text has not come yet

    def read(self, step: Step) -> Iterator[ResponseEvent]:
        self._pieces += step.pieces
        for event in step.events:
            if not isinstance(event, CallStarted) and not event.text:
                continue
            pieces, self._pieces = self._pieces, []
            if isinstance(event, Reasoning):
                self.reasoning_tokens += len(pieces)
            if not self._continues(event):
                yield from self._begin(event)
            if not isinstance(event, CallStarted):
                assert self._open is not None
                yield from self._open.add(event.text, self._scores(pieces) if self._scores else [])

    def finish(self, status: Status) -> Iterator[ResponseEvent]:
        """Close the last item. An answer without any is a message without text."""
        if self._open is None and not self.items:
            yield from self._begin(Text(""))
        yield from self._close(status)

    def _continues(self, event: Event) -> bool:
        match event:
            case Text():
                return isinstance(self._open, _Message)
            case Reasoning():
                return isinstance(self._open, _Thought)
            case CallArguments():
                return isinstance(self._open, _Call)
        return False

    def _begin(self, event: Event) -> Iterator[ResponseEvent]:
        yield from self._close("completed")
        index = len(self.items)
        match event:
            case Text():
                self._open = _Message(index, self.numbers)
            case Reasoning():
                self._open = _Thought(index, self.numbers)
            case CallStarted():
                self._open = _Call(index, self.numbers, event)
            case CallArguments():
                raise AssertionError("arguments of a call that has not started")
        assert self._open is not None
        yield from self._open.begin()

    def _close(self, status: Status) -> Iterator[ResponseEvent]:
        if self._open is not None:
            yield from self._open.end(status)
            self.items.append(self._open.item(status))
            self._open = None
