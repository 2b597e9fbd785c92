"""What the step loop keeps of requests with a grammar: a matcher each, and the threads that work for them.

Nothing here makes the loop wait. A grammar is compiled in a thread, and its request is admitted when that is done. The
masks of a step are computed in threads while the model computes the logits they are for; a worker waits for them only
before it samples, and not for long: a request whose mask does not come in time ends, the others go on.

A matcher follows the tokens its request is known to have, so a preemption changes nothing, and a draft is followed
only while its masks are computed.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotInTime
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from engine.errors import EngineError, GenerationFailed, InvalidRequest
from engine.sched.plan import StepPlan
from engine.types import Grammar

if TYPE_CHECKING:  # llguidance takes a while to import, and most engines never see a grammar
    from engine.text.grammar import Compiler, Matcher

log = logging.getLogger(__name__)

THREADS = 2  # for compiling, and as many for masks
MASK_SECONDS = 1.0  # that a worker waits for a mask once it has the logits; some microseconds are usual


class StepMasks:
    """The tokens that grammars allow in one step; being computed when a worker gets it (`engine.runtimes.Masks`)."""

    def __init__(self, futures: Mapping[int, "Future[NDArray[np.uint32]]"], patience: float) -> None:
        self._futures = futures
        self._patience = patience

    def rows(self, request_id: int) -> NDArray[np.uint32] | None:
        """`[num_draft + 1, words]`, see `Matcher.masks`; None where the request has no grammar. Waits.

        Raises GenerationFailed where the grammar cannot be followed any further.
        """
        if request_id not in self._futures:
            return None
        try:
            return self._futures[request_id].result(self._patience)
        except GenerationFailed:
            raise
        except NotInTime:
            raise GenerationFailed("the grammar cannot be followed any further: it takes too long") from None
        except Exception as error:
            log.exception("the mask of request %d failed", request_id)
            raise GenerationFailed(f"the grammar cannot be followed any further: {error}") from error


class Constraints:
    """The matchers of the requests that have a grammar. Called by the thread of the step loop only.

    `load` makes the compiler; it is called with the first grammar, in a thread, or by `warm`. A worker waits `patience`
    seconds for a mask.
    """

    def __init__(self, load: "Callable[[], Compiler]", patience: float = MASK_SECONDS) -> None:
        self._load = load
        self._patience = patience
        self._compilers = ThreadPoolExecutor(THREADS, thread_name_prefix="grammar")
        self._maskers = ThreadPoolExecutor(THREADS, thread_name_prefix="mask")
        self._compiling: dict[int, Future[Matcher]] = {}
        self._matchers: dict[int, Matcher] = {}
        self.on_compiled: Callable[[], None] = lambda: None  # called from another thread

    @cached_property
    def _compiler(self) -> "Compiler":
        return self._load()

    def warm(self) -> None:
        """Make the compiler now, which other threads would have to wait for later."""
        try:
            _ = self._compiler
        except EngineError as error:
            log.info("%s", error)

    @property
    def compiling(self) -> bool:
        return bool(self._compiling)

    def compile(self, request_id: int, grammar: Grammar) -> None:
        """Begin to compile; `compiled` tells when it is done."""
        future = self._compilers.submit(self._compile, grammar)
        self._compiling[request_id] = future
        future.add_done_callback(lambda _: self.on_compiled())

    def _compile(self, grammar: Grammar) -> "Matcher":
        return self._compiler.compile(grammar)

    def compiled(self) -> list[tuple[int, EngineError | None]]:
        """The requests whose grammars have been compiled since the last call, or why they could not be."""
        done = [(request_id, future) for request_id, future in self._compiling.items() if future.done()]
        outcomes: list[tuple[int, EngineError | None]] = []
        for request_id, future in done:
            del self._compiling[request_id]
            try:
                self._matchers[request_id] = future.result()
                outcomes.append((request_id, None))
            except Exception as error:
                if not isinstance(error, InvalidRequest):
                    log.error("a grammar could not be compiled", exc_info=error)
                invalid = error if isinstance(error, EngineError) else InvalidRequest(f"grammar is not valid: {error}")
                outcomes.append((request_id, invalid))
        return outcomes

    def masks(self, plan: StepPlan) -> StepMasks | None:
        """Begin to compute the masks of a step; None where no request in it has a grammar."""
        futures = {
            chunk.request_id: self._maskers.submit(
                self._matchers[chunk.request_id].masks, chunk.tokens[len(chunk.tokens) - chunk.num_draft :]
            )
            for chunk in plan.chunks
            if chunk.sample and chunk.request_id in self._matchers
        }
        return StepMasks(futures, self._patience) if futures else None

    def advance(self, request_id: int, tokens: Sequence[int]) -> None:
        """Follow tokens that the request now has."""
        if tokens and request_id in self._matchers:
            self._matchers[request_id].advance(tokens)

    def drop(self, request_id: int) -> None:
        """Forget a request, if it is known here."""
        self._matchers.pop(request_id, None)
        if (future := self._compiling.pop(request_id, None)) is not None:
            future.cancel()

    def close(self) -> None:
        for threads in (self._compilers, self._maskers):
            threads.shutdown(wait=False, cancel_futures=True)
