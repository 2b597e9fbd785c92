"""`n` and `best_of` on a real engine: the prompt is computed once, and the answers are those of single requests."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from asgi_connection import events
from serving import MODEL, client_of

from engine.client import InlineClient
from engine.config import CacheOptions, EngineOptions, ModelOptions, ServerOptions
from engine.server.app import create_app
from engine.text.tokenizer import Tokenizer

BLOCK = 8
PROMPT = "The rivers of the plain run slowly to the sea, and in the spring they carry the water of the hills with them."


@pytest.fixture
async def client() -> AsyncIterator[InlineClient]:
    cache = CacheOptions(num_blocks=200, block_size=BLOCK)
    client = InlineClient(EngineOptions(model=ModelOptions(path=str(MODEL), dtype="float32"), cache=cache))
    yield client
    await client.close()


@pytest.fixture
async def api(client: InlineClient, tokenizer: Tokenizer) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(client, tokenizer, ServerOptions(model_id="m", max_best_of=4))
    async with app.router.lifespan_context(app), client_of(app) as api:
        yield api


def computed(client: InlineClient) -> int:
    """Prompt tokens that went through the model."""
    return client.stats.prompt_tokens - client.stats.cached_tokens


def once(length: int, answers: int) -> int:
    """The prompt, and for each further answer what lies behind the last full block before its last token."""
    return length + (answers - 1) * (length - (length - 1) // BLOCK * BLOCK)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("n", [2, 4])
async def test_n_answers_are_those_of_single_requests_and_share_the_prompt(
    n: int, stream: bool, api: httpx.AsyncClient, client: InlineClient, tokenizer: Tokenizer
) -> None:
    body: dict[str, Any] = {"prompt": PROMPT, "max_tokens": 12, "temperature": 1, "seed": 2**64 - 2, "stream": stream}
    length = len(tokenizer.encode(PROMPT))
    assert length > 2 * BLOCK
    answer = await api.post("/v1/completions", json=body | {"n": n})
    assert answer.status_code == 200, answer.text
    assert computed(client) == once(length, n)
    texts = [""] * n
    if stream:
        for chunk in events(answer.content)[:-1]:
            for choice in chunk["choices"]:
                texts[choice["index"]] += choice["text"]
    else:
        texts = [choice["text"] for choice in answer.json()["choices"]]
    for i, text in enumerate(texts):
        single = body | {"seed": (body["seed"] + i) % 2**64, "stream": False}
        assert (await api.post("/v1/completions", json=single)).json()["choices"][0]["text"] == text
    assert len(set(texts)) == n


async def test_the_best_of_several_is_the_likeliest_of_single_requests(
    api: httpx.AsyncClient, client: InlineClient, tokenizer: Tokenizer
) -> None:
    parameters = {"best_of": 3, "do_sample": True, "max_new_tokens": 8, "details": True, "decoder_input_details": True}
    answer = (await api.post("/generate", json={"inputs": PROMPT, "parameters": parameters})).json()
    assert computed(client) == once(len(tokenizer.encode(PROMPT)), 3)
    everything = [answer["details"] | {"generated_text": answer["generated_text"]}]
    everything += answer["details"]["best_of_sequences"]
    means = [sum(token["logprob"] for token in each["tokens"]) / len(each["tokens"]) for each in everything]
    assert means == sorted(means, reverse=True)
    for each in everything:
        single = parameters | {"best_of": None, "seed": each["seed"]}
        alone = (await api.post("/generate", json={"inputs": PROMPT, "parameters": single})).json()
        assert alone["generated_text"] == each["generated_text"]
        for name in ("prefill", "tokens", "finish_reason"):
            assert alone["details"][name] == each[name]
