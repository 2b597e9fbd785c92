"""The KV cache: one array of keys and one of values, in pages (Kwon et al. 2023)."""

import numpy as np

from engine.errors import ConfigError
from engine.models.spec import ModelSpec


class KVCache:
    """Keys and values `[kv_layers, blocks, block_size, kv_heads, head_dim]` in float32.

    The operating system commits a page of memory when it is first written, so an unused block costs nothing.
    Raises ConfigError where it refuses even the addresses.
    """

    def __init__(self, spec: ModelSpec, num_blocks: int, block_size: int) -> None:
        shape = (spec.kv_layers, num_blocks, block_size, spec.num_kv_heads, spec.head_dim)
        self.block_size = block_size
        self.num_blocks = num_blocks
        try:
            self.keys = np.zeros(shape, np.float32)
            self.values = np.zeros(shape, np.float32)
        except (MemoryError, ValueError) as error:  # ValueError: more than an array can be
            size = num_blocks * block_bytes(spec, block_size) / 1e9
            raise ConfigError(
                f"a KV cache of {num_blocks} blocks takes {size:.1f} GB, more than this machine gives; "
                "lower the number of blocks or max_batch_total_tokens"
            ) from error

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes

    def write(self, layer: int, start: int, blocks: np.ndarray, keys: np.ndarray, values: np.ndarray) -> None:
        """Store keys and values `[n, kv_heads, head_dim]` of the positions `start, start + 1, ...` of one request."""
        positions = np.arange(start, start + len(keys))
        where = blocks[positions // self.block_size], positions % self.block_size
        self.keys[layer][where] = keys
        self.values[layer][where] = values

    def read(self, layer: int, start: int, end: int, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Keys and values `[end - start, kv_heads, head_dim]` of the positions from `start` to `end` of one request."""
        first = start // self.block_size
        pages = blocks[first : -(-end // self.block_size)]
        within = slice(start - first * self.block_size, end - first * self.block_size)
        keys, values = self.keys[layer][pages], self.values[layer][pages]
        return keys.reshape(-1, *keys.shape[2:])[within], values.reshape(-1, *values.shape[2:])[within]


def block_bytes(spec: ModelSpec, block_size: int) -> int:
    """Bytes of one block over all layers."""
    return 2 * spec.kv_layers * block_size * spec.num_kv_heads * spec.head_dim * np.dtype(np.float32).itemsize
