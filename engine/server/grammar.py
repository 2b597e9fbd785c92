"""Grammars that clients send: what they mean, and whether they can be used at all.

A grammar is compiled by strangers' rules, so the server tries it out before the engine sees it: within limits of size,
in a process of its own that is killed when it takes too long or too much memory (`engine.server.grammar_check`).
"""

import asyncio
import contextlib
import re
import select
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import msgspec

from engine.errors import InvalidRequest, Overloaded
from engine.types import Grammar

if TYPE_CHECKING:
    from engine.server.service import Service

MAX_CHARACTERS = 65_536
MAX_DEPTH = 64  # of the arrays and objects of a schema
CHECK_SECONDS = 1.5  # for one grammar
START_SECONDS = 30.0  # for the process that checks; it reads the tokenizer first
PATIENCE = 10.0  # seconds that a request waits while others are checked
MAX_KNOWN = 1024  # grammars whose check is remembered

ENTRY_POINT = "engine.server.grammar_check"
ANY_OBJECT = Grammar("json", '{"type":"object"}')
STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
NO_BRACKET = re.compile(r"[^\[\]{}]+")


def grammar_of(value: Mapping[str, Any], *, strict: bool = False) -> Grammar | None:
    """What a `grammar` or `response_format` asks for; None for plain text.

    TGI's shapes are `{"type", "value"}` with the types json, json_object, regex and json_schema. Others are OpenAI's
    json_schema (also as `/v1/responses` has it), json_object and text, and lark. `strict` takes only what TGI takes,
    and asks for `properties` in a schema, as TGI does. Raises InvalidRequest.
    """
    kind = value.get("type")
    if strict and (kind not in ("json", "json_object", "regex", "json_schema") or "value" not in value):
        raise _invalid("it must have a `type` (json, json_object, regex or json_schema) and a `value`")
    match kind:
        case "text":
            return None
        case "json_object" if value.get("value") is None:  # a `schema` is what LangChain sends there
            return ANY_OBJECT if value.get("schema") is None else _json(value["schema"], strict)
        case "json" | "json_object":
            return _json(value.get("value"), strict)
        case "json_schema":
            schema = value.get("value", value.get("json_schema", value))
            if not isinstance(schema, Mapping) or "schema" not in schema:
                raise _invalid("a json_schema must have a `schema`")
            return _json(schema["schema"], strict)
        case "regex" | "lark":
            if not isinstance(value.get("value"), str):
                raise _invalid(f"the `value` of a {kind} must be a string")
            return Grammar(kind, value["value"])
    raise _invalid("its `type` must be one of: json, json_object, json_schema, regex, lark, text")


def _json(schema: object, strict: bool) -> Grammar:
    """A schema as an object, or as a string that holds one."""
    if isinstance(schema, str):
        try:
            schema = msgspec.json.decode(schema)
        except (msgspec.DecodeError, RecursionError) as error:
            raise _invalid(f"the schema is not JSON: {error}") from None
    if not isinstance(schema, Mapping):
        raise InvalidRequest("grammar is not supported")
    if strict and "properties" not in schema:
        raise _invalid("Grammar must have a 'properties' field")
    return Grammar("json", msgspec.json.encode(schema).decode())


async def check_grammar(here: "Service", grammar: Grammar) -> None:
    """Refuse what cannot be used. Raises InvalidRequest, and Overloaded where too many others are being checked."""
    if here.options.disable_grammar_support:
        raise InvalidRequest("grammar is not supported")
    check_size(grammar)
    await here.grammars.check(grammar)


def check_size(grammar: Grammar) -> None:
    """Raises InvalidRequest."""
    if len(grammar.text) > MAX_CHARACTERS:
        raise _invalid(f"it must have at most {MAX_CHARACTERS} characters. Given: {len(grammar.text)}")
    if grammar.kind == "json":
        brackets = NO_BRACKET.sub("", STRING.sub("", grammar.text))
        if max(accumulate((1 if bracket in "[{" else -1) for bracket in brackets), default=0) > MAX_DEPTH:
            raise _invalid(f"a schema may be nested at most {MAX_DEPTH} deep")


class GrammarChecker:
    """Tries grammars out in another process, one at a time. Starts that with the first grammar.

    `tokenizer` gives the content of a `tokenizer.json`.
    """

    def __init__(self, tokenizer: Callable[[], str], vocab_size: int, end_ids: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._end_ids = end_ids
        self._known: OrderedDict[bytes, str | None] = OrderedDict()  # what is wrong with a grammar, or nothing
        self._free = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="grammar-check")
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = False
        self._closed = False

    @property
    def pid(self) -> int | None:
        """Of the process, where there is one."""
        return self._process.pid if self._process is not None else None

    async def check(self, grammar: Grammar) -> None:
        """Raises InvalidRequest, and Overloaded."""
        key = blake2b(msgspec.msgpack.encode(grammar), digest_size=32).digest()
        if key not in self._known:
            try:
                async with asyncio.timeout(PATIENCE):
                    await self._free.acquire()
            except TimeoutError:
                raise Overloaded("too many grammars are being checked") from None
            try:
                why = await asyncio.get_running_loop().run_in_executor(self._thread, self._try_out, grammar)
            finally:
                self._free.release()
            self._known[key] = why
        self._known.move_to_end(key)
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
        if (wrong := self._known[key]) is not None:
            raise InvalidRequest(wrong)

    def _try_out(self, grammar: Grammar) -> str | None:
        """What is wrong with it. Raises InvalidRequest where it took too long, which might be otherwise next time."""
        if self._closed:
            raise InvalidRequest("grammar is not supported: the server is ending")
        if self._process is None or self._process.poll() is not None:
            self._start()
        if not self._ready and self._read(START_SECONDS) is None:
            self._end()
            raise InvalidRequest("grammar is not supported: the process that checks grammars does not start")
        self._ready = True
        answer = self._ask(grammar)
        if answer is not None:
            return msgspec.json.decode(answer, type=str | None)
        assert self._process is not None
        died = self._process.poll() is not None
        self._end()
        with contextlib.suppress(RuntimeError):  # the thread is ending too
            self._thread.submit(self._start)  # when this is done, so that the next grammar need not wait for it
        cost = "too much memory" if died else f"more than {CHECK_SECONDS} s"
        raise _invalid(f"it takes {cost} to compile; make it simpler")

    def _ask(self, grammar: Grammar) -> bytes | None:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(msgspec.json.encode(grammar) + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._process.wait()
            return None
        return self._read(CHECK_SECONDS)

    def _read(self, seconds: float) -> bytes | None:
        """A line, or None where none comes in time. The process writes a line at once."""
        assert self._process is not None
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], seconds)[0]:
            return None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
        return line or None

    def _start(self) -> None:
        if self._closed:
            return
        self._ready = False
        self._process = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-P", "-m", ENTRY_POINT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            process_group=0,  # Ctrl-C in a terminal is for the server alone
        )
        assert self._process.stdin is not None
        vocabulary = (self._tokenizer(), self._vocab_size, self._end_ids)
        self._process.stdin.write(msgspec.json.encode(vocabulary) + b"\n")
        self._process.stdin.flush()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def close(self) -> None:
        """End the process. What is being checked fails. A second time does nothing."""
        self._closed = True
        if self._process is not None:
            self._process.kill()
        with contextlib.suppress(RuntimeError):  # the thread has ended
            self._thread.submit(self._end)
        self._thread.shutdown(wait=True)


def _invalid(why: str) -> InvalidRequest:
    return InvalidRequest(f"grammar is not valid: {why}")
