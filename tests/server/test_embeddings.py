"""`/v1/embeddings`, `/embed`, and which model answers them."""

import asyncio
import base64
import math
import os
import signal
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from asgi_connection import Connection
from fake_engine import INFO, FakeEngine
from serving import SCRIPT, client_of
from starlette.applications import Starlette
from tiny_models import make_checkpoint

from engine.client import ProcessClient
from engine.config import CacheOptions, EngineOptions, ModelOptions, ServerOptions
from engine.errors import ConfigError, GenerationFailed, Overloaded, TokenizerError
from engine.server.app import create_app
from engine.server.service import Embedder
from engine.text.tokenizer import Tokenizer

# The fake engine's vector of a text: the number of its tokens, its first token, its last, 0.
SEA, THE = [2.0, 461.0, 5408.0, 0.0], [1.0, 461.0, 461.0, 0.0]  # "The sea", "The"
LONG = "The sea" * 40
ENCODER = msgspec.structs.replace(INFO, is_encoder=True, pooling="cls", max_embed_tokens=32, embed_truncation=16)


def unit(numbers: list[float]) -> list[float]:
    length = math.hypot(*numbers)
    return [struct.unpack("f", struct.pack("f", number / length))[0] for number in numbers]


@pytest.fixture
def encoder() -> FakeEngine:
    fake = FakeEngine(SCRIPT, ENCODER)
    fake.healthy = True
    return fake


@pytest.fixture
async def both(engine: FakeEngine, encoder: FakeEngine, tokenizer: Tokenizer) -> AsyncIterator[httpx.AsyncClient]:
    """A server with an encoder beside its model."""
    beside = Embedder("the/encoder", encoder, tokenizer, encoder.info)
    app = create_app(engine, tokenizer, ServerOptions(model_id="the/model"), engine.info, encoder=beside)
    async with client_of(app) as client:
        yield client
    app.state.service.close()


@pytest.mark.parametrize(
    ("body", "vectors"),
    [
        ({"inputs": "The sea"}, [unit(SEA)]),
        ({"inputs": ["The sea"]}, [unit(SEA)]),
        ({"inputs": ["The sea", "The"], "normalize": False}, [SEA, THE]),
        ({"inputs": [461, 5408], "normalize": False}, [SEA]),
        ({"inputs": [[461, 5408], "The"], "normalize": False}, [SEA, THE]),
        ({"inputs": "The sea", "dimensions": 2, "normalize": False}, [SEA[:2]]),
        ({"inputs": "The sea", "dimensions": 2}, [unit(SEA[:2])]),
        ({"inputs": "The sea", "parameters": {"normalize": False, "dimensions": 1}}, [SEA[:1]]),
        ({"inputs": "The sea", "normalize": None, "dimensions": None, "parameters": None}, [unit(SEA)]),
    ],
)
async def test_embed(body: dict[str, Any], vectors: list[list[float]], api: httpx.AsyncClient) -> None:
    answer = await api.post("/embed", json=body)
    assert answer.status_code == 200
    assert answer.json() == vectors


@pytest.mark.parametrize("path", ["/v1/embeddings", "/embeddings"])
async def test_openai_embeddings(path: str, api: httpx.AsyncClient) -> None:
    answer = await api.post(path, json={"model": "ada", "input": ["The sea", "The"], "user": "me"})
    assert answer.json() == {
        "object": "list",
        "data": [
            {"object": "embedding", "embedding": unit(SEA), "index": 0},
            {"object": "embedding", "embedding": unit(THE), "index": 1},
        ],
        "model": "ada",
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }
    for given in ("The sea", [461, 5408], [[461, 5408]]):
        answer = await api.post(path, json={"input": given, "encoding_format": "base64", "dimensions": 3})
        assert answer.json()["model"] == "the/model"
        [item] = answer.json()["data"]
        assert list(struct.unpack("<3f", base64.b64decode(item["embedding"]))) == unit(SEA[:3])


async def test_a_request_tells_what_it_cost(api: httpx.AsyncClient) -> None:
    for path, body in (("/embed", {"inputs": ["The sea", "The"]}), ("/v1/embeddings", {"input": ["The sea", "The"]})):
        headers = (await api.post(path, json=body)).headers
        assert headers["x-compute-characters"] == "10"
        assert headers["x-prompt-tokens"] == headers["x-compute-tokens"] == "3"
        assert headers["x-compute-type"] == "reference"
        assert 0 <= float(headers["x-compute-time"]) < 60
        for name in ("total", "validation", "tokenization", "queue", "inference"):
            assert headers[f"x-{name}-time"].isdecimal()
        assert headers["x-request-id"]


REFUSALS: list[tuple[dict[str, Any], str]] = [
    ({"inputs": ""}, "`inputs` cannot be empty"),
    ({"inputs": []}, "`inputs` cannot be empty"),
    ({"inputs": ["The", ""]}, "`inputs` cannot be empty"),
    ({"inputs": [[]]}, "`inputs` cannot be empty"),
    ({"inputs": [461, "The"]}, "`inputs` must be a text, a list of texts"),
    ({"inputs": [8192]}, "token ids must be < 8192. Given: 8192"),
    ({"inputs": "The", "dimensions": 0}, "`dimensions` must be > 0 and <= 4. Given: 0"),
    ({"inputs": "The", "dimensions": 5}, "`dimensions` must be > 0 and <= 4. Given: 5"),
    ({"inputs": LONG}, "`inputs` must have less than 64 tokens. Given: "),
    ({"inputs": ["The", [461] * 65]}, "`inputs` must have less than 64 tokens. Given: 65"),
]


@pytest.mark.parametrize(("body", "text"), REFUSALS)
async def test_refusals_are_in_the_words_of_each_route(
    body: dict[str, Any], text: str, api: httpx.AsyncClient, engine: FakeEngine
) -> None:
    native = await api.post("/embed", json=body)
    assert (native.status_code, native.json()["error_type"]) == (422, "validation")
    assert native.json()["error"].startswith(f"Input validation error: {text}")
    theirs = {"input" if name == "inputs" else name: value for name, value in body.items()}
    for path in ("/v1/embeddings", "/embeddings"):
        answer = await api.post(path, json=theirs)
        assert answer.status_code == 422
        assert answer.json()["error"]["message"] == native.json()["error"]
        assert answer.json()["error"]["http_status_code"] == 422
    assert engine.embedded == []


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"inputs": 1}, "inputs"),
        ({"inputs": "a", "normalize": "yes"}, "normalize"),
        ({"inputs": "a", "truncation_direction": "up"}, "truncation_direction"),
        ({"inputs": ["a"], "parameters": {"truncate": 3}}, "parameters.truncate"),
        ({}, "Object missing required field `inputs`"),
    ],
)
async def test_another_shape_is_refused_by_its_path(body: dict[str, Any], path: str, api: httpx.AsyncClient) -> None:
    answer = await api.post("/embed", json=body)
    assert answer.status_code == 422
    assert f"target type: {path}" in answer.json()["error"]


async def test_a_batch_has_a_limit_and_takes_one_permit(make_app: Callable[..., Starlette], engine: FakeEngine) -> None:
    app = make_app(max_embedding_batch_size=20, max_concurrent_requests=1)
    async with client_of(app) as api:
        for path, field in (("/embed", "inputs"), ("/v1/embeddings", "input")):
            answer = await api.post(path, json={field: ["The"] * 21})
            assert answer.status_code == 422
            assert answer.json()["error_type"] == "batch size exceeded"
            assert "batch size 21 > maximum allowed batch size 20" in answer.text
            assert (await api.post(path, json={field: ["The"] * 20})).status_code == 200
        engine.gate, engine.embedded = asyncio.Event(), []
        first = asyncio.create_task(api.post("/embed", json={"inputs": ["The"] * 20}))
        await engine.waiting.wait()
        refused = await api.post("/v1/embeddings", json={"input": "The"})
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert refused.json()["error_type"] == "overloaded"
        assert len(engine.embedded) == engine.info.max_batch_size  # the others wait here, not in the engine
        engine.gate.set()
        assert len((await first).json()) == 20
    assert app.state.service.permits.used == 0


@pytest.mark.parametrize(("direction", "kept"), [(None, slice(3)), ("right", slice(3)), ("Left", slice(-3, None))])
async def test_truncation_keeps_the_end_that_is_asked_for(
    direction: str | None, kept: slice, tokenizer: Tokenizer
) -> None:
    engine = FakeEngine(SCRIPT, msgspec.structs.replace(INFO, embed_truncation=3))
    engine.healthy = True
    app = create_app(engine, tokenizer, ServerOptions(model_id="m"), engine.info)
    text = "The sea is deep."
    async with client_of(app) as api:
        for inputs, ids in ((text, tokenizer.encode(text)), ([1, 2, 3, 4, 5], [1, 2, 3, 4, 5])):
            body = {"inputs": inputs, "truncate": True, "truncation_direction": direction}
            assert (await api.post("/embed", json=body)).status_code == 200
            assert engine.embedded[-1].prompt == tuple(ids[kept])
        answer = await api.post("/v1/embeddings", json={"input": LONG, "truncate": True})
        assert answer.json()["usage"]["prompt_tokens"] == 3
    app.state.service.close()


async def test_prompts_of_the_model_come_before_the_texts(
    api: httpx.AsyncClient, engine: FakeEngine, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer, "prompts", {"query": "The "})
    assert (await api.post("/embed", json={"inputs": ["sea"], "prompt_name": "query"})).status_code == 200
    assert engine.embedded[-1].prompt == tuple(tokenizer.encode("The sea"))
    refused = await api.post("/embed", json={"inputs": "sea", "prompt_name": "passage"})
    assert refused.status_code == 422
    assert "`prompt_name` must be one of the model's prompts (query). Given: passage" in refused.text
    refused = await api.post("/embed", json={"inputs": [1, 2], "prompt_name": "query"})
    assert "must not be set with token ids" in refused.text


def test_prompts_are_read_from_the_models_directory(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, "BertModel", tokenizer=True)
    assert Tokenizer.load(path).prompts == {}
    file = path / "config_sentence_transformers.json"
    file.write_text('{"prompts": {"query": "query: ", "passage": ""}, "default_prompt_name": null}')
    assert Tokenizer.load(path).prompts == {"query": "query: ", "passage": ""}
    file.write_text('{"prompts": null}')
    assert Tokenizer.load(path).prompts == {}
    file.write_text("{")
    with pytest.raises(TokenizerError, match="config_sentence_transformers"):
        Tokenizer.load(path)


async def test_requests_are_counted_under_their_own_names(
    make_app: Callable[..., Starlette], engine: FakeEngine
) -> None:
    app = make_app(max_embedding_batch_size=2)
    async with client_of(app) as api:
        await api.post("/embed", json={"inputs": "The"})
        await api.post("/v1/embeddings", json={"input": ["The", "The sea"]})
        await api.post("/embed", json={"inputs": ""})
        await api.post("/embed", json={"inputs": ["a"] * 3})
        engine.error = GenerationFailed("a vector holds NaN")
        failed = await api.post("/embed", json={"inputs": "The"})
        assert (failed.status_code, failed.json()["error_type"]) == (424, "generation")
        engine.error = Overloaded("the queue is full")
        assert (await api.post("/embed", json={"inputs": "The"})).status_code == 429
        page = (await api.get("/metrics")).text.splitlines()
    for line in (
        'te_request_count{method="single"} 4',
        'te_request_count{method="batch"} 2',
        'te_request_success{method="single"} 1',
        'te_request_success{method="batch"} 1',
        'te_request_failure{err="validation"} 1',
        'te_request_failure{err="batch_size"} 1',
        'te_request_failure{err="generation"} 1',
        'te_request_failure{err="overloaded"} 1',
        "te_request_duration_count 2",
        "te_request_tokenization_duration_count 2",
        "te_request_queue_duration_count 2",
        "te_request_inference_duration_count 2",
        "te_request_input_length_count 3",
        "te_request_input_length_sum 4",
        "tgi_request_count 0",
    ):
        assert line in page


async def test_a_client_that_leaves_cancels_its_texts(make_app: Callable[..., Starlette], engine: FakeEngine) -> None:
    engine.gate = asyncio.Event()
    app = make_app()
    connection = Connection(app, "/embed", {"inputs": ["The"] * 20})
    running = asyncio.create_task(connection.run())
    await engine.waiting.wait()
    connection.leave()
    await running
    assert app.state.service.permits.used == 0
    assert app.state.service.metrics.embed_failure.value("dropped") == 1


# -- which model answers


async def test_an_encoder_beside_the_model_embeds(
    both: httpx.AsyncClient, engine: FakeEngine, encoder: FakeEngine
) -> None:
    assert (await both.post("/embed", json={"inputs": "The sea"})).status_code == 200
    answer = await both.post("/v1/embeddings", json={"input": "The sea"})
    assert answer.json()["model"] == "the/encoder"
    assert (await both.post("/", json={"inputs": ["The sea"]})).status_code == 200
    assert (await both.post("/generate", json={"inputs": "The sea"})).json() == {"generated_text": " is deep."}
    assert (len(engine.embedded), len(encoder.embedded), len(engine.requests), len(encoder.requests)) == (0, 3, 1, 0)
    refused = await both.post("/embed", json={"inputs": LONG})
    assert "must have less than 32 tokens" in refused.text
    info = (await both.get("/info")).json()
    assert (info["model_id"], info["max_input_tokens"]) == ("the/model", 63)
    assert info["embedding"] == {
        "model_id": "the/encoder",
        "is_encoder": True,
        "pooling": "cls",
        "size": 4,
        "max_input_tokens": 32,
        "truncation": 16,
        "max_batch_size": 2048,
    }
    models = (await both.get("/v1/models")).json()["data"]
    assert [model["id"] for model in models] == ["the/model", "the/encoder"]
    assert (await both.get("/v1/models/the/encoder")).json()["id"] == "the/encoder"


async def test_health_is_that_of_both_engines(both: httpx.AsyncClient, engine: FakeEngine, encoder: FakeEngine) -> None:
    assert (await both.get("/health")).status_code == 200
    encoder.healthy = False
    for path in ("/health", "/ping", "/"):
        assert (await both.get(path)).status_code == 503
    down = await both.post("/v1/embeddings", json={"input": "The sea"})
    assert (down.status_code, down.headers["retry-after"]) == (503, "1")
    assert (await both.post("/generate", json={"inputs": "The sea"})).status_code == 200
    encoder.healthy, engine.healthy = True, False
    assert (await both.get("/health")).status_code == 503
    assert (await both.post("/embed", json={"inputs": "The sea"})).status_code == 200


async def test_a_model_that_generates_embeds_where_there_is_no_encoder(api: httpx.AsyncClient) -> None:
    info = (await api.get("/info")).json()
    assert info["model_pipeline_tag"] is None
    assert info["embedding"]["model_id"] == "the/model"
    assert (info["embedding"]["is_encoder"], info["embedding"]["pooling"]) == (False, "last")


@pytest.fixture
async def alone(encoder: FakeEngine, tokenizer: Tokenizer) -> AsyncIterator[httpx.AsyncClient]:
    """A server whose model is an encoder."""
    app = create_app(encoder, tokenizer, ServerOptions(model_id="the/encoder"), encoder.info)
    async with client_of(app) as client:
        yield client
    app.state.service.close()


USER = {"role": "user", "content": "Hi"}
GENERATION: list[tuple[str, dict[str, Any]]] = [
    ("/generate", {"inputs": "The sea"}),
    ("/", {"inputs": "The sea", "parameters": {"max_new_tokens": 3}}),
    ("/invocations", {"inputs": "The sea", "stream": False}),
    ("/v1/completions", {"prompt": "The sea"}),
    ("/v1/chat/completions", {"messages": [USER]}),
    ("/v1/responses", {"input": "Hi"}),
    ("/v1/messages", {"messages": [USER], "max_tokens": 3, "model": "m"}),
]


@pytest.mark.parametrize(("path", "body"), GENERATION)
async def test_an_encoder_alone_refuses_to_generate_in_the_words_of_each_route(
    path: str, body: dict[str, Any], alone: httpx.AsyncClient
) -> None:
    answer = await alone.post(path, json=body)
    assert answer.status_code == 422
    text = "Input validation error: the/encoder is an encoder: it turns texts into vectors and cannot generate; "
    said = answer.json()["error"]
    assert (said if isinstance(said, str) else said["message"]).startswith(text)
    assert isinstance(said, str) == (not path.startswith("/v1"))
    assert (answer.json().get("type") == "error") == (path == "/v1/messages")


async def test_an_encoder_alone_refuses_within_a_stream_too(alone: httpx.AsyncClient) -> None:
    answer = await alone.post("/generate_stream", json={"inputs": "The sea"})
    assert answer.status_code == 200
    assert "the/encoder is an encoder" in answer.text


async def test_an_encoder_alone_says_what_it_is(alone: httpx.AsyncClient) -> None:
    info = (await alone.get("/info")).json()
    assert info["model_pipeline_tag"] == "feature-extraction"
    assert (info["max_input_tokens"], info["embedding"]["is_encoder"]) == (32, True)
    assert (await alone.get("/health")).status_code == 200
    assert (await alone.post("/tokenize", json={"inputs": "The sea"})).status_code == 200
    assert (await alone.post("/", json={"inputs": "The sea"})).json() == [unit(SEA)]


def test_two_encoders_are_one_too_many(encoder: FakeEngine, tokenizer: Tokenizer) -> None:
    beside = Embedder("another", encoder, tokenizer, encoder.info)
    with pytest.raises(ConfigError, match="the/encoder is an encoder and embeds texts itself"):
        create_app(encoder, tokenizer, ServerOptions(model_id="the/encoder"), encoder.info, encoder=beside)


async def test_an_encoder_that_dies_comes_back_and_generation_goes_on(
    engine: FakeEngine, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """With a real engine process, started and closed as part of the application."""
    path = make_checkpoint(tmp_path, "BertModel", tokenizer=True)
    client = ProcessClient(EngineOptions(model=ModelOptions(path=str(path)), cache=CacheOptions(num_blocks=32)))
    engine.gate, engine.gate_step = asyncio.Event(), 1
    app = create_app(engine, tokenizer, ServerOptions(model_id="m"), encoder=Embedder("e", client, tokenizer))
    async with app.router.lifespan_context(app), client_of(app) as api:
        before = (await api.post("/embed", json={"inputs": "The sea"})).json()
        assert len(before[0]) == 32
        generation = asyncio.create_task(api.post("/generate", json={"inputs": "The sea"}))
        await engine.waiting.wait()
        assert client.pid is not None
        os.kill(client.pid, signal.SIGKILL)
        while (await api.get("/health")).status_code == 200:
            await asyncio.sleep(0.01)
        assert (await api.post("/embed", json={"inputs": "The sea"})).status_code == 503
        while (await api.get("/health")).status_code != 200:
            await asyncio.sleep(0.01)
        assert (await api.post("/embed", json={"inputs": "The sea"})).json() == before
        engine.gate.set()
        assert (await generation).json() == {"generated_text": " is deep."}
    assert not client.healthy
