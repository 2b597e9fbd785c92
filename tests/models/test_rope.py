"""Every scaling of the rotary embedding against transformers, around the lengths at which it changes."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import ModelUnsupported
from engine.models.rope import VARIANTS, rope, served_context
from engine.runtimes.reference.functions import rotation

LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
LONG = {
    "rope_type": "longrope",
    "short_factor": [1.0 + 0.01 * i for i in range(16)],
    "long_factor": [1.0 + 0.8 * i for i in range(16)],
    "original_max_position_embeddings": 512,
}

# name: (rope_scaling, max_position_embeddings, rope_theta, original length, served length)
CASES: dict[str, tuple[dict[str, Any] | None, int, float, int, int]] = {
    "default": (None, 131072, 500000.0, 131072, 131072),
    "linear": ({"rope_type": "linear", "factor": 4.0}, 2048, 1e4, 2048, 8192),
    "linear, shorter": ({"rope_type": "linear", "factor": 4.0}, 2048, 1e4, 2048, 100),
    "dynamic, original": ({"rope_type": "dynamic", "factor": 2.0}, 2048, 1e4, 2048, 2048),
    "dynamic, one more": ({"rope_type": "dynamic", "factor": 2.0}, 2048, 1e4, 2048, 2049),
    "dynamic, full": ({"rope_type": "dynamic", "factor": 2.0}, 2048, 1e4, 2048, 4096),
    "dynamic, shorter": ({"rope_type": "dynamic", "factor": 2.0}, 2048, 1e4, 2048, 300),
    "llama 3.1": (LLAMA3 | {"factor": 8.0, "original_max_position_embeddings": 8192}, 131072, 5e5, 8192, 131072),
    "llama 3.2": (LLAMA3 | {"factor": 32.0, "original_max_position_embeddings": 8192}, 131072, 5e5, 8192, 131072),
    "llama 3, all bands": (LLAMA3 | {"factor": 2.0, "original_max_position_embeddings": 64}, 256, 1e3, 64, 256),
    "yarn": (YARN, 512, 1e4, 512, 2048),
    "yarn, stated": (YARN, 2048, 1e6, 512, 2048),
    "yarn, attention_factor": (YARN | {"attention_factor": 0.7}, 512, 1e4, 512, 2048),
    "yarn, mscale": (YARN | {"mscale": 0.7, "mscale_all_dim": 1.3}, 512, 1e4, 512, 2048),
    "yarn, mscale alone": (YARN | {"mscale": 0.7}, 512, 1e4, 512, 2048),
    "yarn, not truncated": (YARN | {"truncate": False}, 512, 1e4, 512, 2048),
    "yarn, betas": (YARN | {"beta_fast": 16.0, "beta_slow": 2.0}, 512, 1e4, 512, 2048),
    "longrope, short": (LONG, 2048, 1e4, 512, 512),
    "longrope, one more": (LONG, 2048, 1e4, 512, 513),
    "longrope, long": (LONG, 2048, 1e4, 512, 2048),
    "longrope, factor": (LONG | {"factor": 2.5}, 2048, 1e4, 512, 2048),
    "longrope, attention_factor": (LONG | {"attention_factor": 1.25}, 2048, 1e4, 512, 2048),
}


def config_of(case: str, *, new_form: bool = False) -> dict[str, Any]:
    scaling, length, theta, _, _ = CASES[case]
    if new_form:
        return {
            "max_position_embeddings": length,
            "rope_parameters": {"rope_type": "default", "rope_theta": theta} | (scaling or {}),
        }
    return {"max_position_embeddings": length, "rope_theta": theta, "rope_scaling": scaling}


def theirs(case: str, head_dim: int, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine `[T, head_dim / 2]` as transformers computes them for one sequence of these positions."""
    import torch
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = LlamaConfig(hidden_size=head_dim, num_attention_heads=1, **config_of(case))
    cos, sin = LlamaRotaryEmbedding(config)(torch.zeros(1), torch.from_numpy(positions)[None])
    return cos[0, :, : head_dim // 2].numpy(), sin[0, :, : head_dim // 2].numpy()


@pytest.mark.parametrize("case", CASES)
def test_cos_and_sin_equal_transformers_around_every_threshold(case: str) -> None:
    *_, original, served = CASES[case]
    around = (0, 1, 2, original - 1, original, original + 1, served // 2, served - 2, served - 1)
    positions = np.array(sorted({p for p in around if p < served}))  # the last decides what transformers chooses
    cos, sin = rotation(rope(config_of(case), head_dim=32, max_context=served), positions)
    their_cos, their_sin = theirs(case, 32, positions)
    np.testing.assert_allclose(cos[:, 0], their_cos, rtol=0, atol=2e-4)
    np.testing.assert_allclose(sin[:, 0], their_sin, rtol=0, atol=2e-4)
    near = positions < 4096
    np.testing.assert_allclose(cos[near, 0], their_cos[near], rtol=0, atol=2e-6)
    np.testing.assert_allclose(sin[near, 0], their_sin[near], rtol=0, atol=2e-6)


@pytest.mark.parametrize("case", CASES)
def test_both_forms_of_config_say_the_same(case: str) -> None:
    served = CASES[case][-1]
    old = rope(config_of(case), head_dim=32, max_context=served)
    assert rope(config_of(case, new_form=True), head_dim=32, max_context=served) == old


def test_the_original_name_of_longrope_and_the_original_key_of_the_type() -> None:
    modern = config_of("longrope, long")
    early = modern | {
        "rope_scaling": {key: value for key, value in LONG.items() if key != "rope_type"} | {"type": "su"}
    }
    assert rope(early, head_dim=32) == rope(modern, head_dim=32)


def test_factors_are_chosen_once_from_the_served_length() -> None:
    for name in ("dynamic", "longrope"):
        full = next(case for case in CASES if case.startswith(name))
        original = CASES[full][3]
        config = config_of(full)
        within = rope(config, head_dim=32, max_context=original)
        assert rope(config, head_dim=32, max_context=original // 2) == within
        assert rope(config, head_dim=32, max_context=original + 1) != within
        assert rope(config, head_dim=32) == rope(config, head_dim=32, max_context=served_context(config, None))


def test_the_long_factors_are_not_the_short_ones() -> None:
    """A negative control: the tolerances above tell one choice from the other."""
    positions = np.arange(512)
    cos, _ = rotation(rope(config_of("longrope, short"), head_dim=32, max_context=513), positions)
    their_cos, _ = theirs("longrope, short", 32, positions)
    assert np.abs(cos[:, 0] - their_cos).max() > 0.1


@pytest.mark.parametrize(
    ("scaling", "length"),
    [
        (None, 1000),
        ({"rope_type": "default"}, 1000),
        ({"rope_type": "linear", "factor": 4.0}, 4000),
        ({"type": "dynamic", "factor": 2.5}, 2500),
        (LLAMA3 | {"factor": 8.0, "original_max_position_embeddings": 125}, 1000),
        (LONG, 1000),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 500}, 2000),
        ({"rope_type": "yarn", "factor": 4.0}, 4000),
    ],
)
def test_own_length_follows_the_scaling(scaling: dict[str, Any] | None, length: int) -> None:
    config = {"max_position_embeddings": 1000, "rope_scaling": scaling}
    assert served_context(config, None) == length
    assert served_context(config, length) == length
    assert served_context(config, 7) == 7
    with pytest.raises(ModelUnsupported, match=f"{length + 1}.*{length}"):
        served_context(config, length + 1)
    with pytest.raises(ModelUnsupported, match="context of 0 tokens"):
        served_context(config, 0)


def test_partial_rotation() -> None:
    config = {"max_position_embeddings": 64, "partial_rotary_factor": 0.25}
    assert len(rope(config, head_dim=64).inv_freq) == 8
    assert rope(config, head_dim=64) == rope({"max_position_embeddings": 64}, head_dim=64, rotary_dim=16)
    inside = {"max_position_embeddings": 64, "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}
    assert len(rope(inside, head_dim=64).inv_freq) == 16


def test_theta_inside_the_parameters_comes_first() -> None:
    config = {"max_position_embeddings": 64, "rope_theta": 500.0}
    assert rope(config, head_dim=8) == rope({"max_position_embeddings": 64}, head_dim=8, theta=500.0)
    assert rope(config, head_dim=8, theta=20.0) != rope(config, head_dim=8)
    inside = config | {"rope_parameters": {"rope_type": "default", "rope_theta": 20.0}}
    assert rope(inside, head_dim=8, theta=7.0) == rope(config, head_dim=8, theta=20.0)


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        ({"rope_type": "fancy"}, "'rope_scaling.rope_type' is 'fancy'.*default, linear, dynamic"),
        ({"rope_type": None}, "'rope_scaling.rope_type' is None"),
        ({"rope_type": "linear"}, "'factor' is None"),
        ({"rope_type": "linear", "factor": "4"}, "'factor' is '4'"),
        ({"rope_type": "default", "mrope_section": [1, 1, 2]}, "mrope_section"),
        ({"rope_type": "linear", "factor": 2.0, "beta_fast": 3}, "beta_fast"),
        (LLAMA3, "'factor' is None"),
        (LLAMA3 | {"factor": 2.0, "high_freq_factor": 1.0}, "high_freq_factor"),
        (LONG | {"long_factor": [1.0]}, "long_factor.*list of 16 numbers"),
        (LONG | {"long_factor": ["x"] * 16}, "'long_factor' is 'x'"),
        ({"rope_type": "default", "rope_theta": -1.0}, "'rope_theta' is -1.0"),
        ({"full_attention": {"rope_type": "default"}}, "one set of parameters"),
        ("linear", "'rope_scaling' is 'linear'"),
    ],
)
def test_what_cannot_be_honoured_is_refused(scaling: Any, message: str) -> None:
    with pytest.raises(ModelUnsupported, match=message):
        rope({"max_position_embeddings": 2048, "rope_scaling": scaling}, head_dim=32)


@pytest.mark.parametrize("rotary_dim", [0, 1, 7, 34])
def test_impossible_rotary_dimension(rotary_dim: int) -> None:
    with pytest.raises(ModelUnsupported, match=f"rotary dimension {rotary_dim}"):
        rope({"max_position_embeddings": 64}, head_dim=32, rotary_dim=rotary_dim)


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 10**400),
    st.floats(),
    st.sampled_from([1e-300, 1e300, 1.0, 2.0]),
    st.text(max_size=3),
    st.lists(st.floats(), max_size=4),
)
KEYS = sorted(
    {"rope_theta", "partial_rotary_factor", "original_max_position_embeddings"}.union(
        *(k for _, k in VARIANTS.values())
    )
)


@given(
    kind=st.sampled_from(sorted(VARIANTS)),
    parameters=st.dictionaries(st.sampled_from(KEYS), VALUES),
    length=st.integers(1, 10**6),
)
@settings(derandomize=True, deadline=None, database=None, max_examples=300)
def test_any_parameters_give_finite_frequencies_or_a_typed_error(
    kind: str, parameters: dict[str, Any], length: int
) -> None:
    keys = VARIANTS[kind][1] | {"rope_theta", "partial_rotary_factor", "original_max_position_embeddings"}
    scaling = {"rope_type": kind, "factor": 2.0} | {k: v for k, v in parameters.items() if k in keys}
    try:
        resolved = rope({"max_position_embeddings": length, "rope_scaling": scaling}, head_dim=8)
    except ModelUnsupported:
        return
    assert np.isfinite(np.array(resolved.inv_freq, np.float32)).all()
    assert np.isfinite(resolved.attention_factor)
