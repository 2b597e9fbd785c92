"""Configs in the shapes in which well-known models are published: they resolve, with the published parameter counts."""

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import pytest

from engine.errors import ModelUnsupported
from engine.models.registry import family
from engine.models.spec import ModelSpec, parameters

PUBLISHED = Path(__file__).parent / "published"

# parameters (a head that is the embedding counts once), and the context length of the model itself
MODELS = {
    "Llama-3.1-8B": (8_030_261_248, 131072),
    "Llama-3.2-1B": (1_235_814_400, 131072),
    "SmolLM2-135M": (134_515_008, 8192),
    "Mistral-7B-v0.1": (7_241_732_096, 32768),
    "Mistral-7B-v0.3": (7_248_023_552, 32768),
    "Qwen2.5-0.5B": (494_032_768, 32768),
    "Qwen3-0.6B": (596_049_920, 40960),
    "gemma-2-2b": (2_614_341_888, 8192),
    "gemma-3-1b": (999_885_952, 32768),
    "Phi-3-mini-4k": (3_821_079_552, 4096),
    "Phi-3-mini-128k": (3_821_079_552, 131072),
    "gpt2": (124_439_808, 1024),
    "pythia-70m": (70_426_624, 2048),
    "granite-3.1-2b": (2_533_531_648, 131072),
    "OLMo-2-1B": (1_484_916_736, 4096),
    "SmolLM3-3B": (3_075_098_624, 65536),
}


def config_of(name: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((PUBLISHED / f"{name}.json").read_text())
    return config


def spec_of(config: Mapping[str, Any], max_context: int | None = None) -> ModelSpec:
    return family(config).spec(config, max_context)


def test_every_published_config_is_in_the_table() -> None:
    assert {path.stem for path in PUBLISHED.glob("*.json")} == MODELS.keys()


@pytest.mark.parametrize("name", MODELS)
def test_parameter_count_and_context(name: str) -> None:
    config = config_of(name)
    spec = spec_of(config)
    assert (sum(map(prod, parameters(spec).values())), spec.max_context) == MODELS[name]
    assert family(config).sources(spec).keys() == parameters(spec).keys()
    for layer in spec.layers:
        assert layer.rope is None or len(spec.ropes[layer.rope].inv_freq) <= spec.head_dim // 2


@pytest.mark.parametrize("name", MODELS)
def test_null_means_absent_for_what_the_config_may_leave_out(name: str) -> None:
    config = config_of(name)
    assert spec_of(config | {"rope_parameters": None, "quantization_config": None}) == spec_of(config)


@pytest.mark.parametrize("name", MODELS)
def test_a_shorter_context_is_served_and_a_longer_one_refused(name: str) -> None:
    config = config_of(name)
    assert spec_of(config, 100).max_context == 100
    with pytest.raises(ModelUnsupported, match=f"context of {MODELS[name][1] + 1} tokens"):
        spec_of(config, MODELS[name][1] + 1)


def test_facts_of_the_families() -> None:
    mistral = spec_of(config_of("Mistral-7B-v0.1"))
    assert {layer.window for layer in mistral.layers} == {4096}
    assert {layer.window for layer in spec_of(config_of("Mistral-7B-v0.3")).layers} == {None}
    assert {layer.window for layer in spec_of(config_of("Qwen2.5-0.5B")).layers} == {None}
    gemma2 = spec_of(config_of("gemma-2-2b"))
    assert [layer.window for layer in gemma2.layers[:4]] == [4096, None, 4096, None]
    gemma3 = spec_of(config_of("gemma-3-1b"))
    assert [(layer.window, layer.rope) for layer in gemma3.layers[4:7]] == [(512, 1), (None, 0), (512, 1)]
    assert gemma3.ropes[0].inv_freq[1] < gemma3.ropes[1].inv_freq[1]
    smollm3 = spec_of(config_of("SmolLM3-3B"))
    assert [layer.rope for layer in smollm3.layers[:4]] == [0, 0, 0, None]
    assert len(spec_of(config_of("pythia-70m")).ropes[0].inv_freq) == 8
    assert spec_of(config_of("gpt2")).ropes == ()
    assert spec_of(config_of("granite-3.1-2b")).logits_scale == 1 / 8


def test_phi3_takes_its_factors_from_the_served_length() -> None:
    config = config_of("Phi-3-mini-128k")
    short, long, full = spec_of(config, 4096), spec_of(config, 4097), spec_of(config)
    assert short.ropes != long.ropes == full.ropes
    assert short.ropes[0].attention_factor == full.ropes[0].attention_factor == pytest.approx(1.1902380714)


def test_a_config_may_leave_out_what_its_class_defaults_to() -> None:
    """The defaults are those of transformers, compared for every family by an empty config."""
    from oracle import CLASSES, transformers

    for architecture, class_name in {
        "MistralForCausalLM": "Mistral",
        "Qwen2ForCausalLM": "Qwen2",
        "Qwen3ForCausalLM": "Qwen3",
        "Gemma2ForCausalLM": "Gemma2",
        "Gemma3ForCausalLM": "Gemma3",
        "Phi3ForCausalLM": "Phi3",
        "GPT2LMHeadModel": "GPT2",
        "GPTNeoXForCausalLM": "GPTNeoX",
        "GraniteForCausalLM": "Granite",
        "Olmo2ForCausalLM": "Olmo2",
        "SmolLM3ForCausalLM": "SmolLM3",
    }.items():
        config_class, _ = CLASSES.get(class_name, (f"{class_name}Config", ""))
        written = getattr(transformers(), config_class)().to_dict() | {"architectures": [architecture]}
        assert spec_of({"architectures": [architecture]}) == spec_of(written), architecture
