"""Rotary position embedding (Su et al. 2021) and its scalings for longer contexts, resolved to numbers.

Adding a variant is one function and one line of `VARIANTS`; an unknown one is an error. A config states its variant
as `rope_scaling` and `rope_theta`, or since transformers 5 as `rope_parameters`; both are read.

Published weights were trained and are compared with frequencies computed in float32, and one part in ten million
is a visible angle at position 100,000. So every step here is rounded to float32, in the order transformers uses.
"""

import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from engine.errors import ModelUnsupported
from engine.models.config_fields import integer, number, optional_integer, optional_number, refusal
from engine.models.spec import RopeSpec

UNSET: Final = object()  # "take it from the config", where None means no scaling
DEFAULT_THETA = 10_000.0
COMMON_KEYS = {"type", "rope_type", "rope_theta", "partial_rotary_factor", "original_max_position_embeddings"}


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """What a variant computes from."""

    parameters: Mapping[str, Any]  # the keys of `rope_scaling` or `rope_parameters`
    dim: int  # features of a head that turn
    theta: float
    length: int  # the served context
    stated: int  # `max_position_embeddings`
    original: int  # the context before scaling, where the config names it; else `stated`


Variant = Callable[[Scaling], tuple[list[float], float]]  # -> inverse frequencies, attention factor


def rope(
    config: Mapping[str, Any],
    *,
    head_dim: int,
    rotary_dim: int | None = None,
    max_context: int | None = None,
    theta: float | None = None,
    scaling: object = UNSET,
) -> RopeSpec:
    """The rotary embedding that a config describes, for a served context of `max_context` tokens.

    `rotary_dim` features of a head turn; None = `head_dim * partial_rotary_factor`. `theta` is the base where the
    scaling parameters name none; None = `rope_theta` of the config, or 10,000. `scaling` replaces the config's own
    parameters; None = unscaled. `max_context` None = the model's own length (`served_context`).

    `dynamic` and `longrope` depend on the length of a sequence in their papers. Here they are resolved once from the
    served length, as vLLM does it, so that a cached key never changes. Raises ModelUnsupported.
    """
    parameters = scaling_parameters(config, scaling)
    variant, keys = VARIANTS[_variant_name(parameters)]
    if unknown := [key for key in parameters if key not in keys | COMMON_KEYS and parameters[key] is not None]:
        raise refusal(f"rope_scaling.{unknown[0]}", parameters[unknown[0]], f"only {', '.join(sorted(keys)) or 'none'}")
    if rotary_dim is None:
        rotary_dim = int(head_dim * _partial_rotary_factor(config, parameters))
    if rotary_dim < 2 or rotary_dim % 2 or rotary_dim > head_dim:
        raise ModelUnsupported(f"rotary dimension {rotary_dim}: expected an even number from 2 to {head_dim}")
    if theta is None:
        theta = optional_number(config, "rope_theta") or DEFAULT_THETA
    resolved = Scaling(
        parameters=parameters,
        dim=rotary_dim,
        theta=optional_number(parameters, "rope_theta") or theta,
        length=served_context(config, max_context, scaling=scaling),
        stated=integer(config, "max_position_embeddings"),
        original=_original_context(config, parameters),
    )
    try:
        inv_freq, attention_factor = variant(resolved)
    except (ArithmeticError, ValueError) as error:
        raise refusal("rope_scaling", dict(parameters), f"parameters with finite frequencies ({error})") from None
    return RopeSpec(inv_freq=tuple(inv_freq), attention_factor=attention_factor)


def served_context(config: Mapping[str, Any], max_context: int | None, *, scaling: object = UNSET) -> int:
    """The context length to serve: `max_context`, or the model's own where it is None. Refuses more than its own.

    The model's own length follows vLLM (`_get_and_verify_max_len`): `max_position_embeddings` as stated for unscaled,
    `llama3` and `longrope` models, whose configs state the full length; times `factor` for `linear` and `dynamic`;
    `original_max_position_embeddings` times `factor` for `yarn`.
    """
    parameters = scaling_parameters(config, scaling)
    own: float = integer(config, "max_position_embeddings")
    match _variant_name(parameters):
        case "linear" | "dynamic":
            own *= number(parameters, "factor")
        case "yarn":
            own = _original_context(config, parameters) * number(parameters, "factor")
    if max_context is None:
        return int(own)
    if not 0 < max_context <= own:
        raise ModelUnsupported(f"context of {max_context} tokens: this model supports 1 to {int(own)}; ask for less")
    return max_context


def scaling_parameters(config: Mapping[str, Any], scaling: object = UNSET) -> Mapping[str, Any]:
    """`rope_scaling`, else `rope_parameters`, else nothing; `scaling` replaces all where it is given."""
    value = (config.get("rope_scaling") or config.get("rope_parameters")) if scaling is UNSET else scaling
    if value is None:
        return {}
    if not isinstance(value, Mapping) or any(isinstance(entry, Mapping) for entry in value.values()):
        raise refusal("rope_scaling", value, "one set of parameters for all layers")
    return value


def _variant_name(parameters: Mapping[str, Any]) -> str:
    name = parameters.get("rope_type", parameters.get("type", "default"))
    if not isinstance(name, str) or name not in VARIANTS:
        raise refusal("rope_scaling.rope_type", name, f"one of {', '.join(VARIANTS)}")
    return name


def _partial_rotary_factor(config: Mapping[str, Any], parameters: Mapping[str, Any]) -> float:
    for mapping in (parameters, config):
        factor = optional_number(mapping, "partial_rotary_factor")
        if factor is not None and factor > 1:
            raise refusal("partial_rotary_factor", factor, "a number from 0 to 1")
        if factor is not None:
            return factor
    return 1.0


def _original_context(config: Mapping[str, Any], parameters: Mapping[str, Any]) -> int:
    """A value beside the scaling parameters, as Phi-3 states it, comes before one inside them."""
    key = "original_max_position_embeddings"
    return (
        optional_integer(config, key) or optional_integer(parameters, key) or integer(config, "max_position_embeddings")
    )


def _f32(value: float) -> float:
    """The nearest float32."""
    rounded: float = struct.unpack("f", struct.pack("f", value))[0]
    return rounded


def _periods(dim: int, theta: float) -> list[float]:
    """`theta ** (2i / dim)` for i below dim / 2: radians over inverse frequencies."""
    return [_f32(_f32(theta) ** _f32(i / dim)) for i in range(0, dim, 2)]


def _default(scaling: Scaling) -> tuple[list[float], float]:
    return [_f32(1 / period) for period in _periods(scaling.dim, scaling.theta)], 1.0


def _linear(scaling: Scaling) -> tuple[list[float], float]:
    """Position interpolation (Chen et al. 2023)."""
    factor = number(scaling.parameters, "factor")
    inv_freq, _ = _default(scaling)
    return [_f32(freq / factor) for freq in inv_freq], 1.0


def _dynamic(scaling: Scaling) -> tuple[list[float], float]:
    """NTK-aware scaling of the base, for the served length where it exceeds the one trained on."""
    factor = number(scaling.parameters, "factor")
    stretch = factor * max(scaling.length, scaling.stated) / scaling.stated - (factor - 1)
    theta = scaling.theta * stretch ** (scaling.dim / (scaling.dim - 2))
    return [_f32(1 / period) for period in _periods(scaling.dim, theta)], 1.0


def _llama3(scaling: Scaling) -> tuple[list[float], float]:
    """Llama 3.1: long waves are interpolated, short ones kept, those between blended."""
    factor = number(scaling.parameters, "factor")
    low = number(scaling.parameters, "low_freq_factor")
    high = number(scaling.parameters, "high_freq_factor")
    if high <= low:
        raise refusal("rope_scaling.high_freq_factor", high, f"more than 'low_freq_factor', which is {low}")

    def scaled(freq: float) -> float:
        wavelength = _f32(_f32(2 * math.pi) / freq)
        if wavelength < scaling.original / high:
            return freq
        if wavelength > scaling.original / low:
            return _f32(freq / factor)
        smooth = _f32(_f32(_f32(scaling.original / wavelength) - low) / (high - low))
        return _f32(_f32(_f32(_f32(1 - smooth) * freq) / factor) + _f32(smooth * freq))

    inv_freq, _ = _default(scaling)
    return [scaled(freq) for freq in inv_freq], 1.0


def _yarn(scaling: Scaling) -> tuple[list[float], float]:
    """YaRN (Peng et al. 2023): a ramp over the dimensions from kept to interpolated frequencies."""
    parameters, dim = scaling.parameters, scaling.dim
    factor = number(parameters, "factor")
    beta_fast = optional_number(parameters, "beta_fast") or 32.0
    beta_slow = optional_number(parameters, "beta_slow") or 1.0

    def dimension(rotations: float) -> float:
        """The dimension that turns this often over the original context."""
        return dim * math.log(scaling.original / (rotations * 2 * math.pi)) / (2 * math.log(scaling.theta))

    low, high = dimension(beta_fast), dimension(beta_slow)
    if parameters.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    width = high - low if high != low else 0.001

    inv_freq = []
    for i, period in enumerate(_periods(dim, scaling.theta)):
        ramp = min(max(_f32(_f32(i - _f32(low)) / _f32(width)), 0.0), 1.0)
        kept = _f32(1 - ramp)
        interpolated = _f32(1 / _f32(factor * period))
        inv_freq.append(_f32(_f32(interpolated * _f32(1 - kept)) + _f32(_f32(1 / period) * kept)))
    return inv_freq, _yarn_attention_factor(parameters, factor)


def _yarn_attention_factor(parameters: Mapping[str, Any], factor: float) -> float:
    def mscale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    stated = optional_number(parameters, "attention_factor")
    if stated is not None:
        return stated
    if parameters.get("mscale") and parameters.get("mscale_all_dim"):
        return mscale(number(parameters, "mscale")) / mscale(number(parameters, "mscale_all_dim"))
    return mscale(1.0)


def _longrope(scaling: Scaling) -> tuple[list[float], float]:
    """LongRoPE (Ding et al. 2024): one factor for each frequency, from a long and a short list."""
    parameters = scaling.parameters
    key = "long_factor" if scaling.length > scaling.original else "short_factor"
    factors = parameters.get(key)
    if not isinstance(factors, list) or len(factors) != scaling.dim // 2:
        raise refusal(f"rope_scaling.{key}", factors, f"a list of {scaling.dim // 2} numbers")
    scale = optional_number(parameters, "factor") or scaling.stated / scaling.original
    attention_factor = optional_number(parameters, "attention_factor")
    if attention_factor is None:
        attention_factor = 1.0 if scale <= 1 else math.sqrt(1 + math.log(scale) / math.log(scaling.original))
    periods = _periods(scaling.dim, scaling.theta)
    inv_freq = [_f32(1 / _f32(_f32(number({key: f}, key)) * p)) for f, p in zip(factors, periods, strict=True)]
    return inv_freq, attention_factor


YARN_KEYS = {"factor", "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"}
LONGROPE_KEYS = {"short_factor", "long_factor", "factor", "attention_factor"}

# Name -> the function and the parameters it reads beside the common ones; any other parameter is an error.
VARIANTS: dict[str, tuple[Variant, set[str]]] = {
    "default": (_default, set()),
    "linear": (_linear, {"factor"}),
    "dynamic": (_dynamic, {"factor"}),
    "llama3": (_llama3, {"factor", "low_freq_factor", "high_freq_factor"}),
    "yarn": (_yarn, YARN_KEYS),
    "longrope": (_longrope, LONGROPE_KEYS),
    "su": (_longrope, LONGROPE_KEYS),  # what Phi-3 first called it
}
