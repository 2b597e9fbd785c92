"""What every worker does with the masks of a step: it asks for them late, obeys them, and survives those that fail."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from tiny_models import make_checkpoint

from engine.config import CacheOptions, EngineOptions, ModelOptions
from engine.errors import GenerationFailed
from engine.runtimes import Worker, load_worker
from engine.runtimes.native import available
from engine.sched.plan import Chunk, ChunkOutput, Enter, StepPlan
from engine.types import SamplingParams

PROMPT = (5, 6, 7)
WORDS = 3  # of a vocabulary of 96


@pytest.fixture(scope="module", params=["reference", "native"])
def worker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Worker:
    if request.param == "native" and (reason := available()):
        pytest.skip(reason)
    path: Path = make_checkpoint(tmp_path_factory.mktemp("model"))
    model = ModelOptions(path=str(path), runtime=request.param, threads=2)
    return load_worker(EngineOptions(model=model, cache=CacheOptions(num_blocks=16)))


class ScriptedMasks:
    """Masks by request id, or what is raised for it."""

    def __init__(self, masks: dict[int, np.ndarray | Exception | None]) -> None:
        self._masks = masks
        self.asked: list[int] = []

    def rows(self, request_id: int) -> np.ndarray | None:
        self.asked.append(request_id)
        mask = self._masks.get(request_id)
        if isinstance(mask, Exception):
            raise mask
        return mask


def only(*rows: Sequence[int], words: int = WORDS) -> np.ndarray:
    """A mask with these ids in each row."""
    mask = np.zeros((len(rows), words), np.uint32)
    for row, ids in zip(mask, rows, strict=True):
        for i in ids:
            row[i // 32] |= np.uint32(1 << i % 32)
    return mask


def step(
    worker: Worker, masks: ScriptedMasks | None, drafts: Sequence[Sequence[int]] = ((), (), ())
) -> dict[int, ChunkOutput]:
    """Three requests in slots 1 to 3, the same prompt, a draft for each."""
    params = SamplingParams(logprobs=True)
    enter = tuple(Enter(i, i, PROMPT, len(PROMPT), params) for i in (1, 2, 3))
    chunks = tuple(
        Chunk(i, i, 0, (*PROMPT, *draft), len(draft), (i,), sample=True)
        for i, draft in zip((1, 2, 3), drafts, strict=True)
    )
    return dict(worker.execute(StepPlan(1, chunks, enter, leave=(1, 2, 3)), masks).outputs)


def test_masks_are_obeyed_and_change_nobody_else(worker: Worker) -> None:
    plain = step(worker, None)
    token = plain[1].tokens[0]
    other = (token + 40) % 96
    masks = ScriptedMasks({1: only([other]), 3: only(range(96), words=WORDS + 1)})
    masked = step(worker, masks)
    assert masked[1] == ChunkOutput(tokens=(other,), logprobs=(0.0,))
    assert (masked[2], masked[3]) == (plain[2], plain[3])
    assert sorted(masks.asked) == [1, 2, 3]


def test_each_draft_has_its_row(worker: Worker) -> None:
    drafts = ((10, 11, 12), (10, 11, 12), ())
    everything = range(96)
    masks = ScriptedMasks(
        {1: only([10], [11], [12], [13]), 2: only([10], [50], everything, everything), 3: only([95, 0])}
    )
    outputs = step(worker, masks, drafts)
    assert outputs[1].tokens == (10, 11, 12, 13)
    assert outputs[2].tokens == (10, 50)
    assert outputs[3].tokens[0] in (95, 0)


def test_a_mask_that_fails_ends_its_request_only(worker: Worker) -> None:
    plain = step(worker, None)
    outputs = step(worker, ScriptedMasks({2: GenerationFailed("too costly")}))
    assert outputs == {1: plain[1], 2: ChunkOutput(error="too costly"), 3: plain[3]}


def test_nothing_allowed_is_an_error_of_its_request(worker: Worker) -> None:
    plain = step(worker, None)
    outputs = step(worker, ScriptedMasks({2: only([])}))
    assert "nothing but minus infinity" in str(outputs[2].error)
    assert (outputs[1], outputs[3]) == (plain[1], plain[3])


@pytest.mark.parametrize("worker", ["native"], indirect=True)  # numpy checks its own arrays
def test_the_native_module_refuses_masks_of_the_wrong_size(worker: Worker) -> None:
    step(worker, None)
    for bad in (only([1], words=WORDS - 1), np.zeros((0, WORDS), np.uint32)):
        with pytest.raises(ValueError, match="too few rows or words"):
            step(worker, ScriptedMasks({1: bad}))
    assert len(step(worker, None)) == 3
