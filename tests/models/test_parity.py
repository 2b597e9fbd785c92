"""Every family against transformers: a tiny random checkpoint gives the same logits, within 1e-4 in float32."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracle import distance, our_logits, our_spec, prompt, resolve_rope, their_logits, tiny
from safetensors.numpy import load_file, save_file

from engine.errors import WeightsError
from engine.models.registry import FAMILIES, family
from engine.models.spec import parameters

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LONG = {
    "rope_type": "longrope",
    "short_factor": [1.0, 1.1, 1.2, 1.4],
    "long_factor": [1.0, 1.7, 2.9, 4.0],
    "original_max_position_embeddings": 16,
}
PHI_LONG = {"rope_scaling": LONG, "original_max_position_embeddings": 16}
PARTIAL_LONG = {
    **PHI_LONG,
    "partial_rotary_factor": 0.5,
    "rope_scaling": LONG | {"short_factor": [1.0, 1.4], "long_factor": [1.0, 4.0]},
}
GPT2 = {"vocab_size": 67, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4}
GRANITE = {
    "embedding_multiplier": 3.0,
    "attention_multiplier": 0.2,
    "residual_multiplier": 0.4,
    "logits_scaling": 0.7,
}
FULL, LOCAL = "full_attention", "sliding_attention"

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama tied": ("Llama", {"tie_word_embeddings": True}),
    "llama multi-query": ("Llama", {"num_key_value_heads": 1}),
    "llama multi-head": ("Llama", {"num_key_value_heads": 4}),
    "llama head_dim": ("Llama", {"head_dim": 12}),
    "llama biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama gelu": ("Llama", {"hidden_act": "gelu"}),
    "llama theta": ("Llama", {"rope_theta": 123.0}),
    "llama linear": ("Llama", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
    "llama llama3": ("Llama", {"rope_scaling": LLAMA3}),
    "llama yarn": ("Llama", {"rope_scaling": YARN}),
    "mistral": ("Mistral", {"sliding_window": None}),
    "mistral window": ("Mistral", {"sliding_window": 7}),
    "mistral head_dim": ("Mistral", {"sliding_window": 9, "head_dim": 10, "num_key_value_heads": 1}),
    "qwen2": ("Qwen2", {}),
    "qwen2 tied": ("Qwen2", {"tie_word_embeddings": True, "num_key_value_heads": 4}),
    "qwen2 window": ("Qwen2", {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}),
    "qwen2 window unused": ("Qwen2", {"use_sliding_window": False, "sliding_window": 6, "max_window_layers": 0}),
    "qwen2 yarn": ("Qwen2", {"rope_scaling": YARN, "rope_theta": 1000.0}),
    "qwen3": ("Qwen3", {"head_dim": 16}),
    "qwen3 biases": ("Qwen3", {"head_dim": 8, "attention_bias": True, "tie_word_embeddings": True}),
    "qwen3 window": (
        "Qwen3",
        {"head_dim": 8, "use_sliding_window": True, "sliding_window": 5, "layer_types": [LOCAL, FULL]},
    ),
    "gemma2": ("Gemma2", {"head_dim": 16, "sliding_window": 7, "query_pre_attn_scalar": 24}),
    "gemma2 tied": ("Gemma2", {"head_dim": 8, "sliding_window": 7, "tie_word_embeddings": True}),
    "gemma2 tight caps": (
        "Gemma2",
        {"head_dim": 8, "sliding_window": 64, "attn_logit_softcapping": 0.8, "final_logit_softcapping": 3.0},
    ),
    "gemma2 no caps": (
        "Gemma2",
        {"head_dim": 8, "sliding_window": 7, "attn_logit_softcapping": None, "final_logit_softcapping": None},
    ),
    "gemma2 biases, layer types": (
        "Gemma2",
        {"head_dim": 8, "sliding_window": 5, "attention_bias": True, "layer_types": [FULL, LOCAL]},
    ),
    "gemma3": ("Gemma3", {"head_dim": 16, "sliding_window": 7, "num_hidden_layers": 7}),
    "gemma3 thetas": (
        "Gemma3",
        {
            "head_dim": 8,
            "sliding_window": 64,
            "layer_types": [LOCAL, FULL],
            "rope_parameters": {
                LOCAL: {"rope_type": "default", "rope_theta": 10.0},
                FULL: {"rope_type": "default", "rope_theta": 5000.0},
            },
        },
    ),
    "gemma3 linear": (
        "Gemma3",
        {
            "head_dim": 8,
            "sliding_window": 5,
            "layer_types": [FULL, LOCAL],
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            "tie_word_embeddings": True,
            "final_logit_softcapping": 5.0,
        },
    ),
    "phi3": ("Phi3", {"num_key_value_heads": 4}),
    "phi3 grouped, window": ("Phi3", {"sliding_window": 7, "tie_word_embeddings": True}),
    "phi3 partial": ("Phi3", {"partial_rotary_factor": 0.5}),
    "gpt2": ("GPT2", GPT2),
    "gpt2 untied, inner": ("GPT2", GPT2 | {"tie_word_embeddings": False, "n_inner": 40, "activation_function": "gelu"}),
    "gpt2 unscaled": ("GPT2", GPT2 | {"scale_attn_weights": False, "n_head": 8}),
    "gpt_neox": ("GPTNeoX", {}),
    "gpt_neox serial": ("GPTNeoX", {"use_parallel_residual": False, "rotary_pct": 0.5, "rotary_emb_base": 100}),
    "gpt_neox no bias": ("GPTNeoX", {"attention_bias": False, "rotary_pct": 1.0, "tie_word_embeddings": True}),
    "granite": ("Granite", GRANITE),
    "granite biases": ("Granite", GRANITE | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    "olmo2": ("Olmo2", {}),
    "olmo2 biases": ("Olmo2", {"attention_bias": True, "num_key_value_heads": 4, "tie_word_embeddings": True}),
    "smollm3": ("SmolLM3", {"num_hidden_layers": 4, "tie_word_embeddings": True}),
    "smollm3 nope layers": ("SmolLM3", {"no_rope_layers": [0, 1], "attention_bias": True, "mlp_bias": True}),
    "smollm3 window": (
        "SmolLM3",
        {"num_hidden_layers": 4, "no_rope_layer_interval": 2, "use_sliding_window": True, "sliding_window": 6},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_transformers(case: str, tmp_path: Path) -> None:
    name, options = CASES[case]
    model = tiny(name, **options)
    model.save_pretrained(tmp_path)
    tokens = prompt(40)
    theirs = their_logits(model, tokens)
    whole = our_logits(tmp_path, tokens)
    assert distance(whole, theirs) < 1e-4
    assert np.array_equal(our_logits(tmp_path, tokens, chunk=7), whole)

    counted = sum(int(np.prod(shape)) for shape in parameters(our_spec(tmp_path)).values())
    assert counted == model.num_parameters()


@pytest.mark.parametrize("length", [15, 16, 17, 40])
@pytest.mark.parametrize("served", [16, 17, 64])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("Phi3", PHI_LONG),
        ("Phi3", PARTIAL_LONG),
        ("Llama", {"rope_scaling": LONG | {"attention_factor": 1.3}}),
        ("Llama", {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}, "max_position_embeddings": 16}),
    ],
    ids=["phi3", "phi3 partial", "llama longrope", "llama dynamic"],
)
def test_frequencies_of_the_served_length(
    name: str, options: dict[str, Any], served: int, length: int, tmp_path: Path
) -> None:
    if length > served:
        length = served
    model = tiny(name, **options)
    model.save_pretrained(tmp_path)
    resolve_rope(model, served)
    tokens = prompt(length)
    assert distance(our_logits(tmp_path, tokens, max_context=served), their_logits(model, tokens)) < 1e-4


WINDOWED = {
    "mistral": ("Mistral", {"sliding_window": 9}),
    "gemma2": ("Gemma2", {"head_dim": 8, "sliding_window": 9}),
    "gemma3": ("Gemma3", {"head_dim": 8, "sliding_window": 9, "layer_types": [LOCAL, FULL]}),
}


@pytest.mark.parametrize("case", WINDOWED)
def test_lengths_and_chunks_around_the_window(case: str, tmp_path: Path) -> None:
    name, options = WINDOWED[case]
    model = tiny(name, **options)
    model.save_pretrained(tmp_path)
    for length in range(7, 12):
        tokens = prompt(length)
        theirs = their_logits(model, tokens)
        for chunk in (1, 2, 8, 9, 10, length):
            assert distance(our_logits(tmp_path, tokens, chunk=chunk), theirs) < 1e-4, (length, chunk)


@pytest.mark.parametrize("case", WINDOWED)
@pytest.mark.parametrize("error", [-1, 1])
def test_a_window_wrong_by_one_is_seen(case: str, error: int, tmp_path: Path) -> None:
    name, options = WINDOWED[case]
    model = tiny(name, **options)
    model.save_pretrained(tmp_path)
    layers = our_spec(tmp_path).layers
    wrong = tuple(replace(layer, window=layer.window and layer.window + error) for layer in layers)
    tokens = prompt(12)
    theirs = their_logits(model, tokens)
    assert distance(our_logits(tmp_path, tokens), theirs) < 1e-4
    assert distance(our_logits(tmp_path, tokens, layers=wrong), theirs) > 1e-2


# A spec with one fact wrong must be seen: otherwise the parity above proves nothing about that fact.
FALSIFIED: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"norm_eps": 1e-2}),
    ("llama", {"activation": "gelu"}),
    ("gpt_neox", {"activation": "gelu_tanh"}),
    ("gpt2", {"activation": "gelu"}),
    ("gpt_neox", {"parallel_residual": False}),
    ("gemma2 tight caps", {"attention_softcap": None}),
    ("gemma2 tight caps", {"logits_softcap": None}),
    ("gemma2", {"norm_unit_offset": False}),
    ("gemma2", {"embedding_scale": 1.0}),
    ("gemma2", {"attention_scale": 16**-0.5}),
    ("granite", {"residual_scale": 1.0}),
    ("granite", {"embedding_scale": 1.0}),
    ("granite", {"logits_scale": 1.0}),
    ("granite", {"attention_scale": 8**-0.5}),
]


@pytest.mark.parametrize(("case", "wrong"), FALSIFIED, ids=[f"{case}-{next(iter(wrong))}" for case, wrong in FALSIFIED])
def test_a_wrong_fact_is_seen(case: str, wrong: dict[str, Any], tmp_path: Path) -> None:
    name, options = CASES[case]
    model = tiny(name, **options)
    model.save_pretrained(tmp_path)
    tokens = prompt(40)
    assert distance(our_logits(tmp_path, tokens, **wrong), their_logits(model, tokens)) > 2e-4


@pytest.mark.parametrize("case", ["smollm3", "gemma3 thetas", "llama"])
def test_a_wrong_choice_of_rotary_embedding_is_seen(case: str, tmp_path: Path) -> None:
    name, options = CASES[case]
    model = tiny(name, **options)
    model.save_pretrained(tmp_path)
    tokens = prompt(40)
    theirs = their_logits(model, tokens)
    layers = our_spec(tmp_path).layers
    for i, layer in enumerate(layers):
        wrong = (*layers[:i], replace(layer, rope=0 if layer.rope is None else None), *layers[i + 1 :])
        assert distance(our_logits(tmp_path, tokens, layers=wrong), theirs) > 1e-2


def test_swapped_rotary_embeddings_are_seen(tmp_path: Path) -> None:
    name, options = CASES["gemma3 thetas"]
    model = tiny(name, **options)
    model.save_pretrained(tmp_path)
    tokens, spec = prompt(40), our_spec(tmp_path)
    assert distance(our_logits(tmp_path, tokens, ropes=spec.ropes[::-1]), their_logits(model, tokens)) > 1e-2


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("case", ["llama", "phi3 grouped, window", "gpt2", "gpt_neox"])
def test_stored_in_half_precision_and_sharded(case: str, dtype: str, tmp_path: Path) -> None:
    """Weights stored in 16 bits and computed with in float32, on both sides."""
    import torch

    name, options = CASES[case]
    model = tiny(name, **options).to(getattr(torch, dtype))
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    tokens = prompt(40)
    widened = type(model).from_pretrained(tmp_path, dtype=torch.float32, attn_implementation="eager").eval()
    assert distance(our_logits(tmp_path, tokens), their_logits(widened, tokens)) < 1e-4


BUFFERS = {
    "gpt2": ("h.0.attn.bias", "h.1.attn.masked_bias"),
    "gpt_neox": ("attention.bias", "attention.masked_bias", "attention.rotary_emb.inv_freq"),
    "mistral": ("self_attn.rotary_emb.inv_freq",),
}
LAYER = {"gpt2": "", "gpt_neox": "gpt_neox.layers.1.", "mistral": "model.layers.1."}


@pytest.mark.parametrize("case", BUFFERS)
def test_stored_buffers_are_passed_over_and_other_tensors_are_not(case: str, tmp_path: Path) -> None:
    """As older versions of transformers wrote them; GPT-2's own checkpoint also lacks the prefix `transformer.`."""
    name, options = CASES[case]
    model = tiny(name, **options)
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in load_file(file).items()}
    buffer = np.ones((1, 1, 4, 4), np.float32)
    tensors |= {LAYER[case] + name: buffer for name in BUFFERS[case]}
    save_file(tensors, file, {"format": "pt"})
    tokens = prompt(20)
    assert distance(our_logits(tmp_path, tokens), their_logits(model, tokens)) < 1e-4
    save_file(tensors | {LAYER[case] + "extra.bias": buffer}, file, {"format": "pt"})
    with pytest.raises(WeightsError, match=r"extra\.bias"):
        our_logits(tmp_path, tokens)


def test_every_registered_family_has_a_parity_case() -> None:
    proved = {case.split()[0] for case in CASES}
    assert proved | {"bert"} == set(FAMILIES.values())  # an encoder, which has no logits: see test_bert
    for architecture, module in FAMILIES.items():
        assert architecture in family({"architectures": [architecture]}).ARCHITECTURES, module
