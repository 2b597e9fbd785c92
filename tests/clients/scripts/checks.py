"""What the scripts share. Each runs with the Python of an environment of its own: `script.py URL`."""

import asyncio
import inspect
import sys
import traceback
from collections.abc import Callable, Mapping

SIZE = 32  # numbers of a vector of the server's encoder
WEATHER = {
    "type": "object",
    "properties": {"unit": {"type": "string", "enum": ["C", "F"]}, "rain": {"type": "boolean"}},
    "required": ["unit", "rain"],
    "additionalProperties": False,
}
QUESTION = "What is the weather in Rome?"


def refusal(ask: Callable[[], object], kind: type[Exception]) -> str:
    """What the client says of a request that the server must refuse."""
    try:
        ask()
    except kind as error:
        return str(error)
    raise AssertionError("it was not refused")


def run(names: Mapping[str, object]) -> None:
    """Call every function `check_*` with the server's URL, say how each went, and exit with 1 if one failed."""
    [_, url] = sys.argv
    failed = 0
    for name, check in names.items():
        if not name.startswith("check_") or not callable(check):
            continue
        try:
            result = check(url)
            if inspect.iscoroutine(result):
                asyncio.run(result)
            print(f"ok      {name}")
        except Exception:
            failed += 1
            print(f"FAILED  {name}")
            traceback.print_exc(file=sys.stdout)
    sys.exit(1 if failed else 0)
