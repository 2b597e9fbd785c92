"""The engine process: how it is started, and what runs inside it.

The parent keeps one half of a socket pair, the child inherits the other. The first frame to the child is its
`EngineOptions`; after that, messages go down and replies come up (`engine/wire.py`). Neither side can outlive
the other for long: the end of the stream is the sign that the other one is gone.
"""

import faulthandler
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from queue import SimpleQueue

import msgspec

from engine.config import EngineOptions
from engine.logs import configure_logging
from engine.wire import FrameReader, Message, Reply, decode_message, frame

ENTRY_POINT = "engine.process"
RECEIVE_BYTES = 1 << 16


def spawn(options: EngineOptions) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start an engine process; return it and our half of the socket pair."""
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-P", "-m", ENTRY_POINT, str(theirs.fileno())]
    with theirs:
        process = subprocess.Popen(  # noqa: S603 - our own command
            command,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            process_group=0,  # Ctrl-C in a terminal is for the parent alone, also while the child is starting
        )
    ours.sendall(frame(options))
    return process, ours


def main() -> None:
    """Entry point of the child: `python -m engine.process FD`."""
    for whole_group in (signal.SIGINT, signal.SIGTERM):  # Ctrl-C and service managers send them to all processes:
        signal.signal(whole_group, signal.SIG_IGN)  # the parent decides, it may still have answers to finish
    faulthandler.register(signal.SIGUSR1, all_threads=True)  # the parent asks for stacks before it kills a hung engine
    connection = socket.socket(fileno=int(sys.argv[1]))
    frames = _frames(connection)
    options = msgspec.msgpack.decode(next(frames), type=EngineOptions)
    configure_logging(as_json=options.json_logs)
    inbox: SimpleQueue[Message] = SimpleQueue()

    def read() -> None:
        for body in frames:
            inbox.put(decode_message(body))
        os._exit(0)  # the parent is gone, perhaps in the middle of our step: nobody is left to answer

    def send(reply: Reply) -> None:
        try:
            connection.sendall(frame(reply))
        except OSError:
            os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    from engine.core import Channel, serve

    serve(options, Channel(inbox, send), warm=True)


def _frames(connection: socket.socket) -> Iterator[bytes]:
    reader = FrameReader()
    with suppress(ConnectionError):
        while data := connection.recv(RECEIVE_BYTES):
            yield from reader.feed(data)


if __name__ == "__main__":
    main()
