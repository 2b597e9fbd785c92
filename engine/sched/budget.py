"""How much: which requests can run at all, the share of a step each row gets, and when a prompt may join."""

from engine.errors import InvalidRequest


def blocks_for(tokens: int, block_size: int) -> int:
    """Blocks that hold so many tokens."""
    return -(-tokens // block_size)


def check_size(given: int, new: int, capacity: int) -> None:
    """Refuse a request of `given` prompt tokens and `new` to generate that could never run. Raises InvalidRequest."""
    if given < 1:
        raise InvalidRequest("`inputs` cannot be empty")
    if new < 1:
        raise InvalidRequest("`max_new_tokens` must be strictly positive")
    if given + new > capacity:
        raise InvalidRequest(
            f"`inputs` tokens + `max_new_tokens` must be <= {capacity}. "
            f"Given: {given} `inputs` tokens and {new} `max_new_tokens`"
        )


def check_text(given: int, limit: int) -> None:
    """Refuse a text that is to be embedded and does not fit one step. Raises InvalidRequest."""
    if given < 1:
        raise InvalidRequest("`inputs` cannot be empty")
    if given > limit:
        raise InvalidRequest(f"`inputs` must have at most {limit} tokens to be embedded. Given: {given}")


def share(budget: int, behind: int) -> int:
    """Tokens of the budget a row may use: all but one for each row behind it, so a long prompt stalls nobody."""
    return max(1, budget - behind)


def gate_open(waiting: int, running: int, ratio: float | None) -> bool:
    """Whether every waiting prompt may join the running rows (TGI's `waiting_served_ratio`)."""
    return running == 0 or ratio is None or waiting >= ratio * running


def admits(needed: int, available: int, running: int, capacity: int) -> bool:
    """Whether a request that needs so many new blocks may join.

    Beside running rows some blocks stay free, or the newcomer would be the next victim: one for each row to
    grow into, but no more than a sixteenth of the pool. Nothing running: what fits the pool is admitted.
    """
    return needed + min(running, blocks_for(capacity, 16)) <= available
