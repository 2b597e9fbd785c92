"""An engine that says a given text, with room for prompts that offer tools, and a server over it."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec
from fake_engine import INFO, FakeEngine
from serving import client_of
from starlette.applications import Starlette

from engine.config import ServerOptions
from engine.server.app import create_app
from engine.server.service import Service
from engine.text.tokenizer import Tokenizer

END = 2  # the end token
SEA_SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}},
    "required": ["name"],
    "additionalProperties": False,
}
CALL = '<tool_call>\n{"name": "depth", "arguments": {"name": "Red Sea"}}\n</tool_call>'
OTHER_CALL = '<tool_call>\n{"name": "depth", "arguments": {"name": "Baltic"}}\n</tool_call>'
ARGUMENTS = '{"name": "Red Sea"}'


def engine_saying(tokenizer: Tokenizer, text: str) -> FakeEngine:
    """One token a step, then the end token."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    engine = FakeEngine([*((token,) for token in ids), (END,)], msgspec.structs.replace(INFO, max_total_tokens=1024))
    engine.healthy = True
    return engine


@asynccontextmanager
async def server_over(
    engine: FakeEngine, tokenizer: Tokenizer, **options: Any
) -> AsyncIterator[tuple[httpx.AsyncClient, Service]]:
    """A client of `app_over`, and what its handlers share."""
    app = app_over(engine, tokenizer, **options)
    async with client_of(app, raise_app_exceptions=False) as api:
        try:
            yield api, app.state.service
        finally:
            app.state.service.close()


def app_over(engine: FakeEngine, tokenizer: Tokenizer, **options: Any) -> Starlette:
    """With the tool calls of Hermes and thoughts between `<think>` and `</think>`."""
    settings = {"tool_call_parser": "hermes", "reasoning_parser": "think", **options}
    return create_app(engine, tokenizer, ServerOptions(model_id="the/model", **settings), engine.info)


def named_events(body: str) -> list[tuple[str, Any]]:
    """Name and data of each event of a stream in which every event has a name."""
    found = []
    for block in body.removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        assert name.startswith("event: "), block
        found.append((name.removeprefix("event: "), msgspec.json.decode(data.removeprefix("data: "))))
    return found


def prompt_of(engine: FakeEngine, tokenizer: Tokenizer) -> str:
    """What the last request asked the engine."""
    return tokenizer.decode(engine.requests[-1].prompt, skip_special_tokens=False)


def only(fields: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: fields[name] for name in names}
