"""`tgi inspect`: what it tells of models that run, and of those that do not."""

import json
import shutil
from pathlib import Path

import pytest
from cli_runner import Run, assert_refused
from embed_plans import make_encoder

from engine.hub import builtin_model_path
from tgi_cli.inspect import examine


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the built-in model, to be spoilt."""
    return Path(shutil.copytree(builtin_model_path(), tmp_path / "model"))


def change_config(model: Path, **changes: object) -> None:
    file = model / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_the_builtin_model(tgi: Run) -> None:
    result = tgi("inspect", "--json")
    assert result.code == 0
    facts = json.loads(result.out)
    assert facts["model"] == "built-in"
    assert facts["architecture"] == "LlamaForCausalLM"
    assert facts["context"] == 1024
    assert (facts["layers"], facts["heads"], facts["kv_heads"], facts["head_dim"]) == (6, 4, 2, 64)
    assert (facts["dtype"], facts["quantization"], facts["tied"]) == ("bfloat16", None, True)
    assert facts["weight_bytes"] == 2 * facts["parameters"]
    assert facts["kv_bytes_per_token"] == 2 * 6 * 2 * 64 * 4
    assert facts["memory_bytes"] == 4 * facts["parameters"] + 1024 * facts["kv_bytes_per_token"]
    assert facts["tokenizer"] == facts["vocabulary"] == 8192
    assert facts["chat_template"] is True
    assert (facts["runnable"], facts["problem"]) == (True, None)


def test_the_table_for_people(tgi: Run) -> None:
    lines = dict(line.split("  ", 1) for line in tgi("inspect").out.splitlines())
    assert lines["architecture"].strip() == "LlamaForCausalLM"
    assert lines["parameters"].strip() == "6.8 million"
    assert lines["runs here"].strip() == "yes"


def test_an_encoder(tmp_path: Path, tgi: Run) -> None:
    encoder = make_encoder(tmp_path, "cls", tokenizer=True)
    facts = json.loads(tgi("inspect", str(encoder), "--json").out)
    assert (facts["pooling"], facts["kv_bytes_per_token"], facts["runnable"]) == ("cls", 0, True)
    assert facts["memory_bytes"] == 4 * facts["parameters"]
    lines = dict(line.split("  ", 1) for line in tgi("inspect", str(encoder)).out.splitlines())
    assert lines["head"].strip() == "none: it makes vectors, pooling by cls"
    assert lines["KV cache"].strip() == "none"
    (encoder / "1_Pooling/config.json").write_text('{"pooling_mode": "attention"}')
    assert "pools by attention" in examine("m", encoder).problem


def test_an_unknown_architecture_is_described_and_refused(model: Path, tgi: Run) -> None:
    change_config(model, architectures=["ParrotForCausalLM"], model_type="parrot")
    report = examine("m", model)
    assert report.architecture == "ParrotForCausalLM"
    assert (report.sizes.layers, report.sizes.context) == (6, 1024)
    assert report.parameters is not None
    assert "ParrotForCausalLM" in (report.problem or "")
    result = tgi("inspect", str(model))
    assert result.code == 0
    assert "no: " in result.out
    assert_refused(tgi("generate", "x", "--model", str(model)), "ParrotForCausalLM")
    assert_refused(tgi("serve", str(model), "--inline", "--port", "0"), "ParrotForCausalLM")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"quant_method": "gptq", "bits": 4}, "gptq, 4 bits"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bitsandbytes, 8 bits"),
        ({"quant_method": "fp8"}, "fp8"),
    ],
)
def test_a_quantized_model(model: Path, config: dict[str, object], words: str) -> None:
    change_config(model, quantization_config=config)
    report = examine("m", model)
    assert report.quantization == words
    assert "quantized" in (report.problem or "")


def test_without_weights(model: Path) -> None:
    (model / "model.safetensors").unlink()
    report = examine("m", model)
    assert (report.weight_bytes, report.dtype) == (None, None)
    assert report.sizes.layers == 6
    assert "model.safetensors" in (report.problem or "")


def test_with_truncated_weights(model: Path, tgi: Run) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1_000_000])
    assert "truncated" in (examine("m", model).problem or "")
    assert_refused(tgi("generate", "x", "--model", str(model)), "truncated", str(weights))


def test_without_a_tokenizer(model: Path, tgi: Run) -> None:
    (model / "tokenizer.json").unlink()
    report = examine("m", model)
    assert (report.tokenizer, report.chat_template) == (None, False)
    assert "tokenizer" in (report.problem or "")
    assert_refused(tgi("generate", "x", "--model", str(model)), "tokenizer.json")
    assert_refused(tgi("serve", str(model), "--port", "0"), "tokenizer.json")


def test_without_a_chat_template(model: Path, tgi: Run) -> None:
    file = model / "tokenizer_config.json"
    config = json.loads(file.read_text())
    del config["chat_template"]
    file.write_text(json.dumps(config))
    assert examine("m", model).chat_template is False
    assert tgi("generate", "x", "--model", str(model), "--max-new-tokens", "1").code == 0
    assert_refused(tgi("generate", "x", "--model", str(model), "--chat"), "template")


@pytest.mark.parametrize("text", ["{", "[]", "\xff", ""])
def test_a_corrupt_config(model: Path, tgi: Run, text: str) -> None:
    (model / "config.json").write_bytes(text.encode("latin-1"))
    for command in (["inspect", str(model)], ["generate", "x", "-m", str(model)]):
        assert_refused(tgi(*command), "config.json")


def test_a_directory_without_a_model(tmp_path: Path, tgi: Run) -> None:
    assert_refused(tgi("inspect", str(tmp_path)), "config.json")


def test_perplexity_at_a_precision(tgi: Run, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("The river is long and wide, and the old bridge over it is closed.")
    exact, rounded = (
        json.loads(tgi("inspect", "--json", "--perplexity", str(tmp_path / "text.txt"), *precision).out)["perplexity"]
        for precision in (("--dtype", "float32"), ("--dtype", "float16"))
    )
    assert exact["value"] == pytest.approx(rounded["value"], rel=0.01)
    assert exact["value"] != rounded["value"]
    assert (exact["windows"], "float32" in exact["precision"], "float16" in rounded["precision"]) == (1, True, True)
    assert "perplexity " in tgi("inspect", "--perplexity", str(tmp_path / "text.txt")).out
    assert_refused(tgi("inspect", "--dtype", "bfloat16"), "--dtype says how --perplexity FILE runs the model", code=2)
