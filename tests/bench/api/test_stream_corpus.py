"""Every answer of the corpus is read as what it is."""

from pathlib import Path

import corpus_table
import msgspec
import pytest

from bench.api import corpus
from bench.types import Outcome, TokenSource


@pytest.mark.parametrize("case", corpus.load(), ids=lambda case: case.name)
def test_a_case_is_read_without_a_mistake(case):
    assert case.mistakes() == []


def test_the_corpus_is_what_the_table_says():
    lines = Path(corpus.__file__).with_name("corpus.json").read_bytes().splitlines()
    assert lines == [msgspec.json.encode(case) for case in corpus_table.cases()]


def test_the_corpus_covers_what_can_happen():
    cases = corpus.load()
    assert len(cases) >= 200
    assert len({case.name for case in cases}) == len(cases)
    assert {case.expected.outcome for case in cases} == set(Outcome)
    sources = {case.expected.source for case in cases}
    assert sources == set(TokenSource) - {TokenSource.RETOKENIZED}  # which needs a tokenizer


def test_a_mistake_is_found():
    case = next(case for case in corpus.load() if case.name == "completions: ids")
    wrong = msgspec.structs.replace(case.expected, outcome=Outcome.CUT, events=case.expected.events[:1], text="b")
    found = msgspec.structs.replace(case, expected=wrong).mistakes()
    assert [mistake.partition(":")[0] for mistake in found] == ["outcome", "text", "events", "output tokens"]
