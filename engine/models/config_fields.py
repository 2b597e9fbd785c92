"""Typed reading of a `config.json`. Whatever a family cannot honour is refused here by key and value.

A family lays the file over its own defaults first (`{**DEFAULTS, **config}`), because a `config.json` may leave out
whatever equals the default of its class. Every function takes that mapping and a key, and raises `ModelUnsupported`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from engine.errors import ModelUnsupported

Activation = Literal["silu", "gelu", "gelu_tanh"]

# `gelu_new`, `gelu_fast` and `gelu_pytorch_tanh` are one function, written three ways.
ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}

LARGEST_INTEGER = 2**63 - 1
LARGEST_NUMBER = 3.4e38  # of a float32
MOST_LAYERS = 10_000

EXPERT_KEYS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_intermediate_size")


class Sizes(TypedDict):
    """The fields of `ModelSpec` that nearly every `config.json` names alike."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int


def refusal(key: str, value: object, expected: str) -> ModelUnsupported:
    """The error for a value that cannot be honoured; `expected` says what can."""
    return ModelUnsupported(f"config.json: '{key}' is {value!r}; expected {expected}")


def integer(config: Mapping[str, Any], key: str, *, minimum: int = 1) -> int:
    """A required whole number of at least `minimum`."""
    value = config.get(key)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= LARGEST_INTEGER:
        raise refusal(key, value, f"a whole number of at least {minimum}")
    return value


def optional_integer(config: Mapping[str, Any], key: str) -> int | None:
    """A positive whole number, or None where the key is absent or null."""
    return None if config.get(key) is None else integer(config, key)


def number(config: Mapping[str, Any], key: str) -> float:
    """A required positive number."""
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= LARGEST_NUMBER:
        raise refusal(key, value, "a positive number")
    return float(value)


def optional_number(config: Mapping[str, Any], key: str) -> float | None:
    """A positive number, or None where the key is absent or null."""
    return None if config.get(key) is None else number(config, key)


def flag(config: Mapping[str, Any], key: str) -> bool:
    """A required true or false."""
    value = config.get(key)
    if not isinstance(value, bool):
        raise refusal(key, value, "true or false")
    return value


def activation(config: Mapping[str, Any], key: str = "hidden_act") -> Activation:
    """The function of the MLP."""
    value = config.get(key)
    if not isinstance(value, str) or value not in ACTIVATIONS:
        raise refusal(key, value, f"one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[value]


def require(config: Mapping[str, Any], **supported: object) -> None:
    """Refuse any of these keys that is present and set to something else; null counts as absent."""
    for key, value in supported.items():
        if config.get(key) not in (None, value):
            raise refusal(key, config[key], f"{value!r}, the only value supported here")


def sizes(config: Mapping[str, Any]) -> Sizes:
    """Read the sizes of a dense decoder, and check the number of its layers.

    `head_dim` and `num_key_value_heads` may be absent or null.
    """
    for key in EXPERT_KEYS:
        if config.get(key):
            raise refusal(key, config[key], "a dense model (mixtures of experts are another architecture)")
    if integer(config, "num_hidden_layers") > MOST_LAYERS:
        raise refusal("num_hidden_layers", config["num_hidden_layers"], f"at most {MOST_LAYERS}")
    hidden, heads = integer(config, "hidden_size"), integer(config, "num_attention_heads")
    kv_heads = optional_integer(config, "num_key_value_heads") or heads
    if heads % kv_heads:
        raise refusal("num_key_value_heads", kv_heads, f"a divisor of 'num_attention_heads', which is {heads}")
    head_dim = optional_integer(config, "head_dim")
    if head_dim is None:
        if hidden % heads:
            raise refusal("hidden_size", hidden, f"a multiple of 'num_attention_heads', which is {heads}")
        head_dim = hidden // heads
    return Sizes(
        vocab_size=integer(config, "vocab_size"),
        hidden_size=hidden,
        intermediate_size=integer(config, "intermediate_size"),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
    )


def windows(config: Mapping[str, Any], default_types: Sequence[str], window: int | None) -> tuple[int | None, ...]:
    """The attention window of every layer: `window` in layers of `sliding_attention`, None in `full_attention`.

    `layer_types` of the config decides, `default_types` where it has none.
    """
    types = config.get("layer_types")
    types = list(default_types) if types is None else types
    if not isinstance(types, Sequence) or isinstance(types, str) or len(types) != len(default_types):
        raise refusal("layer_types", types, f"a list with one entry for each of the {len(default_types)} layers")
    for kind in types:
        if kind not in ("full_attention", "sliding_attention"):
            raise refusal("layer_types", kind, "full_attention or sliding_attention")
        if kind == "sliding_attention" and window is None:
            raise refusal("sliding_window", None, "a whole number, because 'layer_types' has sliding_attention")
    return tuple(window if kind == "sliding_attention" else None for kind in types)
