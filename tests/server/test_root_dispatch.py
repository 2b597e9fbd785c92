"""`POST /` and `POST /v1` take what is to be continued and what is to be embedded; these are the rules between them."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import msgspec
import pytest
from fake_engine import INFO, FakeEngine
from hypothesis import given
from hypothesis import strategies as st
from serving import SCRIPT, client_of
from starlette.applications import Starlette

from engine.config import ServerOptions
from engine.server.app import create_app
from engine.server.root import asks_for_vectors
from engine.text.tokenizer import Tokenizer

HUB = "unknown/None; hf_hub/1.33.0; python/3.11"
TEXT = {"inputs": "The sea"}

# Bodies, the sender, and whether a model that generates embeds them; then whether an encoder does.
CASES: list[tuple[dict[str, Any], str, bool, bool]] = [
    ({"inputs": ["The sea"]}, "curl/8", True, True),
    ({"inputs": ["The sea"], "stream": True}, "curl/8", True, True),
    ({"inputs": [1, 2]}, "curl/8", True, True),
    (TEXT | {"normalize": False}, "curl/8", True, True),
    (TEXT | {"prompt_name": "query"}, "curl/8", True, True),
    (TEXT | {"truncation_direction": "left"}, "curl/8", True, True),
    (TEXT | {"dimensions": 2}, "curl/8", True, True),
    (TEXT | {"encoding_format": "float"}, "curl/8", True, True),
    (TEXT | {"truncate": True}, "curl/8", True, True),
    (TEXT | {"parameters": {"truncate": False}}, "curl/8", True, True),
    (TEXT | {"parameters": {"normalize": True}}, "curl/8", True, True),
    (TEXT | {"parameters": {"dimensions": 3, "max_new_tokens": 2}}, "curl/8", True, True),
    (TEXT | {"parameters": {"truncate": 3}}, "curl/8", False, False),
    (TEXT | {"parameters": {"max_new_tokens": 2}}, HUB, False, False),
    (TEXT | {"parameters": {"details": False}}, HUB, False, False),
    (TEXT | {"stream": False}, HUB, False, False),
    (TEXT | {"parameters": {}}, HUB, False, True),
    (TEXT | {"parameters": {}}, "curl/8", False, True),
    (TEXT | {"parameters": {"max_new_tokens": None, "normalize": None}}, "curl/8", False, True),
    (TEXT | {"normalize": None, "stream": None}, "curl/8", False, True),
    (TEXT, HUB, True, True),
    (TEXT | {"parameters": None}, HUB, True, True),
    (TEXT, "curl/8", False, True),
]


def app_with(tokenizer: Tokenizer, **changes: Any) -> Starlette:
    engine = FakeEngine(SCRIPT, msgspec.structs.replace(INFO, **changes))
    engine.healthy = True
    return create_app(engine, tokenizer, ServerOptions(model_id="the/model"), engine.info)


@pytest.mark.parametrize("path", ["/", "/v1"])
@pytest.mark.parametrize(("body", "sender", "embeds", "encoder_embeds"), CASES)
async def test_the_body_decides(
    body: dict[str, Any],
    sender: str,
    embeds: bool,
    encoder_embeds: bool,
    path: str,
    tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tokenizer, "prompts", {"query": ""})
    for is_encoder, expected in ((False, embeds), (True, encoder_embeds)):
        app = app_with(tokenizer, is_encoder=is_encoder)
        async with client_of(app) as api:
            answer = await api.post(path, json=body, headers={"user-agent": sender})
        asked = app.state.service.client
        app.state.service.close()
        assert len(asked.requests) == (not expected and not is_encoder)
        if expected:
            assert answer.status_code == 200
            assert len(asked.embedded) == len(answer.json()) == 1
        elif is_encoder:
            assert "is an encoder" in answer.text


@given(
    st.fixed_dictionaries(
        {"inputs": st.just("a") | st.just(["a"])},
        optional={
            "stream": st.sampled_from([None, True, False]),
            "truncate": st.sampled_from([None, True, 3]),
            "dimensions": st.sampled_from([None, 3]),
            "parameters": st.none()
            | st.fixed_dictionaries(
                {},
                optional={
                    "normalize": st.sampled_from([None, True]),
                    "truncate": st.sampled_from([None, False, 3]),
                    "seed": st.sampled_from([None, 0]),
                    "unknown": st.just(1),
                },
            ),
        },
    ),
    st.sampled_from(["curl/8", HUB]),
    st.booleans(),
)
def test_the_rule_as_it_is_written_down(body: dict[str, Any], sender: str, is_encoder: bool) -> None:
    """The contract's five lines, once more and more plainly, over everything that they speak of."""
    given_parameters = body.get("parameters") or {}
    everything = [(name, value) for part in (body, given_parameters) for name, value in part.items()]
    only_vectors = (
        isinstance(body["inputs"], list)
        or any(name in ("normalize", "dimensions") and value is not None for name, value in everything)
        or any(name == "truncate" and isinstance(value, bool) for name, value in everything)
    )
    generates = body.get("stream") is not None or any(
        given_parameters.get(name) is not None for name in ("seed", "truncate")
    )
    expected = only_vectors or (
        not generates and (is_encoder or (body.get("parameters") is None and "hf_hub/" in sender))
    )

    class Here:
        strict = False
        info = msgspec.structs.replace(INFO, is_encoder=is_encoder)

    assert asks_for_vectors(Here(), json.dumps(body).encode(), sender) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("path", ["/", "/v1", "/invocations"])
async def test_what_cannot_be_read_is_refused_as_a_generation(path: str, api: httpx.AsyncClient) -> None:
    for body, status in ((b"{", 400), (b"[]", 422), (b'{"parameters": []}', 422), (b'{"inputs": {}}', 422)):
        answer = await api.post(path, content=body, headers={"content-type": "application/json"})
        assert answer.status_code == status
        assert set(answer.json()) == {"error", "error_type"}


async def test_sagemaker_embeds_lists_too(api: httpx.AsyncClient, engine: FakeEngine) -> None:
    answer = await api.post("/invocations", json={"inputs": ["The sea", "The"]})
    assert len(answer.json()) == len(engine.embedded) == 2


async def test_strictly_as_tgi_nothing_is_embedded_there(make_app: Callable[..., Starlette]) -> None:
    async with client_of(make_app(tgi_compat="strict")) as api:
        answer = await api.post("/", json=TEXT, headers={"user-agent": HUB})
        assert "generated_text" in answer.json()[0]
        for path in ("/", "/invocations"):
            assert (await api.post(path, json={"inputs": ["The sea"]})).status_code == 422
        assert (await api.post("/embed", json={"inputs": ["The sea"]})).status_code == 200  # an addition, no difference
