"""Encoders of any pooling, and steps that embed texts, in place of a scheduler."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tiny_models import make_checkpoint

from engine.config import CacheOptions, EngineOptions, ModelOptions, SchedulerOptions
from engine.runtimes import Worker
from engine.sched.plan import Chunk, ChunkOutput, Enter, StepPlan
from engine.types import SamplingParams

BLOCK = 4
MODES = {"mean": "mean_tokens", "cls": "cls_token", "max": "max_tokens", "last": "lasttoken"}


def make_encoder(path: Path, pooling: str = "mean", architecture: str = "BertModel", **options: Any) -> Path:
    """A tiny random checkpoint that pools in this way."""
    make_checkpoint(path, architecture, **options)
    (path / "1_Pooling").mkdir()
    (path / "1_Pooling/config.json").write_text(json.dumps({f"pooling_mode_{MODES[pooling]}": True}))
    return path


def worker_options(path: Path, **model: Any) -> EngineOptions:
    return EngineOptions(
        model=ModelOptions(path=str(path), **model),
        cache=CacheOptions(block_size=BLOCK, num_blocks=200),
        scheduler=SchedulerOptions(max_batch_size=16),
    )


def embed(
    worker: Worker, texts: Sequence[Sequence[int]], rng: random.Random | None = None, others: Sequence[Chunk] = ()
) -> list[ChunkOutput]:
    """Embed the texts in one step, in blocks and slots that `rng` draws, with the chunks of `others` between them.

    Returns the outputs of the texts, then those of the others.
    """
    rng = rng or random.Random(0)
    taken = {block for chunk in others for block in chunk.blocks}
    blocks = [block for block in range(1, worker.info.num_blocks) if block not in taken]
    slots = [slot for slot in range(1, worker.info.num_slots) if slot not in {chunk.slot for chunk in others}]
    rng.shuffle(blocks)
    rng.shuffle(slots)
    chunks, enter = [], []
    for index, text in enumerate(texts):
        own = tuple(blocks.pop() for _ in range(-(-len(text) // BLOCK)))
        slot = slots.pop()
        enter.append(Enter(index, slot, tuple(text), len(text), SamplingParams(max_new_tokens=0)))
        both = worker.info.is_encoder
        chunks.append(Chunk(index, slot, 0, tuple(text), 0, own, False, embed=True, bidirectional=both))
    mixed = [*chunks, *others]
    rng.shuffle(mixed)
    result = worker.execute(StepPlan(1, tuple(mixed), tuple(enter)))
    worker.execute(StepPlan(2, (), leave=tuple(chunk.slot for chunk in chunks)))
    return [result.outputs[index] for index in (*range(len(texts)), *(chunk.request_id for chunk in others))]
