"""Where the server is, and its resolved form that a worker connects to without asking again."""

import socket
from urllib.parse import urlsplit

import msgspec

from bench.types import BenchError, UsageError

PROBE_SECONDS = 5.0
PORTS = {"http": 80, "https": 443}


class Address(msgspec.Struct, frozen=True):
    scheme: str  # http or https
    host: str
    port: int

    @classmethod
    def parse(cls, url: str) -> "Address":
        """Take the address out of a URL; `host:port` alone means http. Raises UsageError."""
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in PORTS:
            raise UsageError(f"{url!r} is no address of a server: it must start with http:// or https://")
        try:
            port = parts.port
        except ValueError as error:
            raise UsageError(f"{url!r} is no address of a server: {error}") from None
        if not parts.hostname:
            raise UsageError(f"{url!r} is no address of a server: it names no host")
        return cls(parts.scheme, parts.hostname, PORTS[parts.scheme] if port is None else port)

    @property
    def tls(self) -> bool:
        return self.scheme == "https"

    @property
    def authority(self) -> str:
        """What the Host header says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"


class Endpoint(msgspec.Struct, frozen=True):
    """An address after name resolution. `server_name` is what a TLS certificate must be for; None = no TLS."""

    family: int
    address: str
    port: int
    server_name: str | None = None


def resolve(address: Address) -> Endpoint:
    """Resolve the host once. Of several addresses, take the first that accepts a connection.

    Where none does, the first is taken: its requests then report why they could not connect.
    Raises BenchError if the name is not known.
    """
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise BenchError(f"the host of {address} cannot be found: {error.strerror or error}") from None
    name = address.host if address.tls else None
    endpoints = [Endpoint(family, str(where[0]), address.port, name) for family, _, _, _, where in found]
    if len(endpoints) > 1:
        for endpoint in endpoints:
            if _accepts(endpoint):
                return endpoint
    return endpoints[0]


def _accepts(endpoint: Endpoint) -> bool:
    with socket.socket(endpoint.family, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_SECONDS)
        try:
            probe.connect((endpoint.address, endpoint.port))
        except OSError:
            return False
    return True
