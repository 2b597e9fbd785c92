"""This project's engine: a runtime's worker in process, given the plans a scheduler would make.

A variant is a precision, or a runtime and a precision: `int8`, `native:bf16`, `reference:float32`.
"""

import time
from collections.abc import Sequence
from importlib.metadata import version

DTYPES = {"float32": "float32", "bf16": "bfloat16", "f16": "float16"}  # what is not here is a --quantize
BATCH = 64  # requests at once, at most


class Tgi:
    def __init__(self, model: str, variant: str, threads: int, tokens: int) -> None:
        from bench import cpu

        self.version = version("tgi")
        runtime, _, precision = variant.rpartition(":")
        setup = cpu.Setup(
            model=f"{model}/hf",
            runtime=runtime or "auto",
            dtype=DTYPES.get(precision),
            quantize=None if precision in DTYPES else precision,
            threads=threads,
        )
        blocks = 1 + BATCH + -(-tokens // cpu.BLOCK)
        self._steps = cpu.Steps(setup.load(batch=BATCH, num_blocks=blocks))

    def prefill(self, prompt: Sequence[int]) -> float:
        start = time.perf_counter()
        self._steps.start([prompt], 0)
        seconds = time.perf_counter() - start
        self._steps.stop()
        return seconds

    def start(self, prompts: Sequence[Sequence[int]], room: int) -> None:
        self._steps.start(prompts, room)

    def decode(self, steps: int) -> float:
        start = time.perf_counter()
        for _ in range(steps):
            self._steps.decode()
        return time.perf_counter() - start

    def stop(self) -> None:
        self._steps.stop()
