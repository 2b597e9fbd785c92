"""An option that a family cannot honour is an error that names the key, the value and what would do."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_published import MODELS, config_of, spec_of

from engine.errors import ModelUnsupported

REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("gemma-3-1b", {"rope_scaling": 1}, "'rope_scaling' is 1; expected a table of parameters"),
    ("gemma-3-1b", {"rope_parameters": {"full_attention": 1}}, "'rope_parameters.full_attention' is 1"),
    ("Llama-3.2-1B", {"hidden_act": "relu6"}, "'hidden_act' is 'relu6'; expected one of silu, swish, gelu"),
    ("Llama-3.2-1B", {"hidden_size": None}, "'hidden_size' is None; expected a whole number of at least 1"),
    ("Llama-3.2-1B", {"num_key_value_heads": 5}, "'num_key_value_heads' is 5; expected a divisor.* 32"),
    ("Llama-3.2-1B", {"rms_norm_eps": -1e-5}, "'rms_norm_eps' is -1e-05; expected a positive number"),
    ("Llama-3.2-1B", {"tie_word_embeddings": "yes"}, "'tie_word_embeddings' is 'yes'; expected true or false"),
    ("Llama-3.2-1B", {"rope_scaling": {"rope_type": "proportional"}}, "'rope_scaling.rope_type' is 'proportional'"),
    ("Llama-3.1-8B", {"num_attention_heads": 24}, "'hidden_size' is 4096; expected a multiple.* 24"),
    ("Mistral-7B-v0.1", {"layer_types": ["full_attention"] * 32}, "'layer_types' is "),
    ("Mistral-7B-v0.1", {"num_local_experts": 8}, "'num_local_experts' is 8; expected a dense model"),
    ("Mistral-7B-v0.1", {"sliding_window": 0}, "'sliding_window' is 0"),
    ("Qwen2.5-0.5B", {"layer_types": ["full_attention"]}, "'layer_types' is .*each of the 24 layers"),
    ("Qwen2.5-0.5B", {"layer_types": ["chunked_attention"] * 24}, "'layer_types' is 'chunked_attention'"),
    ("Qwen2.5-0.5B", {"layer_types": ["sliding_attention"] * 24}, "'sliding_window' is None"),
    ("Qwen3-0.6B", {"num_experts": 128}, "'num_experts' is 128"),
    ("gemma-2-2b", {"hidden_activation": None}, "'hidden_activation' is None"),
    ("gemma-2-2b", {"use_bidirectional_attention": True}, "'use_bidirectional_attention' is True"),
    ("gemma-2-2b", {"attn_logit_softcapping": 0}, "'attn_logit_softcapping' is 0"),
    ("gemma-3-1b", {"attn_logit_softcapping": 50.0}, "'attn_logit_softcapping' is 50.0"),
    ("gemma-3-1b", {"rope_parameters": {"rope_type": "default"}}, "'rope_parameters' is "),
    ("gemma-3-1b", {"rope_scaling": {"rope_type": "fancy"}}, "'rope_scaling.rope_type' is 'fancy'"),
    (
        "Phi-3-mini-4k",
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
        "'linear'; expected one of default, longrope",
    ),
    ("Phi-3-mini-4k", {"attention_bias": True}, "'attention_bias' is True; expected False"),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "'scale_attn_by_inverse_layer_idx' is True; expected False"),
    ("gpt2", {"add_cross_attention": True}, "'add_cross_attention' is True"),
    ("gpt2", {"activation_function": "relu"}, "'activation_function' is 'relu'"),
    ("gpt2", {"n_head": 7}, "7"),
    ("Llama-3.2-1B", {"num_hidden_layers": 10**9}, "'num_hidden_layers' is 1000000000; expected at most 10000"),
    ("Qwen2.5-0.5B", {"use_mrope": True}, "'use_mrope' is True"),
    ("Mistral-7B-v0.1", {"layer_types": ["sliding_attention"]}, "each of the 32 layers"),
    ("pythia-70m", {"rotary_pct": 2.0}, "'partial_rotary_factor' is 2.0"),
    ("pythia-70m", {"rotary_pct": 0.01}, "rotary dimension 0"),
    ("granite-3.1-2b", {"logits_scaling": 0}, "'logits_scaling' is 0"),
    ("SmolLM3-3B", {"no_rope_layers": [1, 0]}, "'no_rope_layers' is .*at least 36"),
    ("SmolLM3-3B", {"use_sliding_window": True, "layer_types": ["sliding_attention"] * 36}, "'sliding_window' is None"),
]


@pytest.mark.parametrize(("name", "change", "message"), REFUSED)
def test_what_cannot_be_honoured_is_refused(name: str, change: dict[str, Any], message: str) -> None:
    spec_of(config_of(name))
    with pytest.raises(ModelUnsupported, match=message):
        spec_of(config_of(name) | change)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2**70) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)


@given(name=st.sampled_from(sorted(MODELS)), value=JSON, data=st.data())
@settings(derandomize=True, deadline=None, database=None, max_examples=400)
def test_any_value_of_any_key_gives_a_spec_or_a_typed_error(name: str, value: Any, data: st.DataObject) -> None:
    config = config_of(name)
    key = data.draw(st.sampled_from(sorted(config.keys() - {"architectures"})))
    try:
        spec_of(config | {key: value})
    except ModelUnsupported:
        return
