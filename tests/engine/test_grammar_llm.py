"""`LLM.generate` with grammars, on the built-in model."""

import json
import re
from queue import SimpleQueue

import pytest

from engine import LLM, SamplingParams
from engine.core import Channel
from engine.errors import InvalidRequest
from engine.types import FinishReason, Grammar
from engine.wire import Message, Wake

WORDS = "[a-z]{3,6}( [a-z]{3,6}){2}"
PLACE = Grammar(
    "json",
    '{"properties":{"city":{"type":"string","maxLength":16},"size":{"type":"integer","minimum":1,"maximum":99}},'
    '"required":["city","size"],"additionalProperties":false}',
)


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(num_draft=3)


def test_answers_match_and_bad_grammars_are_refused_by_name(llm: LLM) -> None:
    with llm:
        params = [
            SamplingParams(max_new_tokens=48, grammar=PLACE),
            SamplingParams(max_new_tokens=24, grammar=Grammar("regex", WORDS), temperature=1.0, seed=4),
            SamplingParams(max_new_tokens=6),
        ]
        place, words, plain = llm.generate(["The capital of France is"] * 3, params)
        assert list(json.loads(place.text)) == ["city", "size"]
        assert place.finish_reason is FinishReason.EOS
        assert re.fullmatch(WORDS, words.text)
        [alone] = llm.generate(["The capital of France is"], params[2])
        assert plain.token_ids == alone.token_ids
        with pytest.raises(InvalidRequest, match=r"grammar is not valid: .*unclosed character class"):
            llm.generate(["x"], SamplingParams(grammar=Grammar("regex", "[")))


def test_a_wake_ends_a_wait() -> None:
    inbox: SimpleQueue[Message] = SimpleQueue()
    channel = Channel(inbox, lambda reply: None)
    channel.wake()
    assert channel.receive(wait=True) == [Wake()]
