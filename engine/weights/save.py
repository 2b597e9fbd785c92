"""Writing a checkpoint: safetensors files that are whole or not there, in shards where there is much."""

from collections.abc import Iterable
from pathlib import Path

import msgspec
import numpy as np
from safetensors.numpy import save_file

SHARD_BYTES = 4_000_000_000


def save_tensors(directory: Path, tensors: Iterable[tuple[str, np.ndarray]], shard_bytes: int = SHARD_BYTES) -> None:
    """Write `model.safetensors`, or numbered shards and their index, into `directory`.

    The tensors are asked for one after the other, and at most a shard of them is in memory. Raises OSError.
    """
    shards: list[dict[str, int]] = []  # of each: tensor -> bytes
    waiting: dict[str, np.ndarray] = {}

    def write() -> None:
        file = directory / _part(len(shards))
        save_file(waiting, file, metadata={"format": "pt"})
        file.chmod(0o644)  # safetensors makes files that only their owner can read
        shards.append({name: tensor.nbytes for name, tensor in waiting.items()})
        waiting.clear()

    for name, tensor in tensors:
        if waiting and sum(other.nbytes for other in waiting.values()) + tensor.nbytes > shard_bytes:
            write()
        waiting[name] = np.ascontiguousarray(tensor)
    write()
    if len(shards) == 1:
        (directory / _part(0)).rename(directory / "model.safetensors")
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards):
        file = f"model-{number + 1:05}-of-{len(shards):05}.safetensors"
        (directory / _part(number)).rename(directory / file)
        weight_map |= dict.fromkeys(shard, file)
    index = {"metadata": {"total_size": sum(sum(shard.values()) for shard in shards)}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_bytes(msgspec.json.format(msgspec.json.encode(index)))


def _part(number: int) -> str:
    return f"part-{number}.safetensors"
