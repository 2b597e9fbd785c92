"""Reading safetensors: what the reference library writes is read back, and what is broken is a WeightsError."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save, save_file
from tiny_models import write_tensors

from engine.errors import ModelNotFound, ModelUnsupported, WeightsError
from engine.weights.files import DTYPES, read_checkpoint, read_safetensors

TENSORS = {
    "a.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "b": np.array([1.5, -2.0], ml_dtypes.bfloat16),
    "empty": np.zeros((0, 5), np.float16),
    "scalar": np.array(7, np.int64),
}
WHOLE = save(TENSORS, {"format": "pt"})
HEADER_BYTES = int.from_bytes(WHOLE[:8], "little")


def assemble(header: object, data: bytes = b"") -> bytes:
    """A file of any header; it is written as it is where it is bytes."""
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(encoded).to_bytes(8, "little") + encoded + data


def entry(dtype: Any = "F32", shape: Any = (1,), data_offsets: Any = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": data_offsets}


@pytest.fixture
def broken(tmp_path: Path) -> Callable[[bytes], str]:
    """Writes bytes, reads them as a checkpoint and returns the message of the error."""

    def message(content: bytes) -> str:
        (tmp_path / "model.safetensors").write_bytes(content)
        with pytest.raises(WeightsError) as caught:
            read_checkpoint(tmp_path)
        assert "model.safetensors" in str(caught.value)
        return str(caught.value)

    return message


@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype_is_read_as_written(tmp_path: Path, name: str) -> None:
    written = (np.arange(24) % 2).astype(DTYPES[name]).reshape(2, 3, 4)
    save_file({"x": written, "y": written[0].copy()}, tmp_path / "model.safetensors")
    tensors = read_checkpoint(tmp_path)
    assert tensors.keys() == {"x", "y"}
    assert tensors["x"].dtype == DTYPES[name]
    assert tensors["x"].shape == (2, 3, 4)
    assert tensors["x"].tobytes() == written.tobytes()


def test_tensors_are_read_only_views_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(WHOLE)
    tensors = read_safetensors(file)
    assert {name: tensor.shape for name, tensor in tensors.items()} == {k: v.shape for k, v in TENSORS.items()}
    for tensor in tensors.values():
        assert not tensor.flags.writeable
        assert not tensor.flags.owndata


def test_a_header_that_ends_off_the_grid(tmp_path: Path) -> None:
    """Data need not be aligned."""
    header = json.dumps({"x": entry()}).encode()
    for padding in range(8):
        (tmp_path / "model.safetensors").write_bytes(assemble(header + b" " * padding, np.float32(5).tobytes()))
        assert read_checkpoint(tmp_path)["x"].tolist() == [5]


BROKEN = {
    "empty": (b"", "truncated"),
    "seven bytes": (b"\0" * 7, "truncated"),
    "no header": (b"\0" * 8, "not a JSON object"),
    "endless header": (b"\xff" * 8 + b"{}", "a header of"),
    "header longer than the file": ((100).to_bytes(8, "little") + b"{}", "a header of 100 bytes"),
    "no JSON": (assemble(b"{"), "not a JSON object"),
    "no UTF-8": (assemble(b'{"\xff": 1}'), "not a JSON object"),
    "a list": (assemble([]), "not a JSON object"),
    "deep nesting": (assemble(b'{"x":' + b"[" * 100_000), "not a JSON object"),
    "metadata that is no text": (assemble({"__metadata__": {"a": 1}}), "__metadata__"),
    "entry that is no object": (assemble({"x": 1}), "'x'"),
    "no dtype": (assemble({"x": {"shape": [1], "data_offsets": [0, 4]}}, b"\0" * 4), "'x'"),
    "unknown key": (assemble({"x": entry() | {"strides": [1]}}, b"\0" * 4), "'x'"),
    "unknown dtype": (assemble({"x": entry(dtype="F31")}, b"\0" * 4), "tensor 'x' has the unknown dtype 'F31'"),
    "negative shape": (assemble({"x": entry(shape=[-1, -1])}, b"\0" * 4), "impossible shape"),
    "shape of text": (assemble({"x": entry(shape=["1"])}, b"\0" * 4), "'x'"),
    "shape of fractions": (assemble({"x": entry(shape=[0.5])}, b"\0" * 4), "'x'"),
    "shape of truths": (assemble({"x": entry(shape=[True])}, b"\0" * 4), "'x'"),
    "huge shape": (assemble({"x": entry(shape=[2**62, 2**62])}, b"\0" * 4), "too few or too many"),
    "huge shape of nothing": (assemble({"x": entry(shape=[2**63, 0], data_offsets=(0, 0))}), "impossible shape"),
    "huge product of nothing": (
        assemble({"x": entry(shape=[2**62, 2**62, 0], data_offsets=(0, 0))}),
        "impossible shape",
    ),
    "digits without end": (assemble(b'{"x":{"dtype":"F32","shape":[' + b"9" * 5000 + b"]}}"), "'x'"),
    "too many dimensions": (assemble({"x": entry(shape=[1] * 100)}, b"\0" * 4), "impossible shape"),
    "wrong size": (assemble({"x": entry(shape=[2])}, b"\0" * 4), "'x' has 4 bytes"),
    "past the end": (assemble({"x": entry(shape=[2], data_offsets=(0, 8))}, b"\0" * 4), "'x' ends at byte 8 of 4"),
    "backwards": (assemble({"x": entry(data_offsets=(0, -4))}, b"\0" * 4), "'x' lies at bytes 0 to -4"),
    "before the data": (assemble({"x": entry(data_offsets=(-4, 0))}, b"\0" * 4), "'x' lies at bytes -4 to 0"),
    "three offsets": (assemble({"x": entry(data_offsets=(0, 4, 8))}, b"\0" * 8), "'x'"),
    "overlap": (assemble({"x": entry(), "y": entry(data_offsets=(2, 6))}, b"\0" * 6), "'y' lies at bytes 2 to 6"),
    "same bytes twice": (assemble({"x": entry(), "y": entry()}, b"\0" * 4), "'y' lies at bytes 0 to 4"),
    "gap": (assemble({"x": entry(), "y": entry(data_offsets=(8, 12))}, b"\0" * 12), "'y' lies at bytes 8 to 12"),
    "trailing bytes": (assemble({"x": entry()}, b"\0" * 6), "2 bytes at its end belong to no tensor"),
    "duplicate name": (
        assemble(b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
                 b'"x":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}', b"\0" * 8),
        "'x' lies at bytes 4 to 8",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files(broken: Callable[[bytes], str], name: str) -> None:
    content, said = BROKEN[name]
    assert said in broken(content)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(length=st.integers(0, len(WHOLE) - 1))
@example(length=7)
@example(length=8)
@example(length=8 + HEADER_BYTES)
def test_truncation_at_any_byte(broken: Callable[[bytes], str], length: int) -> None:
    broken(WHOLE[:length])


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_changed_header_bytes_are_an_error_or_another_valid_header(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, 8 + HEADER_BYTES - 1))] = data.draw(st.integers(0, 255))
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with contextlib.suppress(WeightsError):
        tensors = read_safetensors(file)
        assert sum(tensor.nbytes for tensor in tensors.values()) == len(WHOLE) - 8 - HEADER_BYTES


# Shards


def test_shards_are_one_checkpoint(tmp_path: Path) -> None:
    write_tensors(tmp_path, TENSORS, shards=3)
    tensors = read_checkpoint(tmp_path)
    assert {name: tensor.tobytes() for name, tensor in tensors.items()} == {
        name: tensor.tobytes() for name, tensor in TENSORS.items()
    }


def test_a_missing_shard(tmp_path: Path) -> None:
    write_tensors(tmp_path, TENSORS, shards=2)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"shard 'model-00002-of-00002.safetensors' .* is missing"):
        read_checkpoint(tmp_path)


def test_a_tensor_the_index_misplaces(tmp_path: Path) -> None:
    write_tensors(tmp_path, TENSORS, shards=2)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(index.read_text().replace('"scalar"', '"vector"'))
    with pytest.raises(WeightsError, match="lacks the tensor 'vector'"):
        read_checkpoint(tmp_path)


def test_a_tensor_in_two_shards(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "1.safetensors")
    save_file(TENSORS, tmp_path / "2.safetensors")
    weight_map = {"b": "1.safetensors", "scalar": "2.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(WeightsError, match=r"tensor 'a\.weight' is in another shard as well"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("index", ["", "[]", "{}", '{"weight_map": 1}', '{"weight_map": {"a": 1}}', "[" * 100_000])
def test_a_broken_index(tmp_path: Path, index: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(WeightsError, match=r"cannot read '.*index\.json'"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("shard", ["../model.safetensors", "/etc/passwd", "..", "", "a/b.safetensors", "a\0b"])
def test_an_index_that_leads_elsewhere(tmp_path: Path, shard: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(WeightsError, match="the shard"):
        read_checkpoint(tmp_path)


# Other formats


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth", "model.ckpt"])
def test_pickles_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04.")
    with pytest.raises(ModelUnsupported, match=r"only as pickle files.*convert them to safetensors"):
        read_checkpoint(tmp_path)


def test_no_weights(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"neither model\.safetensors nor"):
        read_checkpoint(tmp_path)
