import pytest

from engine.config import SpecOptions
from engine.errors import ConfigError
from engine.spec import PROPOSERS, NgramProposer, make_proposer


def test_off_is_none() -> None:
    assert make_proposer(SpecOptions()) is None


@pytest.mark.parametrize("method", PROPOSERS)
def test_every_method_proposes_as_many_tokens_as_asked(method: str) -> None:
    proposer = make_proposer(SpecOptions(num_draft=3, method=method))
    assert proposer is not None
    assert len(proposer.propose([1, 2, 3, 1, 2])) == 3


def test_ngram_is_the_default() -> None:
    assert isinstance(make_proposer(SpecOptions(num_draft=2)), NgramProposer)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (SpecOptions(num_draft=-1), "0 .off. or more. Given: -1"),
        (SpecOptions(num_draft=2, method="oracle"), "unknown speculation method 'oracle'; choose one of: ngram"),
        (SpecOptions(num_draft=0, method="oracle"), "unknown speculation method"),
    ],
)
def test_bad_options_are_refused(options: SpecOptions, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_proposer(options)
