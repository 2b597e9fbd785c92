"""Who counts prompt tokens, and whether they agree with each other and with the server."""

from pathlib import Path

import pytest

import engine
from bench.api.detect import detect
from bench.mock import Behaviour, MockServer
from bench.types import BenchError, UsageError
from bench.workload.items import Workload, build
from bench.workload.tokens import EstimatedTokens, IdTokens, LocalTokens, ServerTokens, token_counter

MODEL = Path(engine.__file__).parent / "assets/default"
TEXTS = ["a", "The sea is deep.", "日本語 😀", "one two three " * 20]


def test_the_server_and_its_tokenizer_agree(live_server):
    server = ServerTokens(detect(live_server.url))
    assert server.count(TEXTS) == LocalTokens(MODEL).count(TEXTS) == LocalTokens(MODEL / "tokenizer.json").count(TEXTS)


def test_prompts_for_our_server_are_exact(live_server):
    target = detect(live_server.url)
    tokens = token_counter(target)
    items = build(Workload(in_tokens="uniform:5,60", out_tokens=4, seed=1), 12, tokens, max_context=target.max_context)
    assert [item.input_tokens for item in items] == LocalTokens(MODEL).count([item.prompt for item in items])


@pytest.mark.parametrize("kind", ["mock", "vllm", "llama.cpp"])
def test_every_dialect_of_tokenize(kind):
    with MockServer.start(Behaviour(kind=kind)) as mock:
        target = detect(mock.url, api="openai")
        assert ServerTokens(target).count(["one two", "one"]) == [2, 1]
        items = build(Workload(in_tokens=20, seed=1), 10, token_counter(target))
        assert ServerTokens(target).count([item.prompt for item in items]) == [20] * 10
        ids = token_counter(target, token_ids=True)
        assert isinstance(ids, IdTokens)
        assert len(ids.pool) > 100


def test_a_server_that_has_no_tokenizer():
    with MockServer.start(Behaviour(kind="openai")) as mock:
        target = detect(mock.url)
        assert isinstance(token_counter(target), EstimatedTokens)
        assert isinstance(token_counter(target, tokenizer=MODEL), LocalTokens)
        with pytest.raises(UsageError, match="takes no token ids"):
            token_counter(target, token_ids=True)
        with pytest.raises(UsageError, match="or try --api openai"):
            token_counter(detect(mock.url, api="chat"), token_ids=True)
        with pytest.raises(UsageError, match="does not tokenize: give --tokenizer"):
            ServerTokens(target)


def test_ids_where_the_server_takes_them_but_does_not_tokenize():
    with MockServer.start(Behaviour(kind="sglang")) as mock:
        assert isinstance(token_counter(detect(mock.url), token_ids=True), IdTokens)


def test_a_server_that_went_away():
    with MockServer.start(Behaviour(kind="vllm")) as mock:
        tokens = ServerTokens(detect(mock.url))
    with pytest.raises(BenchError, match="cannot tokenize"):
        tokens.count(["a"])


def test_answers_are_cut_where_tokens_end():
    tokens = LocalTokens(MODEL)
    text = "The sea is deep."
    ends = tokens.token_ends(text)
    assert ends == sorted(ends)
    assert ends[-1] == len(text)
    assert len(ends) == LocalTokens(MODEL, special_tokens=False).count([text])[0]


def test_what_is_no_tokenizer(tmp_path):
    with pytest.raises(UsageError, match="no tokenizer at"):
        LocalTokens(tmp_path).count(["a"])
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UsageError, match="is not a tokenizer"):
        LocalTokens(tmp_path).count(["a"])


def test_prose_is_estimated():
    assert EstimatedTokens().count(["", "one two three four"]) == [1, 5]
    with pytest.raises(UsageError):
        IdTokens([])
    with pytest.raises(UsageError, match="token-ids"):
        IdTokens().count(["a"])
