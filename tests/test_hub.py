"""From a model's name to a directory: local paths, downloads, the cache, and everything a hub can do wrong."""

import errno
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_hub import COMMIT, FakeHub, sha256

from engine import hub as engine_hub
from engine.errors import ConfigError, ModelNotFound, ModelUnsupported, StartError, WeightsError
from engine.hub import builtin_model_path, resolve

TOKEN = "hf_canaryCanaryCanaryCanaryCanary"
FILES = {
    "config.json": b"{}",
    "tokenizer.json": b'{"model": {}}',
    "model.safetensors": bytes(range(256)) * 4000,
    "pytorch_model.bin": b"never",
    "README.md": b"never",
    "onnx/model.safetensors": b"never",
    "onnx/config.json": b"never",
    "1_Pooling/config.json": b'{"pooling_mode": "cls"}',
    "modeling.py": b"never",
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with FakeHub().running() as server:
        server.models["acme/tiny"] = dict(FILES)
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        for name in ("HF_HUB_OFFLINE", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        yield server


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that retries would have slept, here and in the hub library."""
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    return slept


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def failure(error: type[Exception], cache: Path, model: str = "acme/tiny", **how: object) -> str:
    """The message of the error that resolving raises: it must be of this very class, and must not show the token."""
    with pytest.raises(error) as caught:
        resolve(model, cache_dir=cache, **how)  # type: ignore[arg-type]
    assert type(caught.value) is error
    assert TOKEN not in str(caught.value)
    return str(caught.value)


def test_a_directory_wins_over_the_hub(tmp_path: Path) -> None:
    assert resolve(str(tmp_path)) == tmp_path


def test_the_builtin_model_is_there() -> None:
    assert (builtin_model_path() / "config.json").is_file()


@pytest.mark.parametrize(
    "name", ["/no/such/dir", "./nope", "../nope", "~/nope/nope", "a/b/c", "", "a b", "x/..", "nul\0"]
)
def test_what_is_neither_a_directory_nor_a_hub_id(name: str, cache: Path) -> None:
    assert "there is no directory" in failure(ModelNotFound, cache, name)


def test_a_file_is_not_a_model(tmp_path: Path, cache: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    assert "is a file" in failure(ModelNotFound, cache, str(file))


def test_only_weights_tokenizer_and_configuration_arrive(hub: FakeHub, cache: Path) -> None:
    reported: list[tuple[int, int]] = []
    folder = resolve("acme/tiny", cache_dir=cache, progress=lambda done, total: reported.append((done, total)))
    arrived = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if not file.is_dir())
    assert arrived == ["1_Pooling/config.json", "config.json", "model.safetensors", "tokenizer.json"]
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    size = sum(len(FILES[name]) for name in arrived)
    assert reported[-1] == (size, size)
    assert hub.seen("GET", "/api/models/")[0].headers["authorization"] == f"Bearer {TOKEN}"


def test_a_second_time_nothing_is_downloaded(hub: FakeHub, cache: Path) -> None:
    folder = resolve("acme/tiny", cache_dir=cache)
    hub.requests.clear()
    assert resolve("acme/tiny", cache_dir=cache) == folder
    assert not hub.seen("GET", "/resolve/")


@pytest.mark.parametrize("how", ["HF_HUB_OFFLINE", "local_only", "no server", "server error"])
def test_a_complete_copy_serves_without_the_hub(
    hub: FakeHub, cache: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = resolve("acme/tiny", cache_dir=cache)
    if how == "HF_HUB_OFFLINE":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    elif how == "no server":
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    elif how == "server error":
        hub.fail("/api/", status=500, times=9)
    hub.requests.clear()
    assert resolve("acme/tiny", cache_dir=cache, local_only=how == "local_only") == folder
    assert bool(hub.requests) == (how == "server error")


def test_offline_without_a_copy_says_how_to_get_one(hub: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "tgi download acme/tiny" in failure(ModelNotFound, cache)
    assert not hub.requests


def test_offline_with_part_of_a_copy_is_refused(hub: FakeHub, cache: Path) -> None:
    folder = resolve("acme/tiny", cache_dir=cache)
    (folder / "model.safetensors").unlink()
    assert "no complete copy" in failure(ModelNotFound, cache, local_only=True)


def test_a_cached_copy_with_a_shard_missing_is_refused(cache: Path) -> None:
    """Older versions of the hub library kept no list of a snapshot's files; its own index tells."""
    snapshot = cache / "models--acme--old" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (cache / "models--acme--old" / "refs").mkdir()
    (cache / "models--acme--old" / "refs" / "main").write_text(COMMIT)
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    (snapshot / "model-1.safetensors").write_bytes(b"1")
    assert "model-2.safetensors" in failure(WeightsError, cache, "acme/old", local_only=True)
    (snapshot / "model-2.safetensors").write_bytes(b"2")
    assert resolve("acme/old", cache_dir=cache, local_only=True) == snapshot
    (snapshot / "model.safetensors.index.json").write_text("[]")
    assert "not an index" in failure(WeightsError, cache, "acme/old", local_only=True)


def test_nobody_there_is_not_waited_for(cache: Path, waits: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "http://127.0.0.1:9 cannot be reached" in failure(ModelNotFound, cache)
    assert waits == []


def test_an_unknown_model(hub: FakeHub, cache: Path) -> None:
    message = failure(ModelNotFound, cache, "acme/nothing")
    assert "'acme/nothing'" in message
    assert "HF_TOKEN" in message


def test_an_unknown_revision(hub: FakeHub, cache: Path) -> None:
    assert "no revision 'v9'" in failure(ModelNotFound, cache, revision="v9")


def test_a_commit_is_a_revision(hub: FakeHub, cache: Path) -> None:
    assert resolve("acme/tiny", COMMIT, cache_dir=cache).name == COMMIT


@pytest.mark.parametrize("status", [401, 403, 404])
def test_no_access(hub: FakeHub, cache: Path, status: int) -> None:
    hub.fail("/api/", status=status, times=9)
    assert str(status) in failure(ModelNotFound, cache)


def test_a_gated_model_names_the_page_to_visit(hub: FakeHub, cache: Path) -> None:
    hub.fail("/resolve/", status=403, times=99, headers={"X-Error-Code": "GatedRepo"})
    assert f"accept its conditions at {hub.url}/acme/tiny" in failure(ModelNotFound, cache)


def test_errors_that_pass_are_waited_out(hub: FakeHub, cache: Path, waits: list[float]) -> None:
    hub.fail("/api/", status=500, times=3)
    assert resolve("acme/tiny", cache_dir=cache).name == COMMIT
    assert waits == [1, 2, 4]


def test_the_hub_says_how_long_to_wait(hub: FakeHub, cache: Path, waits: list[float]) -> None:
    hub.fail("/api/", status=429, times=2, headers={"Retry-After": "7"})
    hub.fail("/api/", status=429, times=1, headers={"Retry-After": "86400"})
    assert resolve("acme/tiny", cache_dir=cache).name == COMMIT
    assert waits == [7, 7, 30]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_errors_that_stay_end_the_waiting(hub: FakeHub, cache: Path, waits: list[float], status: int) -> None:
    hub.fail("/api/", status=status, times=99)
    assert str(status) in failure(StartError, cache)
    assert sum(waits) <= 120


def test_a_broken_connection_is_resumed(
    hub: FakeHub, cache: Path, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 10_000)
    hub.fail("model.safetensors", truncate=100_000, methods=("GET",), times=2)
    folder = resolve("acme/tiny", cache_dir=cache)
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    ranges = [item.headers.get("range", "") for item in hub.seen("GET", "model.safetensors")]
    assert ranges[0] == ""
    assert all(item.startswith("bytes=") for item in ranges[1:])
    assert len(ranges) == 3


def test_a_damaged_file_is_fetched_once_more(hub: FakeHub, cache: Path) -> None:
    hub.fail("model.safetensors", corrupt=True, methods=("GET",))
    folder = resolve("acme/tiny", cache_dir=cache)
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]


def test_a_file_that_stays_damaged_is_refused_and_removed(hub: FakeHub, cache: Path) -> None:
    hub.fail("model.safetensors", corrupt=True, methods=("GET",), times=9)
    assert "SHA-256" in failure(WeightsError, cache)
    assert len(hub.seen("GET", "model.safetensors")) == 2
    assert not any(file.stat().st_size > 1000 for file in cache.rglob("blobs/*"))


def test_pickled_weights_are_refused(hub: FakeHub, cache: Path) -> None:
    hub.models["acme/pickled"] = {"config.json": b"{}", "pytorch_model.bin": b"cos\nsystem\n"}
    assert "pytorch_model.bin" in failure(ModelUnsupported, cache, "acme/pickled")
    assert not hub.seen("GET", "pytorch_model.bin")


def test_a_full_disk(hub: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("huggingface_hub.snapshot_download", full)
    assert "disk is full" in failure(StartError, cache)


def test_a_cache_that_cannot_be_made(hub: FakeHub, tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_bytes(b"")
    assert str(blocker) in failure(StartError, blocker / "cache")


def test_the_token_stays_with_the_hub_when_it_redirects(hub: FakeHub, cache: Path) -> None:
    weights = FILES["model.safetensors"]
    with FakeHub().running() as elsewhere:
        elsewhere.models["acme/tiny"] = dict(FILES)
        target = elsewhere.url.replace("127.0.0.1", "localhost") + "/acme/tiny/resolve/main/model.safetensors"
        linked = {"X-Linked-Size": str(len(weights)), "X-Linked-Etag": f'"{sha256(weights)}"'}
        headers = {"Location": target, "X-Repo-Commit": COMMIT, **linked}
        hub.fail("model.safetensors", status=302, headers=headers, times=9)
        folder = resolve("acme/tiny", cache_dir=cache)
        assert (folder / "model.safetensors").read_bytes() == weights
        assert elsewhere.seen("GET", "model.safetensors")
        assert TOKEN not in str(elsewhere.requests)


def test_a_token_is_not_sent_in_the_clear(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.example")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert "https" in failure(ConfigError, cache)


def test_waits_are_bounded() -> None:
    assert len(engine_hub.WAITS) * engine_hub.LONGEST_WAIT <= 120
