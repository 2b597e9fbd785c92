"""How the model of this server writes thoughts and calls, and the reading of them out of one answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from uuid import uuid4

from engine.server.service import Service
from engine.text.chat import ChatTemplate
from engine.text.output import Piece
from engine.text.reasoning import TAGS, Reasoning, ReasoningParser, detect_tags
from engine.text.tokenizer import Tokenizer
from engine.text.tools import FORMATS, CallArguments, CallStarted, Text, ToolCallParser, detect_format

Event = Text | Reasoning | CallStarted | CallArguments


@dataclass(frozen=True, kw_only=True)
class Style:
    """What options and the chat template say of a model's answers."""

    template: str  # its source; empty where the model has none
    calls: str  # a name of FORMATS
    reads_calls: bool  # rather than leave them in the text
    tags: tuple[str, str] | None  # around thoughts; None = not told apart
    special: Mapping[str, int]  # the ids of the special tokens by their texts

    @property
    def bare(self) -> bool:
        """Whether calls begin without a marker."""
        return bool(FORMATS[self.calls].bare)


def style_of(here: Service, with_tools: bool) -> Style:
    options = here.options
    reasoning = "none" if here.strict and options.reasoning_parser == "auto" else options.reasoning_parser
    return _style(here.tokenizer, here.tokenizer.chat, options.tool_call_parser, reasoning, with_tools)


@lru_cache(maxsize=8)
def _style(tokenizer: Tokenizer, chat: ChatTemplate | None, calls: str, reasoning: str, with_tools: bool) -> Style:
    templates = chat.templates if chat is not None else {}
    name = "tool_use" if with_tools and "tool_use" in templates else "default"
    template = templates.get(name, "")
    tags = detect_tags(template)
    if reasoning != "auto":
        tags = (tags or TAGS[0]) if reasoning == "think" else None
    return Style(
        template=template,
        calls=calls if calls in FORMATS else detect_format(template),
        reads_calls=calls != "none",
        tags=tags,
        special={tokenizer.token_text(token_id): token_id for token_id in tokenizer.special_ids},
    )


class Reading:
    """Reads one answer. Special tokens have no text, but those that mark thoughts and calls do here."""

    def __init__(
        self, here: Service, style: Style, tools: Sequence[str], *, thinks: bool, eager: bool, one_call: bool
    ) -> None:
        self._reasoning = None if style.tags is None else ReasoningParser(style.tags, opened=thinks)
        self._calls: ToolCallParser | None = None
        shown = [*(style.tags or ())]
        if tools and style.reads_calls:
            parser = FORMATS[style.calls]
            limit = 1 if one_call or here.strict else None
            self._calls = parser(tools, lambda: _new_id(here, style), eager=eager, limit=limit)
            shown += [*parser.markers, *parser.others]
        self._shown = {style.special[text]: text for text in shown if text in style.special}
        self._hides_special = here.strict  # there TGI's streams run below, where special tokens have their texts

    @property
    def plain(self) -> bool:
        """Whether all of the answer is text."""
        return self._reasoning is None and self._calls is None

    @property
    def has_called(self) -> bool:
        return self._calls is not None and self._calls.whole_calls > 0

    def read(self, piece: Piece) -> list[Event]:
        text = piece.text
        if piece.special:
            text = ("" if self._hides_special else text) + self._shown.get(piece.id, "")
        if not text:
            return []
        if self._reasoning is None:
            return [Text(text)] if self._calls is None else [*self._calls.push(text)]
        return self._calls_in(self._reasoning.push(text))

    def finish(self) -> list[Event]:
        """No more pieces: what was held back."""
        events: list[Event] = []
        if self._reasoning is not None:
            events += self._calls_in(self._reasoning.finish())
        if self._calls is not None:
            events += self._calls.finish()
        return events

    def _calls_in(self, events: Sequence[Text | Reasoning]) -> list[Event]:
        if self._calls is None:
            return [*events]
        found: list[Event] = []
        for event in events:
            found += self._calls.push(event.text) if isinstance(event, Text) else [event]
        return found


def _new_id(here: Service, style: Style) -> str:
    """TGI's calls are all called 0; Mistral's templates want nine characters."""
    if here.strict:
        return "0"
    return uuid4().hex[:9] if style.calls == "mistral" else f"call_{uuid4().hex[:24]}"
