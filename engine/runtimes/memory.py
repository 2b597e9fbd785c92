"""How many KV blocks to make: as asked, or what a bounded share of the free memory holds."""

import os
from pathlib import Path

from engine.config import EngineOptions
from engine.errors import ConfigError

MEMORY_SHARE = 0.3  # of what is available goes to the KV cache; the rest is for weights, activations and others

CONTROL_GROUP = Path("/sys/fs/cgroup")
GROUP_FILES = (  # the limit and what is used of it, in both versions of the interface
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)


def count_blocks(options: EngineOptions, block_bytes: int, max_context: int, *, transient: bool = False) -> int:
    """Blocks of the pool, the reserved block 0 included. Raises ConfigError.

    `cache.num_blocks` decides, else `scheduler.max_batch_total_tokens`, else the memory at hand; of that never more
    than all requests together can fill, or, if the cache is `transient` (nothing outlives a step), than one step can.
    """
    block_size = options.cache.block_size
    if block_size < 1:
        raise ConfigError(f"the block size must be 1 or more. Given: {block_size}")
    if options.scheduler.max_batch_size < 1:
        raise ConfigError(f"max_batch_size must be 1 or more. Given: {options.scheduler.max_batch_size}")
    if options.cache.num_blocks is not None:
        if options.cache.num_blocks < 2:
            raise ConfigError(
                f"the number of blocks must be 2 or more, one is reserved. Given: {options.cache.num_blocks}"
            )
        return options.cache.num_blocks
    total_tokens = options.scheduler.max_batch_total_tokens
    if total_tokens is not None:
        if total_tokens < 1:
            raise ConfigError(f"max_batch_total_tokens must be 1 or more. Given: {total_tokens}")
        return -(-total_tokens // block_size) + 1
    fitting = int(available_memory() * MEMORY_SHARE) // block_bytes
    if fitting < 2:
        raise ConfigError(
            f"a KV cache of two blocks needs {2 * block_bytes / MEMORY_SHARE / 1e6:.0f} MB of free memory; "
            "choose a smaller block size, or set max_batch_total_tokens to use more of the memory"
        )
    most = -(-max_context // block_size) * options.scheduler.max_batch_size
    if transient:
        in_step = -(-options.scheduler.max_batch_prefill_tokens // block_size) + options.scheduler.max_batch_size
        most = min(most, -(-in_step * 16 // 15))  # the scheduler keeps a sixteenth of the pool free
    return min(fitting, most + 1)


def available_memory() -> int:
    """Bytes this process may still take: of the machine, and of its control group where that has a limit."""
    return max(0, min([_machine_memory(), *_group_memory()]))


def _machine_memory() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _group_memory() -> list[int]:
    """What is left of the control group's limit, where it has one."""
    left = []
    for limit, usage in GROUP_FILES:
        try:
            left.append(int((CONTROL_GROUP / limit).read_text()) - int((CONTROL_GROUP / usage).read_text()))
        except (OSError, ValueError):  # no such file, or a limit of "max"
            continue
    return left
