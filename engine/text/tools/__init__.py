"""Tools on both sides of a model: how a prompt offers them, and how an answer calls them.

`events` are what reading an answer finds, `parser` finds it in the `formats` of the families, from calls that
`call` and `json_scan` read character by character; `prompt` is the other side; `forced` makes the grammar of an
answer that must call.
"""

from engine.text.tools.events import CallArguments, CallStarted, Text, Tool, ToolEvent
from engine.text.tools.formats import FORMATS, detect_format
from engine.text.tools.parser import ToolCallParser

__all__ = [
    "FORMATS",
    "CallArguments",
    "CallStarted",
    "Text",
    "Tool",
    "ToolCallParser",
    "ToolEvent",
    "detect_format",
]
