"""Splits an answer into what the model thought, between two tags at its start, and what it said after that."""

from msgspec import Struct

from engine.text.tools import Text

SPACE = " \t\r\n"
TAGS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))  # of Qwen, DeepSeek, SmolLM; of Mistral


class Reasoning(Struct, frozen=True):
    """What the model thinks before it answers."""

    text: str


def detect_tags(template: str) -> tuple[str, str] | None:
    """The tags that a chat template shows; None where it shows none."""
    return next((tags for tags in TAGS if tags[0] in template or tags[1] in template), None)


def is_open(text: str, tags: tuple[str, str]) -> bool:
    """Whether a text ends in thoughts."""
    return text.rfind(tags[0]) > text.rfind(tags[1])


class ReasoningParser:
    """`push` the text of an answer in any portions, then `finish`; together they return what was in it.

    Thoughts begin with the first tag, where nothing but spaces stands before it, or at once if the prompt has
    opened them (`opened`; the model may repeat the tag). They end with the second tag, or with the answer. The
    spaces around either tag belong to nobody. Joined, the events do not depend on the portions.
    """

    def __init__(self, tags: tuple[str, str], *, opened: bool = False) -> None:
        self._start, self._end = tags
        self._opened = opened
        self._state = "before"  # then thinking, behind (the second tag, before any text), text
        self._waiting = ""  # what is not decided on
        self._thought = False  # something was thought

    def push(self, text: str) -> list[Text | Reasoning]:
        if self._state == "text":
            return [Text(text)] if text else []
        self._waiting += text
        events: list[Text | Reasoning] = []
        if self._state == "before":
            self._begin()
        if self._state == "thinking":
            self._think(events)
        if self._state == "behind":
            self._waiting = self._waiting.lstrip(SPACE)
            if self._waiting:
                self._state = "text"
        if self._state == "text" and self._waiting:
            events.append(Text(self._waiting))
            self._waiting = ""
        return events

    def finish(self) -> list[Text | Reasoning]:
        """No more text. A tag that is not whole is what it stands in."""
        rest, self._waiting = self._waiting, ""
        if self._state == "thinking" or (self._state == "before" and self._opened):
            rest = rest.strip(SPACE) if not self._thought else rest.rstrip(SPACE)
            return [Reasoning(rest)] if rest else []
        return [Text(rest)] if rest and self._state != "behind" else []

    def _begin(self) -> None:
        """Find out how the answer begins."""
        stripped = self._waiting.lstrip(SPACE)
        if stripped.startswith(self._start):
            self._state, self._waiting = "thinking", stripped[len(self._start) :]
        elif not self._start.startswith(stripped):
            self._state = "thinking" if self._opened else "text"

    def _think(self, events: list[Text | Reasoning]) -> None:
        """Pass thoughts on up to the second tag, or up to what may be its beginning and the spaces before it."""
        text = self._waiting if self._thought else self._waiting.lstrip(SPACE)
        at = text.find(self._end)
        ended = at >= 0
        if not ended:
            at = next(
                i
                for i in range(max(0, len(text) - len(self._end) + 1), len(text) + 1)
                if self._end.startswith(text[i:])
            )
        thoughts = text[:at].rstrip(SPACE)
        if thoughts:
            self._thought = True
            events.append(Reasoning(thoughts))
        if ended:
            self._state, self._waiting = "behind", text[at + len(self._end) :]
        else:
            self._waiting = text[len(thoughts) :]
