"""What the mock answers besides generations: who it is, its tokenizer, its metrics."""

from collections.abc import Callable
from typing import Any

import msgspec

from bench.mock import tokens
from bench.mock.asked import Refused
from bench.mock.behaviour import Behaviour

VERSION = "1.0.0"


class Counters(msgspec.Struct):
    """What /metrics tells."""

    running: int = 0
    waiting: int = 0
    requests: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0


def page(method: str, path: str, body: bytes, behaviour: Behaviour, counters: Counters) -> tuple[str, bytes]:
    """The content type and the body. Raises Refused, with 404 for what a server of this kind does not have."""
    if method == "GET" and path in ("/health", "/ping"):
        return "text/plain", b""
    if method == "GET" and path == "/metrics":
        return "text/plain; version=0.0.4", _metrics(behaviour, counters)
    if method == "GET" and path in _FACTS:
        kinds, fact = _FACTS[path]
        if behaviour.kind == "mock" or behaviour.kind in kinds:
            return "application/json", msgspec.json.encode(fact(behaviour))
    if method == "POST" and path == "/tokenize" and behaviour.kind not in ("openai", "sglang"):
        return "application/json", _tokenize(body, behaviour)
    raise Refused(404, f"there is no {method} {path} here", "NotFoundError")


def _models(behaviour: Behaviour) -> dict[str, Any]:
    model = {"id": behaviour.model, "object": "model", "created": 0, "owned_by": behaviour.kind}
    if behaviour.kind in ("vllm", "mock"):
        model["max_model_len"] = behaviour.max_context
    return {"object": "list", "data": [model]}


def _info(behaviour: Behaviour) -> dict[str, Any]:
    return {
        "model_id": behaviour.model,
        "max_input_tokens": behaviour.max_context - 1,
        "max_total_tokens": behaviour.max_context,
        "max_concurrent_requests": behaviour.slots or 4096,
        "router": "text-generation-router" if behaviour.kind == "tgi" else "tgi-bench-mock",
        "version": VERSION,
    }


def _props(behaviour: Behaviour) -> dict[str, Any]:
    settings = {"n_ctx": behaviour.max_context}
    return {"default_generation_settings": settings, "total_slots": behaviour.slots or 1, "model_path": behaviour.model}


_FACTS: dict[str, tuple[tuple[str, ...], Callable[[Behaviour], dict[str, Any]]]] = {
    "/v1/models": (("tgi", "vllm", "sglang", "llama.cpp", "openai"), _models),
    "/info": (("tgi",), _info),
    "/version": (("vllm",), lambda _: {"version": VERSION}),
    "/props": (("llama.cpp",), _props),
    "/get_server_info": (("sglang",), lambda b: {"model_path": b.model, "context_length": b.max_context}),
}


class _Tokenize(msgspec.Struct):
    inputs: str | None = None  # TGI
    prompt: str | None = None  # vLLM
    content: str | None = None  # llama.cpp


def _tokenize(body: bytes, behaviour: Behaviour) -> bytes:
    try:
        asked = msgspec.json.decode(body, type=_Tokenize)
    except msgspec.MsgspecError as error:
        raise Refused(400, f"the body is not a request: {error}") from None
    if asked.inputs is not None:
        listed = []
        start = 0
        for piece in tokens.pieces(asked.inputs):
            listed.append({"id": tokens.piece_id(piece), "text": piece, "start": start, "stop": start + len(piece)})
            start += len(piece)
        return msgspec.json.encode(listed)
    if asked.prompt is not None:
        ids = tokens.encode(asked.prompt)
        return msgspec.json.encode({"count": len(ids), "max_model_len": behaviour.max_context, "tokens": ids})
    if asked.content is not None:
        return msgspec.json.encode({"tokens": tokens.encode(asked.content)})
    raise Refused(422, "missing field `inputs`, `prompt` or `content`")


def _metrics(behaviour: Behaviour, counters: Counters) -> bytes:
    """In vLLM's names, or in those of the server it plays."""
    names = {
        "tgi": ("tgi_batch_current_size", "tgi_queue_size", "tgi_request_count", None, None),
        "sglang": (
            "sglang:num_running_reqs",
            "sglang:num_queue_reqs",
            "sglang:num_requests_total",
            "sglang:prompt_tokens_total",
            "sglang:generation_tokens_total",
        ),
        "llama.cpp": (
            "llamacpp:requests_processing",
            "llamacpp:requests_deferred",
            None,
            "llamacpp:prompt_tokens_total",
            "llamacpp:tokens_predicted_total",
        ),
    }.get(
        behaviour.kind,
        (
            "vllm:num_requests_running",
            "vllm:num_requests_waiting",
            "vllm:request_success_total",
            "vllm:prompt_tokens_total",
            "vllm:generation_tokens_total",
        ),
    )
    values = (
        counters.running,
        counters.waiting,
        counters.requests,
        counters.prompt_tokens,
        counters.generated_tokens,
    )
    lines = []
    for name, value, kind in zip(names, values, ("gauge", "gauge", "counter", "counter", "counter"), strict=True):
        if name is not None:
            lines.append(f"# TYPE {name} {kind}\n{name} {value}\n")
    return "".join(lines).encode()
