"""One clock for everything: CLOCK_MONOTONIC in nanoseconds, and the way there from the kernel's stamps.

The kernel stamps packets with CLOCK_REALTIME. Both clocks run at the same rate, so their distance is a
constant until somebody sets the time; it is measured before a run, and again after it.
"""

import time

now_ns = time.monotonic_ns

SAMPLES = 64


def realtime_offset_ns() -> int:
    """CLOCK_REALTIME minus CLOCK_MONOTONIC, from the reading that was interrupted least."""
    best_width, best_offset = 1 << 62, 0
    for _ in range(SAMPLES):
        before = time.monotonic_ns()
        realtime = time.time_ns()
        after = time.monotonic_ns()
        if after - before < best_width:
            best_width, best_offset = after - before, realtime - (before + after) // 2
    return best_offset
