"""TGI's response headers: what a request cost."""

from collections.abc import Sequence

from engine.server.generation import Generation, Stopwatch
from engine.server.service import Service


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


def _milliseconds(seconds: float) -> str:
    return str(round(seconds * 1000))
