"""Proposers guess the next tokens of a sequence; the model then checks the guesses in one step.

A wrong guess costs time, never correctness: see `engine.sample.verify`.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.config import SpecOptions
from engine.errors import ConfigError
from engine.spec.ngram import NgramProposer

__all__ = ["PROPOSERS", "NgramProposer", "Proposer", "make_proposer"]


class Proposer(Protocol):
    def propose(self, tokens: Sequence[int] | NDArray[np.integer[Any]]) -> tuple[int, ...]:
        """Guess what follows `tokens`: at most `num_draft` tokens, none where there is nothing to go by.

        A proposer that needs a model is handed one by its worker when it is made.
        """


PROPOSERS: dict[str, Callable[[SpecOptions], Proposer]] = {
    "ngram": lambda options: NgramProposer(options.num_draft),
}


def make_proposer(options: SpecOptions) -> Proposer | None:
    """The proposer that `options` name; None where speculation is off. Raises ConfigError."""
    if options.num_draft < 0:
        raise ConfigError(f"the number of draft tokens must be 0 (off) or more. Given: {options.num_draft}")
    if options.method not in PROPOSERS:
        raise ConfigError(f"unknown speculation method '{options.method}'; choose one of: {', '.join(PROPOSERS)}")
    return PROPOSERS[options.method](options) if options.num_draft else None
