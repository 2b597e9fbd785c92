"""OpenVINO GenAI: its continuous batching pipeline, driven step by step, with its own scheduler and sampler.

Weights as converted; activations, KV cache and arithmetic are what OpenVINO chooses on this machine, which is bfloat16
arithmetic where the processor has it. A variant with `:f32` computes in float32.
"""

import time
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

BLOCK = 32  # tokens of a KV block on CPUs
BATCH = 64  # requests at once, at most
STEP_TOKENS = 4096  # as many as this project's own scheduler computes in one step


class OpenVino:
    def __init__(self, model: str, variant: str, threads: int, tokens: int) -> None:
        import openvino_genai

        self._api: Any = openvino_genai
        self.version = version("openvino-genai")
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.num_kv_blocks = BATCH + -(-tokens // BLOCK)
        scheduler.max_num_batched_tokens = STEP_TOKENS
        scheduler.enable_prefix_caching = False
        settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        folder, _, arithmetic = variant.partition(":")
        if arithmetic:
            settings["INFERENCE_PRECISION_HINT"] = arithmetic
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(
            f"{model}/openvino/{folder}", scheduler, "CPU", settings, {}, {}
        )
        self._requests = 0
        self._handles: list[Any] = []

    def prefill(self, prompt: Sequence[int]) -> float:
        self._add(prompt, 1)
        start = time.perf_counter()
        self._finish()
        return time.perf_counter() - start

    def start(self, prompts: Sequence[Sequence[int]], room: int) -> None:
        for prompt in prompts:
            self._add(prompt, 1 + room)
        waiting = list(self._handles)
        while waiting:
            self._pipeline.step()
            waiting = [handle for handle in waiting if not handle.can_read()]

    def decode(self, steps: int) -> float:
        start = time.perf_counter()
        for _ in range(steps):
            self._pipeline.step()
        return time.perf_counter() - start

    def stop(self) -> None:
        for handle in self._handles:
            handle.cancel()
        self._finish()

    def _finish(self) -> None:
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
        self._handles = []

    def _add(self, prompt: Sequence[int], tokens: int) -> None:
        from openvino import Tensor

        config = self._api.GenerationConfig()
        config.max_new_tokens, config.ignore_eos, config.do_sample = tokens, True, False
        self._requests += 1
        ids = Tensor(np.array([prompt], np.int64))
        self._handles.append(self._pipeline.add_request(self._requests, ids, config))
