"""What the machine says of a server that runs on it: CPU and memory of its processes, power and use of a GPU.

Processes are found from the port they listen on, through /proc; elsewhere, or for a server on another machine,
nothing is said. NVIDIA's management library is asked through ctypes, so that no package is needed.
"""

import contextlib
import ctypes
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")
LISTEN = "0A"  # the state of a listening socket in /proc/net/tcp
NVML_LIBRARIES = ("libnvidia-ml.so.1", "libnvidia-ml.so")


def is_local(host: str) -> bool:
    """Whether a name or address is one of this machine's loopback addresses."""
    try:
        found = {info[4][0] for info in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    return all(str(address).startswith("127.") or address == "::1" for address in found)


def listening_pid(port: int) -> int | None:
    """The process that listens on a TCP port of this machine, where /proc lets us see it."""
    inodes = set(_listening_inodes(port))
    if not inodes:
        return None
    links = {f"socket:[{inode}]" for inode in inodes}
    for process in PROC.iterdir():
        if not process.name.isdecimal():
            continue
        with contextlib.suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    if os.readlink(descriptor) in links:
                        return int(process.name)
    return None


def _listening_inodes(port: int) -> Iterator[str]:
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in (PROC / "net" / name).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                    yield fields[9]


class ProcessTree:
    """CPU and memory of a process and all its descendants, from /proc."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._ticks = os.sysconf("SC_CLK_TCK")
        self._page = os.sysconf("SC_PAGE_SIZE")
        self._last: dict[int, int] = {}  # pid -> clock ticks used
        self._last_ns = 0

    def members(self) -> list[int]:
        children: dict[int, list[int]] = {}
        for pid, parent, _ in _stats():
            children.setdefault(parent, []).append(pid)
        found, queue = [], [self.pid]
        while queue:
            pid = queue.pop()
            found.append(pid)
            queue += children.get(pid, [])
        return found

    def read(self) -> dict[str, float | None]:
        """`cpu`: cores busy since the last call (None the first time); `memory_bytes`: resident, shared pages counted
        for each process."""
        now, members = time.monotonic_ns(), set(self.members())
        ticks = {pid: used for pid, _, used in _stats() if pid in members}
        cpu = None
        if self._last_ns and now > self._last_ns:
            used = sum(count - self._last.get(pid, 0) for pid, count in ticks.items())
            cpu = used / self._ticks / ((now - self._last_ns) / 1e9)
        self._last, self._last_ns = ticks, now
        memory = 0
        for pid in members:
            with contextlib.suppress(OSError):
                memory += int((PROC / str(pid) / "statm").read_text().split()[1]) * self._page
        return {"cpu": cpu, "memory_bytes": float(memory) if memory else None}


def _stats() -> Iterator[tuple[int, int, int]]:
    """(pid, parent, clock ticks of user and system time) of every process."""
    for process in PROC.iterdir():
        if process.name.isdecimal():
            with contextlib.suppress(OSError):
                fields = (process / "stat").read_text().rpartition(")")[2].split()
                yield int(process.name), int(fields[1]), int(fields[11]) + int(fields[12])


class _Utilization(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class Gpus:
    """Power and use of this machine's NVIDIA GPUs; nothing where there is no driver."""

    def __init__(self) -> None:
        self._handles: list[ctypes.c_void_p] = []
        for name in NVML_LIBRARIES:
            with contextlib.suppress(OSError):
                self._library = ctypes.CDLL(name)
                break
        else:
            return
        if self._library.nvmlInit_v2() != 0:
            return
        count = ctypes.c_uint()
        self._library.nvmlDeviceGetCount_v2(ctypes.byref(count))
        for index in range(count.value):
            handle = ctypes.c_void_p()
            if self._library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)) == 0:
                self._handles.append(handle)

    def read(self) -> dict[str, float | None]:
        """`gpu_watts` over all GPUs, `gpu_use` from 0 to 1 on average; None where there is none."""
        watts: list[float] = []
        use: list[float] = []
        for handle in self._handles:
            power, load = ctypes.c_uint(), _Utilization()
            if self._library.nvmlDeviceGetPowerUsage(handle, ctypes.byref(power)) == 0:
                watts.append(power.value / 1000)
            if self._library.nvmlDeviceGetUtilizationRates(handle, ctypes.byref(load)) == 0:
                use.append(load.gpu / 100)
        return {
            "gpu_watts": sum(watts) if watts else None,
            "gpu_use": sum(use) / len(use) if use else None,
        }


class Telemetry:
    """Everything this machine can say of a server at `host:port`."""

    def __init__(self, host: str, port: int) -> None:
        local = is_local(host)
        pid = listening_pid(port) if local and PROC.is_dir() else None
        self.pid = pid
        self._processes = ProcessTree(pid) if pid is not None else None
        self._gpus = Gpus() if local else None

    def __call__(self) -> dict[str, float | None]:
        found: dict[str, float | None] = {}
        if self._processes is not None:
            found |= self._processes.read()
        if self._gpus is not None:
            found |= self._gpus.read()
        return found
