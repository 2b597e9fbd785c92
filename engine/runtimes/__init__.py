"""Runtimes execute step plans. Each is one `Worker`; all read the same `ModelSpec` and pass the same tests.

A worker owns the bytes of the KV cache and the state of the slots. It never sees a queue, a clock or text.
"""

import logging
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from engine.config import EngineOptions, ModelOptions
from engine.errors import ConfigError
from engine.sched.plan import StepPlan, StepResult
from engine.types import Pooling

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class WorkerInfo:
    """What a loaded worker tells the core; `num_blocks` counts the reserved block 0."""

    architecture: str
    runtime: str
    dtype: str
    weight_format: str = ""  # of linear layers, where that is not the dtype
    vocab_size: int
    eos_token_ids: tuple[int, ...]
    max_context: int
    num_blocks: int
    num_slots: int  # counts the reserved slot 0
    num_parameters: int
    weight_bytes: int
    kv_bytes: int
    is_encoder: bool = False  # computes texts to embed only, each as one bidirectional chunk
    embedding_size: int = 0
    pooling: Pooling = "last"
    normalizes: bool = False
    embed_truncation: int | None = None  # see EngineInfo; None = max_context


class Masks(Protocol):
    """The tokens that grammars allow in one step. They are being computed when a worker gets them."""

    def rows(self, request_id: int) -> NDArray[np.uint32] | None:
        """`[num_draft + 1, at least ceil(vocab_size / 32)]`: a bit for each token, the lowest id in the lowest bit.

        Row i is for the token after i drafts. None where the request has no grammar. Waits, so that it should be
        called once there are logits. Raises GenerationFailed, which ends the request.
        """


class Worker(Protocol):
    @property
    def info(self) -> WorkerInfo: ...

    def execute(self, plan: StepPlan, masks: Masks | None = None) -> StepResult:
        """Apply `leave` and `enter`, compute every chunk, sample where asked, only tokens that `masks` allow.

        What goes wrong for one request (a logit that is not a number, say) is reported in its
        `ChunkOutput.error`; an exception means that the whole step failed.
        """

    def close(self) -> None: ...


RUNTIMES = ("native", "reference")  # the fastest first


def load_worker(options: EngineOptions) -> Worker:
    """Load the model at `options.model.path` into the named runtime, or the best one there is.

    Raises the subclasses of `StartError`.
    """
    name = options.model.runtime
    if name not in ("auto", *RUNTIMES):
        raise ConfigError(f"unknown runtime '{name}'; choose one of: auto, {', '.join(RUNTIMES)}")
    if name != "reference":
        from engine.runtimes.native import available

        reason = available()
        if reason is None:
            from engine.runtimes.native.worker import NativeWorker

            return NativeWorker.load(options)
        if name == "native":
            raise ConfigError(reason)
        log.warning("serving on the slow reference runtime: %s", reason)
    _check_reference(options.model)
    from engine.runtimes.reference.threads import limit_threads

    limit_threads(options.model)
    from engine.runtimes.reference.worker import ReferenceWorker

    return ReferenceWorker.load(options)


def _check_reference(options: ModelOptions) -> None:
    """Refuse what the reference runtime cannot do, rather than do something else. Raises ConfigError."""
    for name, value in (("quantize", options.quantize), ("kv_cache_dtype", options.kv_cache_dtype)):
        if value is not None:
            raise ConfigError(f"{name} '{value}' needs the native runtime; the reference runtime computes in float32")
