"""The step loop and grammars: nothing a grammar needs makes another request wait, and its failures are its own."""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from test_core import CountingWorker, core, request, run, tokens

from engine.constraints import Constraints
from engine.core import EngineCore
from engine.errors import GenerationFailed, InvalidRequest
from engine.runtimes import Masks
from engine.sched.plan import ChunkOutput, StepPlan, StepResult
from engine.types import FinishReason, Grammar
from engine.wire import Refused

GRAMMAR = Grammar("regex", "anything")
PATIENCE = 0.05


class ScriptedMatcher:
    """Allows everything, and does to a mask what the test wants."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.fails_at: int | None = None  # a mask
        self.masked: list[tuple[int, ...]] = []
        self.tokens: list[int] = []

    def masks(self, draft: Sequence[int] = ()) -> np.ndarray:
        self.masked.append(tuple(draft))
        assert self.gate.wait(30)
        if self.fails_at == len(self.masked):
            raise GenerationFailed("the grammar cannot be followed any further: no text matches it")
        return np.full((len(draft) + 1, 32), 0xFFFFFFFF, np.uint32)

    def advance(self, tokens: Sequence[int]) -> None:
        self.tokens += tokens


class ScriptedCompiler:
    def __init__(self, matcher: ScriptedMatcher) -> None:
        self.matcher = matcher
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Event()
        self.error: Exception | None = None

    def compile(self, grammar: Grammar) -> Any:
        self.begun.set()
        assert self.gate.wait(30)
        if self.error is not None:
            raise self.error
        return self.matcher


class MaskedWorker(CountingWorker):
    """Reads the masks of its requests, as a worker does before it samples."""

    def execute(self, plan: StepPlan, masks: Masks | None = None) -> StepResult:
        outputs = dict(super().execute(plan).outputs)
        for chunk in plan.chunks:
            try:
                rows = masks.rows(chunk.request_id) if masks is not None else None
                assert rows is None or rows.shape[0] == chunk.num_draft + 1
            except GenerationFailed as error:
                outputs[chunk.request_id] = ChunkOutput(error=str(error))
        return StepResult(plan.step, outputs)


def engine_of(compiler: ScriptedCompiler) -> EngineCore:
    engine = core(MaskedWorker())
    engine.constraints = Constraints(lambda: compiler, PATIENCE)  # type: ignore[arg-type, return-value]
    return engine


@pytest.fixture
def compiler() -> ScriptedCompiler:
    return ScriptedCompiler(ScriptedMatcher())


def test_others_run_while_a_grammar_is_compiled(compiler: ScriptedCompiler) -> None:
    compiler.gate.clear()
    engine = engine_of(compiler)
    engine.add(1, request(9, grammar=GRAMMAR))  # so that the end token does not come
    assert compiler.begun.wait(30)
    engine.add(2, request(5, 4))
    events = [event for _ in range(4) for event in engine.step()]
    assert {event.request_id for event in events} == {2}
    assert events[-1].finish_reason is FinishReason.LENGTH  # the second has come and gone
    assert engine.has_work
    compiler.gate.set()
    later = run(engine)
    assert len(tokens(later, 1)) == 4
    assert compiler.matcher.tokens == tokens(later, 1)[:3]  # those after which it goes on


def test_a_mask_that_does_not_come_ends_its_request_only(compiler: ScriptedCompiler) -> None:
    matcher = compiler.matcher
    matcher.gate.clear()
    engine = engine_of(compiler)
    engine.add(1, request(grammar=GRAMMAR))
    engine.add(2, request(5, 4))
    events = run(engine)
    matcher.gate.set()
    [failed] = [event for event in events if event.request_id == 1]
    assert failed.finish_reason is FinishReason.ERROR
    assert failed.error == "the grammar cannot be followed any further: it takes too long"
    assert len(tokens(events, 2)) == 4


def test_a_grammar_that_fails_on_the_way_ends_its_request_only(compiler: ScriptedCompiler) -> None:
    compiler.matcher.fails_at = 3
    engine = engine_of(compiler)
    engine.add(1, request(grammar=GRAMMAR))
    engine.add(2, request(5, 4))
    events = run(engine)
    assert len(tokens(events, 1)) == 2
    [error] = [event.error for event in events if event.request_id == 1 and event.error]
    assert "no text matches it" in error
    assert len(tokens(events, 2)) == 4
    assert engine.stats.blocks_used == 0


def test_a_bug_in_a_matcher_is_logged_and_ends_its_request_only(
    compiler: ScriptedCompiler, caplog: pytest.LogCaptureFixture
) -> None:
    compiler.matcher.masks = lambda draft=(): 1 / 0  # type: ignore[assignment, return-value, misc]
    engine = engine_of(compiler)
    engine.add(1, request(grammar=GRAMMAR))
    engine.add(2, request(5, 4))
    events = run(engine)
    assert "division by zero" in str(events[0].error) or "division by zero" in str(events[1].error)
    assert "the mask of request 1 failed" in caplog.text
    assert len(tokens(events, 2)) == 4


@pytest.mark.parametrize("error", [InvalidRequest("grammar is not valid: why"), RuntimeError("why")])
def test_a_grammar_that_cannot_be_compiled_is_refused(
    compiler: ScriptedCompiler, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    compiler.error = error
    engine = engine_of(compiler)
    engine.add(1, request(grammar=GRAMMAR))
    answers: list[Any] = []
    while engine.has_work:
        answers += engine.step()
    assert answers == [Refused(1, "InvalidRequest", "grammar is not valid: why")]
    engine.add(1, request())  # the id is free again
    assert len(tokens(run(engine), 1)) == 4


def test_a_request_can_be_cancelled_while_its_grammar_is_compiled(compiler: ScriptedCompiler) -> None:
    compiler.gate.clear()
    engine = engine_of(compiler)
    engine.add(1, request(grammar=GRAMMAR))
    with pytest.raises(InvalidRequest, match="in use"):
        engine.add(1, request(grammar=GRAMMAR))
    engine.cancel(1)
    assert not engine.has_work
    compiler.gate.set()
    assert run(engine) == []


def test_a_request_that_is_too_long_is_refused_when_it_is_admitted(compiler: ScriptedCompiler) -> None:
    engine = engine_of(compiler)
    engine.add(1, request(60, 60, grammar=GRAMMAR))
    answers: list[Any] = []
    while engine.has_work:
        answers += engine.step()
    assert [(type(answer), answer.kind) for answer in answers] == [(Refused, "InvalidRequest")]
