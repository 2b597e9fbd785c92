"""What this machine can do at most: bytes from memory a second, and float32 operations a second.

Kernels and steps are held against these. They are measured with numpy (a copy of arrays far larger than any cache, and
BLAS on large matrices), so they are what a well-written program reaches here, not what a data sheet says.
"""

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

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


def measure(call: Callable[[], object], *, seconds: float = 0.5, least: int = 5, warmup: int = 1) -> Timing:
    """Time single calls for about `seconds`, at least `least` of them."""
    for _ in range(warmup):
        call()
    times: list[float] = []
    until = time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < until:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return Timing(float(np.median(times)), min(times), max(times), len(times))


@dataclass(frozen=True)
class Ceilings:
    bytes_per_second: float  # read and written, by one thread's copy
    flops: float  # float32, by numpy's BLAS with its threads
    cores: int

    def as_dict(self) -> dict[str, float]:
        return asdict(self)

    def __str__(self) -> str:
        memory, compute = self.bytes_per_second / 1e9, self.flops / 1e9
        return f"{memory:.1f} GB/s by copying, {compute:.0f} GFLOP/s in float32, {self.cores} cores"


def ceilings(seconds: float = 0.5) -> Ceilings:
    source = np.ones(COPY_BYTES // 8)
    copied = np.empty_like(source)
    copy = measure(lambda: np.copyto(copied, source), seconds=seconds)
    left = np.ones((GEMM_SIZE, GEMM_SIZE), np.float32)
    product = np.empty_like(left)
    gemm = measure(lambda: np.matmul(left, left, out=product), seconds=seconds, least=3)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Ceilings(2 * COPY_BYTES / copy.best, 2 * GEMM_SIZE**3 / gemm.best, cores)
