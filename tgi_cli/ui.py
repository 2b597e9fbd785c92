"""What the commands show on a terminal. The only file here that imports rich, and only when there is something to show.

Everything but results goes to standard error, so that standard output can be piped.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


def console(*, stderr: bool = True) -> "Console":
    from rich.console import Console

    return Console(stderr=stderr, soft_wrap=True, markup=False, highlight=False, emoji=False)


def error(message: str) -> None:
    """One line on standard error; the word `error:` is red on a terminal."""
    from rich.text import Text

    console().print(Text.assemble(("error:", "bold red"), " ", " ".join(message.split())))


def note(message: str) -> None:
    """A dim line on standard error."""
    console().print(message, style="dim")


def rows(pairs: Iterable[tuple[str, str]], *, stderr: bool = False) -> None:
    """Names and values in two columns."""
    from rich.text import Text

    listed = list(pairs)
    width = max((len(name) for name, _ in listed), default=0)
    out = console(stderr=stderr)
    for name, value in listed:
        out.print(Text.assemble((f"{name:<{width}}  ", "bold"), value))


def size(count: float) -> str:
    """A number of bytes as people read it: 13.6 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def thousands(count: float) -> str:
    """A count as people read it: 6.8 million."""
    for word, scale in (("billion", 1e9), ("million", 1e6), ("thousand", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {word}"
    return f"{count:.0f}"


def counted(count: int, noun: str) -> str:
    """1 answer, 2 answers."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


@contextmanager
def download_progress(name: str) -> Iterator[Callable[[int, int], None] | None]:
    """Yields what to call with bytes done and bytes in all; on a terminal, a progress bar from the first byte on."""
    with progress(name, of_bytes=True) as show:
        yield show


@contextmanager
def progress(name: str, *, of_bytes: bool = False) -> Iterator[Callable[[int, int], None] | None]:
    """Yields what to call with what is done and what there is in all; on a terminal, a bar from the first call on."""
    if not sys.stderr.isatty():
        yield None
        return
    bar: Progress | None = None

    def show(done: int, total: int) -> None:
        nonlocal bar
        if bar is None:
            bar = _bar(name, of_bytes)
            bar.start()
        bar.update(bar.task_ids[0], completed=done, total=total or None)

    try:
        yield show
    finally:
        if bar is not None:
            bar.stop()


def _bar(name: str, of_bytes: bool) -> "Progress":
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    text = TextColumn("{task.description}", markup=False)
    amount = (DownloadColumn(), TransferSpeedColumn()) if of_bytes else (TextColumn("{task.completed}/{task.total}"),)
    bar = Progress(text, BarColumn(), *amount, TimeRemainingColumn(), console=console(), transient=True)
    bar.add_task(name, total=None)
    return bar
