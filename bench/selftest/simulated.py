"""The statistics, on made-up data whose truth is known. Seeds are fixed: the figures are the same everywhere."""

from bench.selftest.check import Check
from bench.stats.simulate import all_simulations


def statistics(quick: bool) -> list[Check]:
    """All of them take seconds, so that `quick` does not matter."""
    return [
        Check(
            name=outcome.name,
            figure=outcome.share * 100,
            unit="%",
            low=outcome.low * 100,
            high=outcome.high * 100,
            note=f"{outcome.trials:,} trials",
        )
        for outcome in all_simulations()
    ]
