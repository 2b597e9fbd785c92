"""Which module describes which architecture. Adding a family is one module and one line here."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, cast

from engine.errors import ModelUnsupported
from engine.models.spec import Family

FAMILIES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Gemma2ForCausalLM": "gemma2",
    "Gemma3ForCausalLM": "gemma3",
    "Phi3ForCausalLM": "phi3",
    "GPT2LMHeadModel": "gpt2",
    "GPTNeoXForCausalLM": "gpt_neox",
    "GraniteForCausalLM": "granite",
    "Olmo2ForCausalLM": "olmo2",
    "SmolLM3ForCausalLM": "smollm3",
    "BertModel": "bert",
    "RobertaModel": "bert",
    "XLMRobertaModel": "bert",
}


def family(config: Mapping[str, Any]) -> Family:
    """The family of the model that `config` (a `config.json`) describes. Raises ModelUnsupported."""
    architectures = config.get("architectures")
    if not architectures or not isinstance(architectures, list):
        raise ModelUnsupported("config.json names no architecture (a list under 'architectures')")
    names = [str(name) for name in architectures]
    for name in names:
        if name in FAMILIES:
            return cast(Family, import_module(f"engine.models.{FAMILIES[name]}"))
    raise ModelUnsupported(f"cannot run the architecture {', '.join(names)}; supported are {', '.join(FAMILIES)}")
