"""A small HTTP/1.1 server in a thread whose every byte is decided by the test."""

import asyncio
import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Awaitable, Callable, Iterator

from bench.client.address import Address

Script = Callable[["Talk"], Awaitable[None]]


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"


def answer(body: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


class Talk:
    """One connection, seen from the server. `number` counts connections from 0."""

    def __init__(
        self, server: "ScriptedServer", number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ):
        self.server, self.number, self._reader, self._writer = server, number, reader, writer

    async def head(self) -> bytes | None:
        """The head of the next request; None if the client has gone."""
        try:
            return await self._reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    async def request(self) -> bytes | None:
        """The body of the next request; None if the client has gone."""
        head = await self.head()
        if head is None:
            return None
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        body = await self._reader.readexactly(int(length.split(b":")[1]))
        self.server.requests.append((self.number, body))
        return body

    async def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self._writer.write(piece)
            await self._writer.drain()

    async def pause(self) -> None:
        """Give way, for long enough not to flood the client."""
        await asyncio.sleep(0.002)

    async def closed_by_client(self) -> None:
        with contextlib.suppress(ConnectionError):
            await self._reader.read()

    def reset(self) -> None:
        """End the connection with a reset."""
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


class ScriptedServer:
    """`requests` lists (number of the connection, body); `connections` counts them."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[tuple[int, bytes]] = []
        self.connections = 0
        self.open = self.most_open = 0  # requests being answered, as `answering` counts them
        self.address = Address("http", "127.0.0.1", 0)

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            yield
        finally:
            self.open -= 1

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talk = Talk(self, self.connections, reader, writer)
        self.connections += 1
        try:
            await self.script(talk)
        except (ConnectionError, asyncio.CancelledError):  # the client is gone, or the test is over
            pass
        finally:
            writer.close()

    @classmethod
    @contextlib.contextmanager
    def start(cls, script: Script, tls: ssl.SSLContext | None = None) -> Iterator["ScriptedServer"]:
        """Serve until the block ends."""
        server = cls(script)
        started, stopping = threading.Event(), asyncio.Event()
        loop = asyncio.new_event_loop()

        async def main() -> None:
            listening = await asyncio.start_server(server._serve, "127.0.0.1", 0, ssl=tls, backlog=1024)
            port = listening.sockets[0].getsockname()[1]
            server.address = Address("https" if tls else "http", "localhost" if tls else "127.0.0.1", port)
            started.set()
            await stopping.wait()
            listening.close()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        thread = threading.Thread(target=loop.run_until_complete, args=(main(),))
        thread.start()
        try:
            started.wait()
            yield server
        finally:
            loop.call_soon_threadsafe(stopping.set)
            thread.join()
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()
