"""TGI's response headers: what a request cost."""

from collections.abc import Sequence

from engine.server.generation import Generation, Stopwatch
from engine.server.service import Service

STREAM_HEADERS = ("x-compute-type", "x-compute-characters")
COST_HEADERS = (
    "x-compute-time",
    "x-total-time",
    "x-validation-time",
    "x-queue-time",
    "x-inference-time",
    "x-time-per-token",
    "x-prompt-tokens",
    "x-generated-tokens",
)
EMBEDDING_HEADERS = ("x-compute-tokens", "x-tokenization-time")


def stream_headers(service: Service, characters: int) -> dict[str, str]:
    """What is known before the first token. `characters` are those of the (templated) prompt."""
    return {"x-compute-type": service.compute_type, "x-compute-characters": str(characters)}


def compute_headers(
    service: Service, watch: Stopwatch, generations: Sequence[Generation], *, characters: int, prompt_tokens: int
) -> dict[str, str]:
    """Times in whole milliseconds, but `x-compute-time` in seconds. Tokens are summed over the answers."""
    generated = sum(len(generation.pieces) for generation in generations)
    inference = max(generation.inference for generation in generations)
    total = watch.total
    return stream_headers(service, characters) | {
        "x-compute-time": f"{total:.6f}",
        "x-total-time": _milliseconds(total),
        "x-validation-time": _milliseconds(watch.validation),
        "x-queue-time": _milliseconds(max(generation.queue for generation in generations)),
        "x-inference-time": _milliseconds(inference),
        "x-time-per-token": _milliseconds(inference / max(1, generated)),
        "x-prompt-tokens": str(prompt_tokens),
        "x-generated-tokens": str(generated),
    }


def embedding_headers(
    service: Service, watch: Stopwatch, queue: float, inference: float, *, characters: int, tokens: int
) -> dict[str, str]:
    """Those of text-embeddings-inference, and ours of the same meaning."""
    return stream_headers(service, characters) | {
        "x-compute-time": f"{watch.total:.6f}",
        "x-compute-tokens": str(tokens),
        "x-total-time": _milliseconds(watch.total),
        "x-validation-time": _milliseconds(watch.validation),
        "x-tokenization-time": _milliseconds(watch.validation),
        "x-queue-time": _milliseconds(queue),
        "x-inference-time": _milliseconds(inference),
        "x-prompt-tokens": str(tokens),
    }


def _milliseconds(seconds: float) -> str:
    return str(round(seconds * 1000))
