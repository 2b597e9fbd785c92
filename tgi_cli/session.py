"""A conversation: its history, its settings and its commands. What it looks like on a terminal is `terminal.py`'s."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from engine.errors import ConfigError
from tgi_cli import ui
from tgi_cli.reply import Backend, Message, Reply
from tgi_cli.sampling import Sampling

HELP = """\
/system TEXT        say who the model is; alone: show it
/set NAME VALUE     set a sampling parameter, such as temperature 0.2; none unsets it; alone: show them
/reset              forget the conversation
/stats              tokens and speed so far
/help               this list
/quit               end, as Ctrl-D does; Ctrl-C stops an answer"""


class Quit(Exception):
    """The user is done."""


class Session:
    """Turns with one model. `ask` and `command` are what a user can do; neither reads nor prints."""

    def __init__(self, backend: Backend, sampling: Sampling, system: str | None = None) -> None:
        self.backend = backend
        self.sampling = sampling
        self.system = system
        self.turns: list[Message] = []  # user and assistant, by turns
        self.reply: Reply | None = None  # the newest
        self._answers = 0
        self._tokens = 0
        self._seconds = 0.0
        self._commands: dict[str, Callable[[str], str]] = {
            "/system": self._set_system,
            "/set": self._set,
            "/reset": self._reset,
            "/stats": self._stats,
            "/help": lambda _: HELP,
            "/quit": self._quit,
            "/exit": self._quit,
        }

    @property
    def messages(self) -> list[Message]:
        system: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        return system + self.turns

    def command(self, line: str) -> str:
        """Run a line that begins with a slash; returns what to show.

        Raises ConfigError on an unknown command or a bad value, and Quit.
        """
        name, _, rest = line.strip().partition(" ")
        if name not in self._commands:
            raise ConfigError(f"there is no command '{name}'; /help lists them")
        return self._commands[name](rest.strip())

    def add_question(self, text: str) -> int:
        """Take a message of the user. Returns how many old messages were forgotten to make room for an answer."""
        self.turns.append({"role": "user", "content": text})
        forgotten = 0
        while len(self.turns) > 1 and not self.backend.fits(self.messages, self.sampling):
            del self.turns[:2]
            forgotten += 2
        return forgotten

    async def answer(self) -> AsyncGenerator[str, None]:
        """The answer to the newest message. What was said stays in the history, also where it is interrupted."""
        said = False
        try:
            reply = self.reply = self.backend.chat(self.messages, self.sampling)
            async with aclosing(reply.texts()) as texts:
                async for text in texts:
                    said = True
                    yield text
        finally:
            if said and self.reply is not None:
                self.turns.append({"role": "assistant", "content": self.reply.text})
                self._count(self.reply)
            else:
                self.turns.pop()  # a question without an answer would stand before the next one

    def _count(self, reply: Reply) -> None:
        self._answers += 1
        self._tokens += reply.num_tokens
        self._seconds += reply.seconds

    def _set_system(self, text: str) -> str:
        self.system = text or self.system
        return f"system: {self.system}" if self.system else "no system message"

    def _set(self, rest: str) -> str:
        name, _, value = rest.partition(" ")
        if name and not value.strip():
            raise ConfigError(f"/set {name} needs a value: /set temperature 0.2")
        if name:
            self.sampling = self.sampling.set(name, value.strip())
        return str(self.sampling)

    def _reset(self, _: str) -> str:
        self.turns.clear()
        return "the conversation is forgotten"

    def _stats(self, _: str) -> str:
        speed = self._tokens / self._seconds if self._seconds else 0.0
        lines = [f"model {self.backend.name}, {ui.counted(len(self.turns), 'message')} in the conversation"]
        said = f"{ui.counted(self._answers, 'answer')}, {ui.counted(self._tokens, 'token')}"
        lines += [f"{said} in {self._seconds:.1f} s, {speed:.1f} tokens/s"]
        if self.reply is not None:
            prompt = f", after a prompt of {self.reply.prompt_tokens}" if self.reply.prompt_tokens else ""
            lines += [f"last answer: {self.reply.summary()}{prompt}"]
        return "\n".join(lines)

    def _quit(self, _: str) -> str:
        raise Quit
