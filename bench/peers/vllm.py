"""vLLM's engine in process, driven step by step, with its own scheduler and sampler."""

import os
import time
from collections.abc import Sequence
from importlib.metadata import packages_distributions, version
from typing import Any

LONGEST = 4096


class Vllm:
    def __init__(self, model: str, variant: str, threads: int, tokens: int) -> None:
        os.environ |= {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_KVCACHE_SPACE": "2",
            "VLLM_CPU_OMP_THREADS_BIND": f"0-{threads - 1}",
            "VLLM_LOGGING_LEVEL": "ERROR",
        }
        from vllm import EngineArgs, LLMEngine, SamplingParams

        self._params = SamplingParams
        self.version = version(packages_distributions()["vllm"][0])
        self._engine: Any = LLMEngine.from_engine_args(
            EngineArgs(
                model=f"{model}/hf",
                dtype=variant,
                max_model_len=LONGEST,
                max_num_batched_tokens=LONGEST,
                max_num_seqs=32,
                enable_prefix_caching=False,
            )
        )
        self._requests = 0
        self._running: list[str] = []

    def prefill(self, prompt: Sequence[int]) -> float:
        self._add(prompt, 1)
        start = time.perf_counter()
        while self._engine.has_unfinished_requests():
            self._engine.step()
        seconds = time.perf_counter() - start
        self._running = []
        return seconds

    def start(self, prompts: Sequence[Sequence[int]], room: int) -> None:
        for prompt in prompts:
            self._add(prompt, 1 + room)
        waiting = set(self._running)
        while waiting:
            waiting -= {output.request_id for output in self._engine.step() if output.outputs[0].token_ids}

    def decode(self, steps: int) -> float:
        start = time.perf_counter()
        for _ in range(steps):
            self._engine.step()
        return time.perf_counter() - start

    def stop(self) -> None:
        self._engine.abort_request(self._running)
        self._running = []

    def _add(self, prompt: Sequence[int], tokens: int) -> None:
        self._requests += 1
        name = str(self._requests)
        params = self._params(temperature=0.0, max_tokens=tokens, ignore_eos=True, detokenize=False)
        self._engine.add_request(name, {"prompt_token_ids": list(prompt)}, params)
        self._running.append(name)
