"""A client's connection: what came from it, and what it has not taken yet."""

import selectors
import socket
import ssl
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.mock.loop import Answer

RECEIVE_BYTES = 1 << 18
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Connection:
    """A socket that never blocks. Methods that return whether the connection is still there do not close it."""

    __slots__ = ("_selector", "backlog", "buffer", "closing", "current", "open", "sock")

    def __init__(self, sock: socket.socket, selector: selectors.BaseSelector) -> None:
        self.sock = sock
        self.buffer = bytearray()
        self.backlog = bytearray()
        self.current: Answer | None = None
        self.closing = False  # when the backlog is gone
        self.open = True
        self._selector = selector
        selector.register(sock, READ, self)

    def receive(self) -> bool:
        """Add what has come to `buffer`."""
        while True:
            try:
                data = self.sock.recv(RECEIVE_BYTES)
            except NOT_NOW:
                return True
            except OSError:
                return False
            if not data:
                return False
            self.buffer += data
            if not isinstance(self.sock, ssl.SSLSocket):
                return True  # under TLS there may be more, of which no selector knows: it is decrypted already

    def write(self, data: bytes) -> bool:
        """Send what the socket takes; the rest waits in `backlog`."""
        if self.backlog:
            self.backlog += data
            return True
        try:
            sent = self.sock.send(data)
        except NOT_NOW:
            sent = 0
        except OSError:
            return False
        if sent < len(data):
            self.backlog += data[sent:]
            self._selector.modify(self.sock, READ | WRITE, self)
        return True

    def flush(self) -> bool:
        """Send more of the backlog."""
        try:
            sent = self.sock.send(self.backlog)
        except NOT_NOW:
            return True
        except OSError:
            return False
        del self.backlog[:sent]
        if not self.backlog:
            self._selector.modify(self.sock, READ, self)
        return True

    def close(self) -> None:
        self.open = False
        self._selector.unregister(self.sock)
        self.sock.close()
