"""One TCP or TLS connection: sends bytes, and receives them with the time at which the kernel got them.

With SO_TIMESTAMPNS every packet is stamped on arrival, and `recvmsg` returns the stamp of the last segment it
read from. So the time of a token does not depend on when Python woke up. Where there are no such stamps (not
Linux), a read has only our own. TLS is done over memory buffers, so that it has kernel stamps as well.
"""

import errno
import os
import select
import socket
import struct
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from bench.client.address import Endpoint
from bench.types import Read

if TYPE_CHECKING:
    import ssl

    from bench.client.loop import Exchange

READ_BYTES = 1 << 16
BILLION = 1_000_000_000
SO_TIMESTAMPNS = 35 if sys.platform == "linux" else None  # Python has no name for it
CONTROL_BYTES = socket.CMSG_SPACE(2 * struct.calcsize("@l")) if SO_TIMESTAMPNS else 0
IN_PROGRESS = (0, errno.EINPROGRESS, errno.EWOULDBLOCK)

_stamp = struct.Struct("@ll").unpack
_now = time.monotonic_ns


def keep_stamping() -> socket.socket:
    """A socket that keeps the kernel stamping packets for as long as it is open.

    Linux begins to stamp a moment after the first socket of the machine asked for it; opened before a run, this one
    lets even the first read have its stamp.
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    if SO_TIMESTAMPNS:
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    return sock


class Connection:
    """A connection in the making: call `advance` whenever its socket is ready, until `is_open`.

    `wants` is the mask of events to wait for. Raises OSError if it cannot be made.
    """

    def __init__(self, endpoint: Endpoint, clock_offset_ns: int) -> None:
        self.socket = sock = socket.socket(endpoint.family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if SO_TIMESTAMPNS:
                sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            status = sock.connect_ex((endpoint.address, endpoint.port))
            if status not in IN_PROGRESS:
                raise OSError(status, os.strerror(status))
        except OSError:
            sock.close()
            raise
        self.fd = sock.fileno()
        self.is_open = False
        self.wants = select.POLLOUT
        self.begun_ns = _now()
        self.carried = 0  # responses
        self.exchange: Exchange | None = None
        self._offset = clock_offset_ns
        self._recvmsg = sock.recvmsg
        self._unsent = b""

    def advance(self) -> None:
        """Go on with connecting. Raises OSError if that failed."""
        status = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if status:
            raise OSError(status, os.strerror(status))
        self.is_open = True
        self.wants = select.POLLIN

    def send(self, data: bytes) -> None:
        """Send, or begin to: while `wants` has POLLOUT, `flush` when the socket can take more."""
        self._unsent = data
        self.flush()

    def flush(self) -> None:
        try:
            sent = self.socket.send(self._unsent)
        except BlockingIOError:
            sent = 0
        # A copy of the rest, of which there is one only when a request is larger than the socket's buffer.
        self._unsent = self._unsent[sent:]
        self.wants = select.POLLIN | select.POLLOUT if self._unsent else select.POLLIN

    def receive(self) -> Read | None:
        """Read once; None if there was nothing, and no bytes at the end. Raises OSError if the connection broke."""
        try:
            data, control, _, _ = self._recvmsg(READ_BYTES, CONTROL_BYTES)
        except BlockingIOError:
            return None
        user_ns = _now()
        if control:
            seconds, nanoseconds = _stamp(control[0][2])
            return Read(seconds * BILLION + nanoseconds - self._offset, user_ns, data)
        return Read(0, user_ns, data)

    def close(self) -> None:
        self.socket.close()


class TlsConnection(Connection):
    """The same, encrypted. A read has the stamp of the segment that completed its last record."""

    def __init__(self, endpoint: Endpoint, clock_offset_ns: int, context: "ssl.SSLContext") -> None:
        import ssl

        super().__init__(endpoint, clock_offset_ns)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=endpoint.server_name)
        self._want_read = ssl.SSLWantReadError
        self._ends = (ssl.SSLZeroReturnError, ssl.SSLEOFError)
        self._connected = False

    def advance(self) -> None:
        if not self._connected:
            super().advance()
            self._connected, self.is_open = True, False
        read = super().receive()
        if read is not None:
            self._take(read.data)
        try:
            self._tls.do_handshake()
            self.is_open = True
        except self._want_read:
            pass
        self._unsent += self._outgoing.read()
        if self._unsent:
            super().flush()
        else:
            self.wants = select.POLLIN

    def send(self, data: bytes) -> None:
        self._tls.write(data)
        super().send(self._unsent + self._outgoing.read())

    def receive(self) -> Read | None:
        read = super().receive()
        if read is None:
            return None
        self._take(read.data)
        parts = []
        ended = False
        try:
            while part := self._tls.read(READ_BYTES):
                parts.append(part)
            ended = True
        except self._want_read:
            pass
        except self._ends:
            ended = True
        if parts and ended:
            # The other side may wait for our end before it closes; with this, the next read is that of the end.
            with suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)
        if parts or ended:
            return Read(read.kernel_ns, read.user_ns, b"".join(parts))
        return None

    def _take(self, data: bytes) -> None:
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
