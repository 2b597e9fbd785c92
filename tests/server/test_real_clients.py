"""The clients people use, unchanged, against a real port."""

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator

import openai
import pytest
from fake_engine import FakeEngine
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import GenerationError, OverloadedError, ValidationError
from serving import listening
from starlette.applications import Starlette

from engine.config import ServerOptions
from engine.errors import GenerationFailed, Overloaded

USER = {"role": "user", "content": "Hi"}


@pytest.fixture(params=["", "/", "/v1"])
def hub(url: str, request: pytest.FixtureRequest) -> InferenceClient:
    return InferenceClient(base_url=url + request.param)


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as opened:
        yield opened


def test_hub_text_generation(hub: InferenceClient) -> None:
    assert hub.text_generation("The sea", return_full_text=False) == " is deep."
    assert hub.text_generation("The sea") == "The sea is deep."
    assert hub.text_generation("The sea", stop=[" deep"], return_full_text=False) == " is deep"


def test_hub_text_generation_details(hub: InferenceClient) -> None:
    answer = hub.text_generation("The sea", details=True, max_new_tokens=3, do_sample=True, seed=4, top_n_tokens=1)
    assert answer.details is not None
    assert (answer.details.finish_reason, answer.details.generated_tokens, answer.details.seed) == ("length", 3, 4)
    assert [token.text for token in answer.details.tokens] == [" is", " deep", "."]
    assert answer.details.prefill == []


def test_hub_text_generation_streamed(hub: InferenceClient) -> None:
    assert list(hub.text_generation("The sea", stream=True)) == [" is", " deep", ".", "<|im_end|>"]
    *_, last = hub.text_generation("The sea", stream=True, details=True, return_full_text=False)
    assert last.generated_text == " is deep."
    assert last.details is not None
    assert last.details.finish_reason == "eos_token"
    assert last.token.special


def test_hub_chat(hub: InferenceClient) -> None:
    answer = hub.chat_completion([USER], max_tokens=2, logprobs=True, top_logprobs=2, stop=["x"], seed=0)
    assert answer.choices[0].message.content == " is deep"
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].logprobs is not None
    assert len(answer.choices[0].logprobs.content[0].top_logprobs) == 2
    chunks = list(hub.chat_completion([USER], stream=True, stream_options={"include_usage": True}))
    assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == " is deep."
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 4


async def test_hub_async(url: str) -> None:
    async with AsyncInferenceClient(base_url=url) as client:
        assert await client.text_generation("The sea", return_full_text=False) == " is deep."
        stream = await client.chat_completion([USER], stream=True)
        assert [chunk.choices[0].delta.content async for chunk in stream] == [" is", " deep", ".", ""]


def test_hub_errors(url: str, engine: FakeEngine) -> None:
    hub = InferenceClient(base_url=url)
    with pytest.raises(ValidationError, match="`max_new_tokens` must be <= 64"):
        hub.text_generation("The sea", max_new_tokens=10_000)
    with pytest.raises(ValidationError, match="strictly positive"):
        list(hub.text_generation("The sea", temperature=-1, stream=True))
    engine.error, engine.gate_step = GenerationFailed("broken"), 1
    with pytest.raises(GenerationError, match="broken"):
        hub.text_generation("The sea")
    with pytest.raises(GenerationError, match="broken"):
        list(hub.text_generation("The sea", stream=True))


def test_hub_overload(url: str, engine: FakeEngine) -> None:
    engine.error = Overloaded("the queue is full")
    with pytest.raises(OverloadedError):
        InferenceClient(base_url=url).text_generation("The sea")


def test_openai_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="gpt-4o", messages=[USER], max_completion_tokens=3, logprobs=True, top_logprobs=1, n=2, stop="deep"
    )
    assert answer.id.startswith("chatcmpl-")
    assert answer.model == "gpt-4o"
    assert [choice.message.content for choice in answer.choices] == [" is ", " is "]
    assert [choice.finish_reason for choice in answer.choices] == ["stop", "stop"]
    assert answer.choices[0].logprobs is not None
    assert answer.choices[0].logprobs.content is not None
    assert answer.choices[0].logprobs.content[0].bytes == [32, 105, 115]


def test_openai_chat_streamed(client: openai.OpenAI) -> None:
    with client.chat.completions.create(
        model="tgi", messages=[USER], stream=True, stream_options={"include_usage": True}, top_p=1, presence_penalty=0
    ) as stream:
        *chunks, last = stream
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == " is deep."
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert last.usage is not None
    assert (last.choices, last.usage.completion_tokens) == ([], 4)


def test_openai_completions(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="m", prompt=["The sea", "The"], logprobs=1, max_tokens=2, echo=False)
    assert [choice.text for choice in answer.choices] == [" is deep", " is deep"]
    assert answer.choices[0].logprobs is not None
    assert answer.choices[0].logprobs.tokens == [" is", " deep"]
    assert answer.usage is not None
    assert answer.usage.total_tokens == 7
    with client.completions.create(model="m", prompt=[461, 5408], stream=True) as stream:
        assert "".join(chunk.choices[0].text for chunk in stream) == " is deep."


def test_openai_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["the/model"]


def test_openai_errors(client: openai.OpenAI, engine: FakeEngine) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="`n` must be >= 1 and <= 8") as refused:
        client.chat.completions.create(model="m", messages=[USER], n=100)
    assert refused.value.type == "validation"
    with pytest.raises(openai.APIError, match="strictly positive"):
        list(client.chat.completions.create(model="m", messages=[USER], temperature=-1, stream=True))
    engine.healthy = False
    with pytest.raises(openai.InternalServerError, match="not running") as down:
        client.completions.create(model="m", prompt="a")
    assert down.value.status_code == 503


class NeverEnds(FakeEngine):
    """Waits at its second step until it is cancelled, and says so to another thread."""

    def __init__(self) -> None:
        super().__init__(((290,), (2,)))
        self.waits, self.left = threading.Event(), threading.Event()

    async def _pass_gate(self, step: int) -> None:
        if step == 1:
            self.waits.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.left.set()


@pytest.mark.parametrize("path", ["/generate", "/generate_stream", "/v1/chat/completions"])
@pytest.mark.parametrize("half", [False, True])
def test_a_closed_connection_cancels_the_request(path: str, half: bool, make_app: Callable[..., Starlette]) -> None:
    """Closed for good, or only for writing, which a server cannot tell apart."""
    engine = NeverEnds()
    engine.healthy = True
    app = make_app()
    app.state.service.client = engine
    body = json.dumps({"inputs": "a", "messages": [USER]})
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    with listening(app, ServerOptions(model_id="the/model")) as url:
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        with socket.create_connection(address) as connection:
            connection.sendall((head + body).encode())
            assert engine.waits.wait(30)
            if half:
                connection.shutdown(socket.SHUT_WR)
                assert engine.left.wait(30)
        assert engine.left.wait(30)
    assert len(engine.cancelled) == 1
