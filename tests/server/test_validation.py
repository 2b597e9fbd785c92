"""Every message with which TGI refuses a value, in TGI's order, and the values at the edge that pass."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fake_engine import FakeEngine
from serving import client_of
from starlette.applications import Starlette

SAMPLING = "you must use sampling when `best_of` is > 1"
LENGTHS = "`inputs` tokens + `max_new_tokens` must be <= 64. Given: 2 `inputs` tokens and 63 `max_new_tokens`"

# (parameters, message without its beginning); the window is 64 tokens, a prompt may have 63.
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"best_of": 2}, SAMPLING),
    ({"best_of": 3, "do_sample": True}, "`best_of` must be > 0 and <= 2. Given: 3"),
    ({"best_of": 2, "do_sample": True, "seed": 1}, "`seed` must not be set when `best_of` > 1"),
    ({"temperature": 0}, "`temperature` must be strictly positive"),
    ({"temperature": 1e-46}, "`temperature` must be strictly positive"),
    ({"temperature": -1.0}, "`temperature` must be strictly positive"),
    ({"repetition_penalty": 1e-320}, "`repetition_penalty` must be strictly positive"),
    ({"repetition_penalty": 0.0}, "`repetition_penalty` must be strictly positive"),
    ({"frequency_penalty": 2.1}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
    ({"frequency_penalty": -2.1}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
    ({"presence_penalty": 2.1}, "`presence_penalty` must be >= -2.0 and <= 2.0"),
    ({"top_p": 0.0}, "`top_p` must be > 0.0 and < 1.0"),
    ({"top_p": 1.01}, "`top_p` must be > 0.0 and < 1.0"),
    ({"typical_p": 0.0}, "`typical_p` must be > 0.0 and < 1.0"),
    ({"typical_p": 2}, "`typical_p` must be > 0.0 and < 1.0"),
    ({"top_k": 0}, "`top_k` must be strictly positive"),
    ({"top_k": -1}, "`top_k` must be strictly positive"),
    ({"min_p": 1.5}, "`min_p` must be >= 0.0 and <= 1.0"),
    ({"max_new_tokens": 0}, "`max_new_tokens` must be strictly positive"),
    ({"stop": ["a", "b", "c", "d", "e"]}, "`stop` supports up to 4 stop sequences. Given: 5"),
    ({"stop": [""]}, "`stop` sequences must have 1 to 1024 characters"),
    ({"stop": "x" * 1025}, "`stop` sequences must have 1 to 1024 characters"),
    ({"top_n_tokens": 6}, "`top_n_tokens` must be >= 0 and <= 5. Given: 6"),
    ({"truncate": 0}, "`truncate` must be strictly positive and less than 63. Given: 0"),
    ({"truncate": 64}, "`truncate` must be strictly positive and less than 63. Given: 64"),
    ({"max_new_tokens": 63}, LENGTHS),
    ({"watermark": True}, "`watermark` is not supported"),
    (
        {"adapter_id": "x"},
        "`adapter_id` names an adapter that is not loaded; leave it out to use the base model",
    ),
    ({"logit_bias": {"8192": 1}}, "`logit_bias` keys must be token ids < 8192. Given: 8192"),
    ({"logit_bias": {"-1": 1}}, "`logit_bias` keys must be token ids < 8192. Given: -1"),
    ({"logit_bias": {"1": 101}}, "`logit_bias` values must be >= -100 and <= 100. Given: 101.0"),
]

ACCEPTED: list[dict[str, Any]] = [
    {},
    {"best_of": 0},
    {"best_of": 1},
    {"best_of": 2, "temperature": 1.0},
    {"best_of": 2, "top_k": 1},
    {"temperature": 1e-6},
    {"temperature": 1000},
    {"frequency_penalty": -2, "presence_penalty": 2.0},
    {"top_p": 1, "typical_p": 1.0, "min_p": 0},
    {"top_p": 0.999, "typical_p": 0.001},
    {"seed": 0, "do_sample": True},
    {"seed": 2**64 - 1, "do_sample": True},
    {"max_new_tokens": 62},
    {"truncate": 63},
    {"top_n_tokens": 5, "stop": ["w", "x", "y", "z"]},
    {"stop": "one string", "watermark": False},
    dict.fromkeys(("best_of", "temperature", "repetition_penalty", "frequency_penalty", "top_k", "top_p", "typical_p")),
    dict.fromkeys(("do_sample", "max_new_tokens", "return_full_text", "stop", "truncate", "watermark", "details")),
    dict.fromkeys(("decoder_input_details", "seed", "top_n_tokens", "grammar", "adapter_id")),
]

# Each request breaks two rules; the first one is reported.
ORDER: list[tuple[dict[str, Any], str]] = [
    ({"best_of": 3, "temperature": 0, "do_sample": True}, "`best_of` must be > 0 and <= 2. Given: 3"),
    ({"best_of": 2, "max_new_tokens": 0}, SAMPLING),
    ({"temperature": 0, "repetition_penalty": 0}, "`temperature` must be strictly positive"),
    ({"repetition_penalty": 0, "frequency_penalty": 3}, "`repetition_penalty` must be strictly positive"),
    ({"frequency_penalty": 3, "top_p": 0}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
    ({"top_p": 0, "typical_p": 0}, "`top_p` must be > 0.0 and < 1.0"),
    ({"typical_p": 0, "top_k": 0}, "`typical_p` must be > 0.0 and < 1.0"),
    ({"top_k": 0, "max_new_tokens": 0}, "`top_k` must be strictly positive"),
    ({"max_new_tokens": 0, "stop": list("abcde")}, "`max_new_tokens` must be strictly positive"),
    ({"stop": list("abcde"), "top_n_tokens": 6}, "`stop` supports up to 4 stop sequences. Given: 5"),
    (
        {"best_of": 2, "do_sample": True, "seed": 1, "top_n_tokens": 6},
        "`seed` must not be set when `best_of` > 1",
    ),
    ({"top_n_tokens": 6, "truncate": 0}, "`top_n_tokens` must be >= 0 and <= 5. Given: 6"),
    ({"truncate": 0, "max_new_tokens": 63}, "`truncate` must be strictly positive and less than 63. Given: 0"),
    ({"max_new_tokens": 63, "grammar": {}}, LENGTHS),
]


def refusal(message: str) -> dict[str, str]:
    return {"error": f"Input validation error: {message}", "error_type": "validation"}


@pytest.mark.parametrize(("parameters", "message"), REFUSED + ORDER)
async def test_a_bad_value_is_refused_as_in_tgi(
    parameters: dict[str, Any], message: str, api: httpx.AsyncClient, engine: FakeEngine
) -> None:
    answer = await api.post("/generate", json={"inputs": "The sea", "parameters": parameters})
    assert (answer.status_code, answer.json()) == (422, refusal(message))
    assert not engine.requests


@pytest.mark.parametrize("parameters", ACCEPTED)
async def test_a_value_at_the_edge_is_accepted(parameters: dict[str, Any], api: httpx.AsyncClient) -> None:
    answer = await api.post("/generate", json={"inputs": "The sea", "parameters": parameters})
    assert (answer.status_code, answer.json()) == (200, {"generated_text": " is deep."})


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"best_of": 2, "do_sample": True}, "`best_of` != 1 is not supported when streaming tokens"),
        ({"best_of": 0}, "`best_of` != 1 is not supported when streaming tokens"),
        ({"decoder_input_details": True}, "`decoder_input_details` == true is not supported when streaming tokens"),
    ],
)
async def test_a_stream_refuses_what_tgi_does_not_stream(
    parameters: dict[str, Any], message: str, api: httpx.AsyncClient
) -> None:
    answer = await api.post("/generate_stream", json={"inputs": "The sea", "parameters": parameters})
    assert answer.status_code == 200
    assert answer.text.startswith('data: {"error":"Input validation error: ' + message)


async def test_grammars_can_be_turned_off(make_app: Callable[..., Starlette]) -> None:
    body = {"inputs": "a", "parameters": {"grammar": {"type": "regex", "value": "a"}}}
    async with client_of(make_app(disable_grammar_support=True)) as api:
        answer = await api.post("/generate", json=body)
    assert (answer.status_code, answer.json()) == (422, refusal("grammar is not supported"))


async def test_an_endpoint_without_best_of_says_so(make_app: Callable[..., Starlette]) -> None:
    async with client_of(make_app(max_best_of=1)) as api:
        answer = await api.post("/generate", json={"inputs": "a", "parameters": {"best_of": 2, "do_sample": True}})
    assert answer.json() == refusal("`best_of` != 1 is not allowed for this endpoint")


@pytest.mark.parametrize("tokens", [62, 63, 64])
async def test_the_longest_prompt_is_one_less_than_the_window(tokens: int, api: httpx.AsyncClient) -> None:
    answer = await api.post("/generate", json={"inputs": " sea" * tokens, "parameters": {}})
    if tokens <= 63:
        assert answer.status_code == 200
    else:
        assert answer.json() == refusal("`inputs` must have less than 63 tokens. Given: 64")


async def test_truncation_rescues_a_long_prompt_and_keeps_its_end(api: httpx.AsyncClient, engine: FakeEngine) -> None:
    inputs = "The" + " sea" * 100
    answer = await api.post("/generate", json={"inputs": inputs, "parameters": {"truncate": 3}})
    assert answer.status_code == 200
    assert engine.requests[0].prompt == (5408, 5408, 5408)
    assert engine.requests[0].params.max_new_tokens == 61


async def test_the_limits_are_the_servers_own(make_app: Callable[..., Starlette]) -> None:
    app = make_app(max_stop_sequences=1, max_top_n_tokens=0, max_input_tokens=2)
    async with client_of(app) as api:
        for parameters, message in [
            ({"stop": ["a", "b"]}, "`stop` supports up to 1 stop sequences. Given: 2"),
            ({"top_n_tokens": 1}, "`top_n_tokens` must be >= 0 and <= 0. Given: 1"),
            ({"max_new_tokens": 1}, "`inputs` must have less than 2 tokens. Given: 3"),
        ]:
            answer = await api.post("/generate", json={"inputs": " sea sea sea", "parameters": parameters})
            assert answer.json() == refusal(message)
