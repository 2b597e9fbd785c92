"""A Llama decoder in plain PyTorch, and its checkpoint in Hugging Face's form."""

import json
import shutil
from pathlib import Path
from typing import Any, cast

import torch
from chat_format import END_OF_TEXT, IM_END, PAD
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

Config = dict[str, Any]  # the keys of config.json
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def llama_config(
    *, vocab: int, hidden: int, layers: int, heads: int, kv_heads: int, feed_forward: int, context: int
) -> Config:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": feed_forward,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": hidden // heads,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "max_position_embeddings": context,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": END_OF_TEXT,
        "eos_token_id": IM_END,
        "pad_token_id": PAD,
        "initializer_range": 0.02,
        "use_cache": True,
        "torch_dtype": "bfloat16",
    }


def linear(inner: int, out: int) -> nn.Linear:
    return nn.Linear(inner, out, bias=False)


class Block(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads, self.kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        self.dim = config["head_dim"]
        hidden, inner, eps = config["hidden_size"], config["intermediate_size"], config["rms_norm_eps"]
        self.input_layernorm = nn.RMSNorm(hidden, eps)
        self.post_attention_layernorm = nn.RMSNorm(hidden, eps)
        self.self_attn = nn.ModuleDict(
            {
                "q_proj": linear(hidden, self.heads * self.dim),
                "k_proj": linear(hidden, self.kv_heads * self.dim),
                "v_proj": linear(hidden, self.kv_heads * self.dim),
                "o_proj": linear(self.heads * self.dim, hidden),
            }
        )
        self.mlp = nn.ModuleDict(
            {"gate_proj": linear(hidden, inner), "up_proj": linear(hidden, inner), "down_proj": linear(inner, hidden)}
        )

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """`x` is `[B, T, H]`; `cos` and `sin` are `[T, head_dim / 2]`."""
        x = x + self.attend(self.input_layernorm(x), cos, sin)
        return x + self.transform(self.post_attention_layernorm(x))

    def attend(self, h: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, _ = h.shape
        attention = self.self_attn
        q = attention["q_proj"](h).view(batch, length, self.heads, self.dim).transpose(1, 2)
        k = attention["k_proj"](h).view(batch, length, self.kv_heads, self.dim).transpose(1, 2)
        v = attention["v_proj"](h).view(batch, length, self.kv_heads, self.dim).transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if self.kv_heads != self.heads:
            k, v = (z.repeat_interleave(self.heads // self.kv_heads, 1) for z in (k, v))
        o = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return cast(Tensor, attention["o_proj"](o.transpose(1, 2).reshape(batch, length, -1)))

    def transform(self, h: Tensor) -> Tensor:
        mlp = self.mlp
        return cast(Tensor, mlp["down_proj"](functional.silu(mlp["gate_proj"](h)) * mlp["up_proj"](h)))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding with features j and j + head_dim / 2 as a pair."""
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1).to(x.dtype)


class Llama(nn.Module):
    """Parameter names are those of Hugging Face's LlamaForCausalLM without "model."."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config["vocab_size"], config["hidden_size"])
        self.layers = nn.ModuleList(Block(config) for _ in range(config["num_hidden_layers"]))
        self.norm = nn.RMSNorm(config["hidden_size"], config["rms_norm_eps"])
        dim = config["head_dim"]
        freq = config["rope_theta"] ** (-torch.arange(0, dim, 2).float() / dim)
        angle = torch.outer(torch.arange(config["max_position_embeddings"]).float(), freq)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)
        self.initialise()

    def initialise(self) -> None:
        """Each layer starts as the identity: what it adds to the residual is zero."""
        nn.init.normal_(self.embed_tokens.weight, std=0.02)
        for name, p in self.layers.named_parameters():
            if p.ndim == 2 and ("o_proj" in name or "down_proj" in name):
                nn.init.zeros_(p)
            elif p.ndim == 2:
                nn.init.normal_(p, std=p.shape[1] ** -0.5 * 0.7)

    def hidden(self, ids: Tensor) -> Tensor:
        """Final hidden states `[B, T, H]`; the logits are these times the embedding matrix."""
        length = ids.shape[1]
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x, self.cos[:length], self.sin[:length])
        return cast(Tensor, self.norm(x))

    def logits(self, ids: Tensor) -> Tensor:
        """`[B, T, V]` for `ids` `[B, T]`."""
        return functional.linear(self.hidden(ids), self.embed_tokens.weight)


def save(model: Llama, tokens: Path, out: Path) -> None:
    """Write a checkpoint in bfloat16, with the tokenizer that lies in `tokens`."""
    out.mkdir(parents=True, exist_ok=True)
    generation = {
        "bos_token_id": END_OF_TEXT,
        "eos_token_id": [IM_END, END_OF_TEXT],
        "pad_token_id": PAD,
        "max_new_tokens": 128,
        "do_sample": False,
        "repetition_penalty": 1.0,
    }
    (out / "config.json").write_text(json.dumps(model.config, indent=2))
    (out / "generation_config.json").write_text(json.dumps(generation, indent=2))
    weights = {f"model.{k}": v.detach().to("cpu", torch.bfloat16).contiguous() for k, v in model.state_dict().items()}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    for name in TOKENIZER_FILES:
        shutil.copy(tokens / name, out / name)


def load(path: Path, device: str = "cpu") -> Llama:
    """Read a checkpoint back, in float32."""
    model = Llama(json.loads((path / "config.json").read_text()))
    weights = load_file(path / "model.safetensors")
    model.load_state_dict({k.removeprefix("model."): v.float() for k, v in weights.items() if k != "lm_head.weight"})
    return model.to(device).eval()
