"""Perplexity against its definition, computed here from the reference model's logits."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from tiny_models import DEFAULT_MODEL

from engine.errors import ConfigError
from engine.llm import LLM
from engine.models.checkpoint import read_config
from engine.models.registry import family
from engine.perplexity import perplexity, read_documents
from engine.runtimes.reference.kv import KVCache
from engine.runtimes.reference.model import Model, Span
from engine.sample.warp import log_softmax
from engine.weights.load import load

TEXTS = ["The river is long and wide.", "a", "", "Two people met on the old bridge in the morning."]


def by_definition(texts: list[str], window: int) -> tuple[float, int]:
    config = read_config(DEFAULT_MODEL)
    module = family(config)
    spec = module.spec(config, None)
    model = Model(spec, load(spec, module, DEFAULT_MODEL))
    with LLM() as llm:
        encoded = [llm.tokenizer.encode(text) for text in texts]
    logprobs = []
    for ids in encoded:
        for piece in (ids[first : first + window] for first in range(0, len(ids), window)):
            cache = KVCache(spec, 4, 64)
            hidden = model.forward([Span(0, piece, np.arange(1, 4))], cache)
            rows = list(model.logits(hidden))
            logprobs += [
                log_softmax(row.astype(np.float64))[token] for row, token in zip(rows, piece[1:], strict=False)
            ]
    return math.exp(-np.mean(logprobs)), len(logprobs)


@pytest.mark.parametrize("window", [5, 1000])
def test_it_is_the_mean_over_every_token_but_the_first_of_a_window(window: int) -> None:
    with LLM(runtime="reference") as llm:
        found = perplexity(llm, TEXTS, window)
    value, tokens = by_definition(TEXTS, window)
    assert found.tokens == tokens
    assert found.value == pytest.approx(value, rel=1e-6)


def test_what_cannot_be_scored_is_refused(tmp_path: Path) -> None:
    with LLM() as llm:
        with pytest.raises(ConfigError, match=r"2 to 1023 tokens here\. Given: 1"):
            perplexity(llm, TEXTS, 1)
        with pytest.raises(ConfigError, match="nothing to score"):
            perplexity(llm, [""])
    with pytest.raises(ConfigError, match="No such file"):
        read_documents(tmp_path / "no.txt")
    (tmp_path / "bad.jsonl").write_text('{"words": "x"}')
    with pytest.raises(ConfigError, match='neither "text" nor "messages"'):
        read_documents(tmp_path / "bad.jsonl")


def test_a_separator_inside_a_text_does_not_end_its_line(tmp_path: Path) -> None:
    (tmp_path / "texts.jsonl").write_text(json.dumps({"text": "one\u2028two"}, ensure_ascii=False) + "\n")
    assert read_documents(tmp_path / "texts.jsonl") == ["one\u2028two"]


def test_a_chat_is_scored_as_its_template_renders_it(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good morning."}]
    (tmp_path / "chats.jsonl").write_text(json.dumps({"messages": messages}))
    with LLM() as llm:
        assert llm.tokenizer.chat is not None
        text = llm.tokenizer.chat.render(messages, add_generation_prompt=False)
        assert perplexity(llm, read_documents(tmp_path / "chats.jsonl")) == perplexity(llm, [text])
