"""The session on a real (pseudo) terminal: a prompt, answers, commands, Ctrl-C and Ctrl-D."""

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

pty = pytest.importorskip("pty", reason="pseudo terminals are a Unix thing")

SLOW = ("--runtime", "reference")  # an answer long enough to be stopped in its middle
PATIENCE = 60.0  # seconds; a bound for a broken program


class Terminal:
    """`tgi generate` on a terminal of its own."""

    def __init__(self, *arguments: str) -> None:
        self.leader, follower = pty.openpty()
        # The first terminal that the leader of a session opens becomes its own, and Ctrl-C on it a signal.
        opens_it = ["sh", "-c", 'exec "$@" <>"$0" >&0 2>&0', os.ttyname(follower)]
        self.process = subprocess.Popen(
            [*opens_it, sys.executable, "-m", "tgi_cli", "generate", *arguments],
            stdin=follower,
            start_new_session=True,
            env=os.environ | {"TERM": "dumb", "COLUMNS": "200"},
        )
        os.close(follower)
        self.seen = ""

    def expect(self, pattern: str) -> str:
        """Read until the pattern appears; returns what came up to and with it."""
        deadline = time.monotonic() + PATIENCE
        while not (found := re.search(pattern, self.seen)):
            ready, _, _ = select.select([self.leader], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"no {pattern!r} within {PATIENCE} s in {self.seen!r}"
            try:
                read = os.read(self.leader, 4096)
            except OSError:  # how Linux says that nobody has the terminal open any more
                read = b""
            assert read, f"ended without {pattern!r}: {self.seen!r}"
            self.seen += read.decode(errors="replace")
        before, self.seen = self.seen[: found.end()], self.seen[found.end() :]
        return before

    def type(self, text: str) -> None:
        os.write(self.leader, text.encode())

    def press_until(self, key: str, pattern: str) -> None:
        """Press a key, again after each second of silence, and read until the pattern appears.

        CPython's readline looks for signals only while it waits for keys, so a Ctrl-C in the microseconds
        between its prompt and its wait is not seen. A person is not that fast; a test is.
        """
        for _ in range(int(PATIENCE)):
            self.type(key)
            if select.select([self.leader], [], [], 1.0)[0]:
                break
        self.expect(pattern)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        os.close(self.leader)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    opened = Terminal("--max-new-tokens", "900", "--ignore-eos", *SLOW)
    yield opened
    opened.close()


def test_a_conversation(terminal: Terminal) -> None:
    terminal.expect(r"built-in: /help lists the commands")
    terminal.expect(r">>> ")
    terminal.type("/set max_new_tokens 5\n")
    terminal.expect(r"max_new_tokens 5")
    terminal.expect(r">>> ")
    terminal.type("Hello\n")
    terminal.expect(r"\[5 tokens, first after [\d.]+ s, [\d.]+ tokens/s\]")
    terminal.expect(r">>> ")

    terminal.type("/set max_new_tokens 900\n")
    terminal.expect(r">>> ")
    terminal.type("Tell me all you know\n")
    terminal.expect(r"know\r\n.*\w")  # the answer has begun
    terminal.type("\x03")
    terminal.expect(r"\[stopped\]")
    terminal.expect(r">>> ")

    terminal.press_until("\x03", r"Ctrl-D or /quit ends the session")
    terminal.expect(r">>> ")
    terminal.type("/warble\n")
    terminal.expect(r"error:.* there is no command '/warble'")
    terminal.expect(r">>> ")
    terminal.type("/stats\n")
    terminal.expect(r"4 messages")
    terminal.expect(r">>> ")
    terminal.type("\x04")
    assert terminal.process.wait(PATIENCE) == 0


def test_a_prompt_on_a_terminal_is_answered_with_its_speed() -> None:
    terminal = Terminal("The river is", "--max-new-tokens", "4")
    try:
        terminal.expect(r"\w[^\[]*\r\n\[4 tokens, .* tokens/s\]")
        assert terminal.process.wait(PATIENCE) == 0
    finally:
        terminal.close()


def test_ctrl_c_ends_a_single_answer() -> None:
    terminal = Terminal("The river is", "--max-new-tokens", "1000", "--ignore-eos", *SLOW)
    try:
        terminal.expect(r"\w")
        terminal.type("\x03")
        assert terminal.process.wait(PATIENCE) == 130
        assert "Traceback" not in terminal.seen
    finally:
        terminal.close()
