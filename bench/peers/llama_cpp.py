"""llama.cpp through the low-level binding of llama-cpp-python: one sequence of its KV cache for each prompt.

Logits are compared with numpy, which is quicker than llama.cpp's own greedy sampler.
"""

import ctypes
import time
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

STEP_TOKENS = 512  # llama.cpp's own default for one step


class LlamaCpp:
    def __init__(self, model: str, variant: str, threads: int, tokens: int) -> None:
        from llama_cpp import llama_cpp

        self._api: Any = llama_cpp
        self.version = version("llama-cpp-python")
        self._threads = threads
        self._quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self._quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        path = f"{model}/gguf/{variant}.gguf"
        self._model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
        if not self._model:
            raise FileNotFoundError(f"llama.cpp could not load {path}")
        self._vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        self._context: Any = None
        self._tokens: list[int] = []
        self._length = 0

    def prefill(self, prompt: Sequence[int]) -> float:
        self._open(1, len(prompt))
        start = time.perf_counter()
        self._compute(prompt, 0)
        self._argmax(-1)
        seconds = time.perf_counter() - start
        self.stop()
        return seconds

    def start(self, prompts: Sequence[Sequence[int]], room: int) -> None:
        self._open(len(prompts), len(prompts[0]) + room + 1)
        self._tokens = []
        for sequence, prompt in enumerate(prompts):
            self._compute(prompt, sequence)
            self._tokens.append(self._argmax(-1))
        self._length = len(prompts[0])

    def decode(self, steps: int) -> float:
        count = len(self._tokens)
        batch = self._api.llama_batch_init(count, 0, 1)
        start = time.perf_counter()
        for _ in range(steps):
            batch.n_tokens = count
            for row, token in enumerate(self._tokens):
                self._set(batch, row, token, self._length, row, True)
            self._decode(batch)
            self._tokens = [self._argmax(row) for row in range(count)]
            self._length += 1
        seconds = time.perf_counter() - start
        self._api.llama_batch_free(batch)
        return seconds

    def stop(self) -> None:
        self._api.llama_free(self._context)
        self._context = None

    def score(self, tokens: Sequence[int]) -> float:
        """The log probability of every token but the first, added up."""
        self._open(1, len(tokens))
        total = 0.0
        batch = self._api.llama_batch_init(STEP_TOKENS, 0, 1)
        for first in range(0, len(tokens) - 1, STEP_TOKENS):
            batch.n_tokens = min(STEP_TOKENS, len(tokens) - 1 - first)
            for row in range(batch.n_tokens):
                self._set(batch, row, tokens[first + row], first + row, 0, True)
            self._decode(batch)
            for row in range(batch.n_tokens):
                logits = self._logits(row).astype(np.float64)
                total += logits[tokens[first + row + 1]] - np.logaddexp.reduce(logits)
        self._api.llama_batch_free(batch)
        self.stop()
        return float(total)

    def _open(self, sequences: int, length: int) -> None:
        """A context in which each sequence has a KV cache of its own, which llama.cpp reads fastest."""
        params = self._api.llama_context_default_params()
        each = -(-length // 256) * 256
        params.n_ctx, params.n_seq_max, params.kv_unified = sequences * each, sequences, False
        params.n_batch = params.n_ubatch = STEP_TOKENS
        params.n_threads = params.n_threads_batch = self._threads
        self._context = self._api.llama_init_from_model(self._model, params)
        if not self._context:
            raise MemoryError(f"llama.cpp could not make a context of {sequences} x {each} tokens")

    def _compute(self, tokens: Sequence[int], sequence: int) -> None:
        """Compute a prompt; its last row gets logits."""
        batch = self._api.llama_batch_init(STEP_TOKENS, 0, 1)
        for first in range(0, len(tokens), STEP_TOKENS):
            part = tokens[first : first + STEP_TOKENS]
            batch.n_tokens = len(part)
            for row, token in enumerate(part):
                last = first + row == len(tokens) - 1
                self._set(batch, row, token, first + row, sequence, last)
            self._decode(batch)
        self._api.llama_batch_free(batch)

    def _set(self, batch: Any, row: int, token: int, position: int, sequence: int, logits: bool) -> None:
        batch.token[row] = token
        batch.pos[row] = position
        batch.n_seq_id[row] = 1
        batch.seq_id[row][0] = sequence
        batch.logits[row] = logits

    def _decode(self, batch: Any) -> None:
        failed = self._api.llama_decode(self._context, batch)
        if failed:
            raise RuntimeError(f"llama_decode returned {failed}")

    def _argmax(self, row: int) -> int:
        return int(self._logits(row).argmax())

    def _logits(self, row: int) -> np.ndarray:
        return np.ctypeslib.as_array(self._api.llama_get_logits_ith(self._context, row), (self._vocab,))
