"""The process that tries grammars out: `python -m engine.server.grammar_check`, started by `engine.server.grammar`.

It reads lines of JSON: first the tokens of the model, as `Compiler` takes them, then grammars. For each line it writes
one: null, or what is wrong with the grammar. It is killed when it takes too long, ends when it takes too much memory,
and when its parent is gone.
"""

import contextlib
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from engine.errors import GenerationFailed, InvalidRequest
from engine.text.grammar import Compiler
from engine.types import Grammar

MEMORY = 1 << 30  # bytes, beyond those that the process starts with
EXPLORED = 64  # tokens
NICE = 10  # the model's threads come first


def main() -> None:
    for whole_group in (signal.SIGINT, signal.SIGTERM):
        signal.signal(whole_group, signal.SIG_IGN)
    os.nice(NICE)
    tokenizer, vocab_size, end_ids = msgspec.json.decode(sys.stdin.buffer.readline(), type=tuple[str, int, list[int]])
    compiler, unusable = None, None
    try:
        compiler = Compiler(tokenizer, vocab_size, end_ids)
    except InvalidRequest as error:
        unusable = str(error)
    _limit_memory()
    _answer(None)
    # In a thread, as in the engine: it has the same stack there.
    with ThreadPoolExecutor(1) as thread:
        for line in sys.stdin.buffer:
            grammar = msgspec.json.decode(line, type=Grammar)
            _answer(unusable if compiler is None else thread.submit(_try_out, compiler, grammar).result())


def _try_out(compiler: Compiler, grammar: Grammar) -> str | None:
    try:
        compiler.compile(grammar).explore(EXPLORED)
    except InvalidRequest as error:
        return str(error)
    except GenerationFailed as error:
        return f"grammar is not valid: {error}"
    return None


def _answer(wrong: str | None) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(wrong) + b"\n")
    sys.stdout.buffer.flush()


def _limit_memory() -> None:
    """Where the system can do that and says how much the process has."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    main()
