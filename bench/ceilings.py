"""What this machine can do at most: bytes from memory a second, float32 operations and int8 dot products a second.

Kernels and steps are held against these. The native module measures them with loops that do nothing else; without it
numpy does (a copy of arrays far larger than any cache, and BLAS on large matrices). Either way they are what a program
reaches here, not what a data sheet says.
"""

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Protocol, cast

import numpy as np

COPY_BYTES = 128 << 20
GEMM_SIZE = 1536


@dataclass(frozen=True)
class Timing:
    """Seconds of one call. On a busy machine `best` says most about the program."""

    median: float
    best: float
    worst: float
    calls: int


def measure(
    call: Callable[[], object], *, seconds: float = 0.5, least: int = 5, warmup: int = 1, timed: bool = False
) -> Timing:
    """Time single calls for about `seconds`, at least `least` of them. `timed`: a call returns its own seconds."""
    for _ in range(warmup):
        call()
    times: list[float] = []
    until = time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < until:
        start = time.perf_counter()
        returned = call()
        times.append(cast("float", returned) if timed else time.perf_counter() - start)
    return Timing(float(np.median(times)), min(times), max(times), len(times))


class Probes(Protocol):
    """The measuring functions of the native module. `isa` names an instruction set; empty for the best there is."""

    def read_bandwidth(self, isa: str, bytes: int, threads: int) -> float: ...
    def fma_peak(self, isa: str, threads: int) -> float: ...
    def dot_peak(self, isa: str, threads: int) -> float: ...


@dataclass(frozen=True)
class Ceilings:
    bytes_per_second: float  # read by all threads from a buffer of `buffer_bytes`; without the module, copied by one
    flops: float  # float32; a multiply-add counts 2
    cores: int
    dot_ops: float | None = None  # int8 dot products; a multiply-add counts 2. None = not known
    buffer_bytes: int = COPY_BYTES

    def best(self, other: "Ceilings") -> "Ceilings":
        """The higher of two measurements, for a machine that others use too."""
        dots = [each.dot_ops for each in (self, other) if each.dot_ops is not None]
        return Ceilings(
            max(self.bytes_per_second, other.bytes_per_second),
            max(self.flops, other.flops),
            self.cores,
            max(dots, default=None),
            self.buffer_bytes,
        )

    def as_dict(self) -> dict[str, float]:
        return asdict(self)

    def __str__(self) -> str:
        memory, compute, buffer = self.bytes_per_second / 1e9, self.flops / 1e9, self.buffer_bytes / 1e6
        dots = f", {self.dot_ops / 1e9:.0f} GOP/s in int8" if self.dot_ops is not None else ""
        return f"{memory:.1f} GB/s from {buffer:.0f} MB, {compute:.0f} GFLOP/s in float32{dots}, {self.cores} cores"


def ceilings(
    seconds: float = 0.5,
    *,
    buffer_bytes: int = COPY_BYTES,
    threads: int | None = None,
    probes: Probes | None = None,
) -> Ceilings:
    """Measure the machine, for about `seconds` each. `threads` None: as many as cores."""
    cores = available_cores()
    if probes is not None:
        isa, count = os.environ.get("TGI_ISA", ""), threads or cores
        return Ceilings(
            _highest(lambda: probes.read_bandwidth(isa, buffer_bytes, count), seconds),
            _highest(lambda: probes.fma_peak(isa, count), seconds),
            cores,
            _highest(lambda: probes.dot_peak(isa, count), seconds),
            buffer_bytes,
        )
    source = np.ones(COPY_BYTES // 8)
    copied = np.empty_like(source)
    copy = measure(lambda: np.copyto(copied, source), seconds=seconds)
    left = np.ones((GEMM_SIZE, GEMM_SIZE), np.float32)
    product = np.empty_like(left)
    gemm = measure(lambda: np.matmul(left, left, out=product), seconds=seconds, least=3)
    return Ceilings(2 * COPY_BYTES / copy.best, 2 * GEMM_SIZE**3 / gemm.best, cores)


def available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _highest(probe: Callable[[], float], seconds: float) -> float:
    """The highest of the values that fit into `seconds`: what disturbs a probe only lowers it."""
    until = time.perf_counter() + seconds
    found = probe()
    while time.perf_counter() < until:
        found = max(found, probe())
    return found
