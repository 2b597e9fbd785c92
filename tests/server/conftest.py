"""A server over the fake engine, reached in memory or over a loopback port."""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest
from fake_engine import FakeEngine
from serving import MODEL, SCRIPT, client_of, listening
from starlette.applications import Starlette

from engine.config import ServerOptions
from engine.server.app import create_app
from engine.text.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(MODEL)


@pytest.fixture
def engine() -> FakeEngine:
    fake = FakeEngine(SCRIPT)
    fake.healthy = True
    return fake


@pytest.fixture
def make_app(engine: FakeEngine, tokenizer: Tokenizer) -> Iterator[Callable[..., Starlette]]:
    """Makes applications and closes them in the end, since nobody runs their lifespans."""
    made: list[Starlette] = []

    def make(**options: Any) -> Starlette:
        made.append(create_app(engine, tokenizer, ServerOptions(model_id="the/model", **options), engine.info))
        return made[-1]

    yield make
    for app in made:
        app.state.service.close()


@pytest.fixture
async def api(make_app: Callable[..., Starlette]) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(make_app()) as client:
        yield client


@pytest.fixture
def url(make_app: Callable[..., Starlette]) -> Iterator[str]:
    with listening(make_app(), ServerOptions(model_id="the/model")) as address:
        yield address
