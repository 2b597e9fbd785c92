"""What keeps the tests honest: no other machine is reached, and where all is required a skip is a failure."""

import errno
import ipaddress
import os
import socket
from collections.abc import Generator, Iterator
from typing import Any

import pytest

REQUIRE = "TGI_TEST_REQUIRE"  # "all": what a test needs must be there, so a skip is a failure


def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get(REQUIRE, "") not in ("", "all"):
        raise pytest.UsageError(f"{REQUIRE}={os.environ[REQUIRE]!r} means nothing here; use 'all' or leave it out")


def _fail_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    if os.environ.get(REQUIRE) == "all" and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{reason}\n{REQUIRE}=all turns a skip into a failure"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _fail_if_skipped(report)
    return report


def is_this_machine(host: object) -> bool:
    if isinstance(host, bytes):
        host = host.decode()
    if host in (None, "", "localhost"):
        return True
    try:
        address = ipaddress.ip_address(str(host).partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


@pytest.fixture(scope="session", autouse=True)
def only_this_machine() -> Iterator[None]:
    """Every test runs as on a machine without a network: other hosts are unreachable, other names unknown."""
    connect, connect_ex, resolve = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def unreachable(self: socket.socket, address: Any) -> bool:
        return self.family in (socket.AF_INET, socket.AF_INET6) and not is_this_machine(address[0])

    def guarded_connect(self: socket.socket, address: Any) -> None:
        if unreachable(self, address):
            raise OSError(errno.ENETUNREACH, f"tests reach only this machine, not {address[0]}")
        connect(self, address)

    def guarded_connect_ex(self: socket.socket, address: Any) -> int:
        return errno.ENETUNREACH if unreachable(self, address) else connect_ex(self, address)

    def guarded_resolve(host: Any, *args: Any, **kwargs: Any) -> Any:
        if not is_this_machine(host):
            raise socket.gaierror(socket.EAI_NONAME, f"tests resolve only this machine, not {host}")
        return resolve(host, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded_connect)
        patch.setattr(socket.socket, "connect_ex", guarded_connect_ex)
        patch.setattr(socket, "getaddrinfo", guarded_resolve)
        yield
