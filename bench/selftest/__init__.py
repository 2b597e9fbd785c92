"""`tgi bench selftest`: certifies the load tester on this machine.

Everything it claims is measured against the mock, whose times are known, or by simulation; every check has its
figure and its bound. Speed and delays are measured up to three times where a check fails, because other programs on
a machine can only make them worse; counts and statistics get no second chance.
"""

from collections.abc import Callable
from functools import partial
from typing import TextIO

from bench.selftest.check import Check, best_of, measured

__all__ = ["Check", "run_selftest"]


def run_selftest(quick: bool, out: TextIO) -> list[Check]:
    """Run every check, writing each line as soon as it is known. `quick` measures as much, for a shorter time."""
    print(f"{'':6}{'measured':>12} {'':9}{'bound':>14}  check", file=out, flush=True)
    checks: list[Check] = []
    for measure in _measurements():
        for check in measure(quick):
            checks.append(check)
            print(line(check), file=out, flush=True)
    failed = sum(not check.passed for check in checks)
    verdict = f"{failed} of {len(checks)} checks FAILED" if failed else f"all {len(checks)} checks passed"
    print(verdict, file=out, flush=True)
    return checks


def line(check: Check) -> str:
    note = f"  ({check.note})" if check.note else ""
    verdict = "ok" if check.passed else "FAILED"
    return f"{verdict:6}{check.figure:>12,.4g} {check.unit:9}{check.bound:>14}  {check.name}{note}"


def _measurements() -> list[Callable[[bool], list[Check]]]:
    from bench.selftest import accuracy, counts, simulated, speed

    shaky = (
        speed.cpu_per_event,
        speed.throughput,
        speed.many_streams,
        speed.schedule,
        accuracy.stamps,
        accuracy.means,
        accuracy.stall,
    )
    exact = (counts.tokens, counts.corpus, simulated.statistics)
    return [*(partial(best_of, measure) for measure in shaky), *(partial(measured, measure) for measure in exact)]
