"""The interactive session on a terminal: a prompt, the answer as it comes, and Ctrl-C that stops only the answer."""

import asyncio
import contextlib
import sys
from contextlib import aclosing

from engine.errors import EngineError
from tgi_cli import ui
from tgi_cli.session import Quit, Session

PROMPT = ">>> "


def converse(session: Session, runner: asyncio.Runner) -> None:
    """Read lines and show answers until the user is done."""
    with contextlib.suppress(ImportError):  # line editing and history, where Python has it
        import readline  # noqa: F401  # importing it changes input()

    ui.note(f"{session.backend.name}: /help lists the commands, Ctrl-D ends")
    while True:
        try:
            line = input(PROMPT).strip()
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print()
            ui.note("Ctrl-D or /quit ends the session")
            continue
        try:
            if line.startswith("/"):
                ui.note(session.command(line))
            elif line:
                _answer(session, runner, line)
        except Quit:
            return
        except EngineError as error:
            ui.error(str(error))


def _answer(session: Session, runner: asyncio.Runner, line: str) -> None:
    forgotten = session.add_question(line)
    if forgotten:
        ui.note(f"the context is full: the {forgotten} oldest messages are forgotten")
    try:
        runner.run(_show(session))
        assert session.reply is not None
        ui.note(f"[{session.reply.summary()}]")
    except KeyboardInterrupt:
        print()
        ui.note("[stopped]")


async def _show(session: Session) -> None:
    async with aclosing(session.answer()) as texts:
        async for text in texts:
            sys.stdout.write(text)
            sys.stdout.flush()
    print()
