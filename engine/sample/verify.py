"""Speculative verification: which of the drawn tokens stand."""

from collections.abc import Iterable, Sequence

from engine.sample.sampler import Choice


def accept(drafts: Sequence[int], choices: Iterable[Choice]) -> list[Choice]:
    """The choices up to and including the first that is not its draft, or all of them: one more than was accepted.

    `choices` has one more entry than `drafts`: choice j is drawn from the row computed with drafts 0 to j - 1 as its
    context, and with those counted by the penalties. It may be a generator; nothing is drawn after a disagreement.

    Why speculated equals plain, token for token, greedy or sampled, whatever the proposer: as long as the drafts
    agree with the choices, row j has exactly the context that the plain run has there, and its noise is a function
    of seed and position alone, so its choice is the plain run's choice. The first choice that disagrees was drawn
    from a right context too, and stands. No draft can bend the distribution. A draft x of a proposer that does not
    sample is accepted with probability p(x), just as in rejection sampling (Leviathan et al. 2023).
    """
    standing = []
    for index, choice in enumerate(choices):
        standing.append(choice)
        if index == len(drafts) or choice.token != drafts[index]:
            break
    return standing
