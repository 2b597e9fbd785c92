"""transformers: the model's forward with its own cache, in a loop without the cost of `generate` around it."""

import time
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any


class Transformers:
    def __init__(self, model: str, variant: str, threads: int, tokens: int) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self._torch: Any = torch
        self.version = version("transformers")
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self._model: Any = AutoModelForCausalLM.from_pretrained(f"{model}/hf", dtype=getattr(torch, variant))
        self._cache: Any = None
        self._tokens: Any = None

    def prefill(self, prompt: Sequence[int]) -> float:
        start = time.perf_counter()
        self.start([prompt], 0)
        return time.perf_counter() - start

    def start(self, prompts: Sequence[Sequence[int]], room: int) -> None:
        self._cache = None
        self._step(self._torch.tensor(prompts))

    def decode(self, steps: int) -> float:
        start = time.perf_counter()
        for _ in range(steps):
            self._step(self._tokens)
        return time.perf_counter() - start

    def stop(self) -> None:
        self._cache = None

    def _step(self, tokens: Any) -> None:
        made = self._model(tokens, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        self._cache = made.past_key_values
        self._tokens = made.logits[:, -1].argmax(-1, keepdim=True)
