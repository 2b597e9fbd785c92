"""Answers from a TGI or OpenAI server, as it streams them."""

import json
import os
from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx

from engine.errors import (
    ConfigError,
    EngineDead,
    EngineError,
    GenerationFailed,
    InvalidRequest,
    Overloaded,
    TemplateError,
)
from tgi_cli.reply import Message, Reply
from tgi_cli.sampling import Sampling

TIMEOUT = httpx.Timeout(10.0, read=600.0)  # seconds; a long prompt may keep a busy server silent for minutes
TYPES = {kind.error_type: kind for kind in (InvalidRequest, TemplateError, Overloaded, GenerationFailed)}
STATUSES = {400: InvalidRequest, 413: InvalidRequest, 422: InvalidRequest, 424: GenerationFailed, 429: Overloaded}


class ServerGone(EngineDead):
    """As a client sees it: its own failure, and not that of a server that ends for good."""

    exit_code = 1


class RemoteReply(Reply):
    """One streamed request; `_body` and `_read` differ between the two APIs."""

    def __init__(self, client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> None:
        super().__init__()
        self._client = client
        self._path = path
        self._body = body

    async def _run(self) -> AsyncGenerator[str, None]:
        async with _stream(self._client, self._path, self._body) as response:
            async for line in response.aiter_lines():
                data = line.removeprefix("data:").strip()
                if not line.startswith("data:") or not data:
                    continue
                if data == "[DONE]":
                    break
                event = _event(data)
                try:
                    yield self._read(event)
                except (LookupError, TypeError, ValueError, AttributeError):
                    raise _nonsense(data) from None
        if self.finish_reason is None:
            raise GenerationFailed("the server ended the stream before the answer was complete")

    @abstractmethod
    def _read(self, event: dict[str, Any]) -> str:
        """The text an event adds. May fail in any way on what is no event of this API."""


class TgiReply(RemoteReply):
    def _read(self, event: dict[str, Any]) -> str:
        token = event["token"]
        self.add_token(token["id"], token["text"], token["logprob"], token["special"])
        self.num_tokens += 1
        if details := event.get("details"):
            self.finish_reason, self.seed = details["finish_reason"], details["seed"]
            self.num_tokens = details["generated_tokens"]
        whole = event.get("generated_text")
        if isinstance(whole, str) and whole.startswith(self.text):
            return whole[len(self.text) :]  # with what no token of its own brought
        return "" if token["special"] else str(token["text"])


class ChatReply(RemoteReply):
    def _read(self, event: dict[str, Any]) -> str:
        if usage := event.get("usage"):
            self.num_tokens, self.prompt_tokens = usage["completion_tokens"], usage["prompt_tokens"]
        if not event["choices"]:
            return ""
        [choice] = event["choices"]
        self.finish_reason = choice.get("finish_reason") or self.finish_reason
        text = choice["delta"].get("content") or ""
        if text and not event.get("usage"):
            self.num_tokens += 1  # one token an event, until the server says how many there were
        return str(text)


class ServerBackend:
    """A server behind the `Backend` protocol: TGI's route for texts, OpenAI's for chats."""

    def __init__(self, url: str, model: str | None = None, api_key: str | None = None) -> None:
        self.name = url
        base = url.rstrip("/").removesuffix("/v1")
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        try:
            if httpx.URL(base).scheme not in ("http", "https"):
                raise httpx.InvalidURL("not http")
            self._client = httpx.AsyncClient(base_url=base, headers=headers, timeout=TIMEOUT)
        except (httpx.InvalidURL, UnicodeError):
            raise ConfigError(f"--url: '{url}' is not an address such as http://localhost:3000") from None
        self._model = model or "tgi"

    async def start(self) -> None:
        pass

    async def aclose(self) -> None:
        await self._client.aclose()

    def complete(self, prompt: str, sampling: Sampling) -> Reply:
        parameters: dict[str, Any] = {"details": True, "do_sample": sampling.temperature > 0, **sampling.request()}
        if sampling.temperature > 0:
            parameters["temperature"] = sampling.temperature
        parameters["max_new_tokens"] = sampling.max_new_tokens or 128
        return TgiReply(self._client, "/generate_stream", {"inputs": prompt, "parameters": parameters})

    def chat(self, messages: Sequence[Message], sampling: Sampling) -> Reply:
        body = {"model": self._model, "messages": list(messages), "stream": True}
        body |= {"stream_options": {"include_usage": True}, "temperature": sampling.temperature, **sampling.request()}
        if sampling.max_new_tokens is not None:
            body["max_tokens"] = sampling.max_new_tokens
        reply = ChatReply(self._client, "/v1/chat/completions", body)
        seed = sampling.given.get("seed")
        reply.seed = seed if isinstance(seed, int) and sampling.temperature > 0 else None
        return reply

    def fits(self, messages: Sequence[Message], sampling: Sampling) -> bool:
        return True  # only the server can tell, and it does when asked


def api_key() -> str | None:
    return os.environ.get("API_KEY") or None


@asynccontextmanager
async def _stream(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> AsyncIterator[httpx.Response]:
    """Open a stream of server-sent events. Raises EngineError for whatever the network or the server does."""
    try:
        async with client.stream("POST", path, json=body) as response:
            if response.status_code != 200:
                raise _refusal(response, await response.aread())
            yield response
    except httpx.TimeoutException:
        raise ServerGone(f"{client.base_url} does not answer") from None
    except httpx.ConnectError as error:
        raise ServerGone(f"no server at {client.base_url}: {error}") from None
    except httpx.HTTPError as error:
        raise ServerGone(f"{client.base_url} broke the connection off ({type(error).__name__})") from None


def _refusal(response: httpx.Response, content: bytes) -> EngineError:
    status, url = response.status_code, response.url
    if status in (401, 403):
        return ConfigError(f"{url} wants an API key ({status}); set API_KEY in the environment")
    if status in (404, 405):
        other = "; try --chat" if url.path.endswith("/generate_stream") else ""
        return ConfigError(f"{url} is not there ({status}){other}")
    try:
        error = _server_error(json.loads(content))
    except ValueError:
        error = None
    if error is not None and type(error) is not EngineError:
        return error
    text = str(error) if error else content[:300].decode(errors="replace")
    return STATUSES.get(status, ServerGone)(f"{text or 'no reason given'} ({status})")


def _event(data: str) -> dict[str, Any]:
    """An event of a stream. Raises EngineError where it is an error, or nothing this client understands."""
    try:
        event = json.loads(data)
    except ValueError:
        event = None
    if not isinstance(event, dict):
        raise _nonsense(data)
    if error := _server_error(event):
        raise error
    return event


def _nonsense(data: str) -> EngineError:
    return GenerationFailed(f"the server sent an event that this client does not understand: {data[:80]}")


def _server_error(body: Any) -> EngineError | None:
    """The error in a body of either shape: TGI's {error, error_type} and OpenAI's {error: {message}}."""
    error = body.get("error") if isinstance(body, dict) else None
    if isinstance(error, dict):
        return STATUSES.get(error.get("http_status_code", 0), EngineError)(str(error.get("message")))
    if isinstance(error, str):
        return TYPES.get(body.get("error_type", ""), EngineError)(error)
    return None
