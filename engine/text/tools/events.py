"""Tools as a model is told of them, and what reading its answer finds."""

from dataclasses import dataclass
from typing import Any

from msgspec import Struct


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A function that a model may ask its user to call."""

    name: str
    description: str | None = None
    parameters: dict[str, Any]  # a JSON schema of its arguments
    strict: bool = False


class Text(Struct, frozen=True):
    text: str


class CallStarted(Struct, frozen=True):
    index: int
    id: str
    name: str


class CallArguments(Struct, frozen=True):
    """A part of the arguments of a call; joined, the parts are JSON."""

    index: int
    text: str


ToolEvent = Text | CallStarted | CallArguments
