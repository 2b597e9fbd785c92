"""Runs one command and sees to its end: a program of its own, started by `bench.server.launch`.

    python guard.py GRACE COMMAND...

The command leads a process group of its own. It is ended, with everything it started, as soon as standard input
closes: when its user asks for it, and also when its user is killed in a way that nobody can handle. Only the
standard library is imported, so that this file also runs without the packages around it.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
POLL_SECONDS = 0.05


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _die_with_guard() -> None:
    """In the child, before the command runs: when the guard itself is killed, so is the command."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _send(number: int, pid: int) -> None:
    """To a process, or to the group -pid; those that are gone already are gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _children() -> list[int]:
    """Our children; nothing where the system has no /proc, which has no orphans of others for us either."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int((process / "stat").read_text().rpartition(")")[2].split()[1]) == os.getpid():
                found.append(int(process.name))
    return found


def _alive(group: int) -> bool:
    """Whether a process of the group, or a child of ours, is left; those that have ended are collected first."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
        return True
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # macOS says this of a group of which only a dead process is left
        return False
    return True


def _end(group: int, grace: float) -> None:
    """SIGTERM to the group, and to orphans that had left it, as they become ours; SIGKILL after `grace` seconds."""
    until = time.monotonic() + grace
    told = set(_children())
    _send(signal.SIGTERM, -group)
    while _alive(group) and time.monotonic() < until:
        for pid in set(_children()) - told:
            told.add(pid)
            _send(signal.SIGTERM, pid)
        time.sleep(POLL_SECONDS)
    while _alive(group):
        for pid in (-group, *_children()):
            _send(signal.SIGKILL, pid)
        time.sleep(POLL_SECONDS)


def main() -> int:
    grace, command = float(sys.argv[1]), sys.argv[2:]
    # Signals of the terminal and of a service manager are for our user, who then closes our standard input.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    child = subprocess.Popen(  # noqa: S603  # the command its user asked for
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        restore_signals=True,
        preexec_fn=_child_setup,  # this program has one thread
    )
    while child.poll() is None:
        readable, _, _ = select.select([0], [], [], POLL_SECONDS)
        if readable and not os.read(0, 1):
            break
    code = child.poll()
    _end(child.pid, grace)
    return 0 if code is None else code if code >= 0 else 128 - code


def _child_setup() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    _die_with_guard()


if __name__ == "__main__":
    sys.exit(main())
