"""A llama checkpoint of Hugging Face as GGUF files: `PYTHON -m bench.peers.gguf_files CHECKPOINT OUT`.

Runs where `gguf` and `llama-cpp-python` are installed. The weights are copied bit by bit as BF16; llama.cpp's own
quantizer makes the other files from that one. The files hold no tokenizer: the benchmark deals in token ids.
"""

import json
import mmap
import sys
from pathlib import Path
from typing import Any

import numpy as np

# llama.cpp's file types, by the name of the file made. Embedding and head are Q8_0 in the 4-bit file too: Q6_K, which
# llama.cpp would choose where the sizes allow it, is not as fast.
FILE_TYPES = {"F16": 1, "Q8_0": 7, "Q4_0": 2}
Q8_0 = 8  # a tensor type
NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def convert(checkpoint: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    base = out / "BF16.gguf"
    if not base.exists():
        write_bf16(checkpoint, base)
    for name, file_type in FILE_TYPES.items():
        if not (out / f"{name}.gguf").exists():
            quantize(base, out / f"{name}.gguf", file_type)


def write_bf16(checkpoint: Path, file: Path) -> None:
    """Matrices as they are stored, norms as float32, which is what llama.cpp expects of them."""
    import gguf

    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    partial = file.with_suffix(".partial")
    writer = gguf.GGUFWriter(partial, "llama")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_tokenizer_model("none")
    for name, bits in bfloat16_tensors(checkpoint / "model.safetensors").items():
        if bits.ndim == 1:
            writer.add_tensor(gguf_name(name), (bits.astype(np.uint32) << 16).view(np.float32))
            continue
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            bits = interleaved(bits, heads if "q_proj" in name else kv_heads)
        writer.add_tensor(gguf_name(name), bits.view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.rename(file)


def bfloat16_tensors(file: Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file as views of their bits, uint16. Raises ValueError for another dtype."""
    with file.open("rb") as opened:
        data = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    start = 8 + int.from_bytes(data[:8], "little")
    header: dict[str, Any] = json.loads(data[8:start])
    header.pop("__metadata__", None)
    found = {}
    for name, entry in header.items():
        if entry["dtype"] != "BF16":
            raise ValueError(f"{file}: {name} is {entry['dtype']}; only BF16 is converted")
        first, last = entry["data_offsets"]
        bits = np.frombuffer(data, np.uint16, (last - first) // 2, start + first)
        found[name] = bits.reshape(entry["shape"])
    return found


def gguf_name(name: str) -> str:
    whole = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    if name in whole:
        return whole[name]
    _, _, layer, *middle, kind = name.split(".")
    return f"blk.{layer}.{NAMES['.'.join(middle)]}.{kind}"


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """The rows of each head in the order of llama.cpp's rotation, which pairs neighbours and not the two halves."""
    rows, width = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, width)
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows, width)


def quantize(source: Path, file: Path, file_type: int) -> None:
    """Raises RuntimeError where llama.cpp cannot."""
    from llama_cpp import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = file_type
    if file_type == FILE_TYPES["Q4_0"]:
        params.token_embedding_type = params.output_tensor_type = Q8_0
    partial = file.with_suffix(".partial")
    if llama_cpp.llama_model_quantize(str(source).encode(), str(partial).encode(), params) != 0:
        raise RuntimeError(f"llama.cpp could not make {file} from {source}")
    partial.rename(file)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
