"""A model's name -> the local directory that holds it: a directory, or a model of the Hugging Face hub.

Only safetensors weights, the tokenizer and the configuration are ever fetched, and only from the top of a repository:
pickle files can run code. Downloads resume where they stopped, and a complete copy in the cache serves when the hub
cannot be reached. HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_HUB_OFFLINE, HF_TOKEN and HUGGING_FACE_HUB_TOKEN are honoured.
No message here holds a token, nor text that came from the hub.
"""

import errno
import hashlib
import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

from engine.errors import ConfigError, ModelNotFound, ModelUnsupported, StartError, WeightsError

Progress = Callable[[int, int], None]  # bytes done, bytes in all

WANTED = [
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "quantize_config.json",
    "quant_config.json",
    "modules.json",
    "sentence_bert_config.json",
    "*_Pooling/config.json",
]
# Folders hold the weights in other formats; consolidated files are a second copy of them.
UNWANTED = ["*/*.safetensors", "*/*.safetensors.index.json", "consolidated*"]
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
SHA256 = re.compile(r"[0-9a-f]{64}")
WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds before the hub is asked again after 429 or 5xx
LONGEST_WAIT = 30.0  # also where its Retry-After says more


def builtin_model_path() -> Path:
    """The small model that comes with the package; used where no model is named."""
    return Path(__file__).parent / "assets" / "default"


def resolve(
    model: str,
    revision: str | None = None,
    *,
    local_only: bool = False,
    cache_dir: str | Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """The directory of `model`: an existing directory, or a hub id that is downloaded where the cache lacks it.

    Raises ModelNotFound (no such directory, repository or revision; no access; the hub out of reach and nothing
    cached), ModelUnsupported (no safetensors weights), WeightsError (a file arrived damaged), StartError (the disk).
    """
    path = Path(model).expanduser()
    if model and path.is_dir():
        return path
    if model and path.exists():
        raise ModelNotFound(f"'{model}' is a file; name the directory that holds it")
    if not HUB_ID.fullmatch(model) or ".." in model:
        raise ModelNotFound(f"there is no directory '{model}', and it cannot be a hub id (owner/name) either")
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"
    offline = local_only or os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
    return _Snapshot(model, revision, cache_dir, endpoint, offline).download(progress)


@dataclass(frozen=True)
class _Snapshot:
    """One revision of one hub model on its way into the cache."""

    model: str
    revision: str | None
    cache_dir: str | Path | None
    endpoint: str
    offline: bool

    @property
    def title(self) -> str:
        return f"'{self.model}'" + (f" (revision '{self.revision}')" if self.revision else "")

    @property
    def cache(self) -> Path:
        from huggingface_hub import constants

        return Path(self.cache_dir or constants.HF_HUB_CACHE).expanduser()

    def download(self, progress: Progress | None) -> Path:
        import httpx
        from huggingface_hub.errors import XetDownloadError

        self._guard_token()
        waits = list(WAITS)
        damaged = False
        while True:
            try:
                folder, corrupt = self._fetch(progress)
            except (OSError, httpx.HTTPError, ValueError, RuntimeError, XetDownloadError) as error:
                wait = _seconds_to_wait(error, waits)
                if wait is None:
                    raise self._explain(error) from None
                waits.pop(0)
                time.sleep(wait)
                continue
            if not corrupt:
                self._check(folder)
                return folder
            if damaged:
                raise WeightsError(f"{corrupt} of {self.title} arrived damaged twice: its SHA-256 is not the hub's")
            damaged = True

    def _guard_token(self) -> None:
        from huggingface_hub import get_token

        url = urlsplit(self.endpoint)
        if url.scheme != "https" and url.hostname not in ("127.0.0.1", "::1", "localhost") and get_token():
            raise ConfigError(f"HF_ENDPOINT {self.endpoint}: a token is only sent over https; log out or use https")

    def _fetch(self, progress: Progress | None) -> tuple[Path, str | None]:
        """Bring the files in. Returns their folder, and the name of one that is not what the hub announced."""
        from huggingface_hub import snapshot_download

        blobs = self.cache / ("models--" + self.model.replace("/", "--")) / "blobs"
        before = set(os.listdir(blobs)) if blobs.is_dir() else set()
        folder = snapshot_download(
            self.model,
            revision=self.revision,
            cache_dir=self.cache,
            endpoint=self.endpoint,
            local_files_only=self.offline,
            allow_patterns=WANTED,
            ignore_patterns=UNWANTED,
            tqdm_class=_progress_bars(progress),
        )
        corrupt = None
        for file in sorted(Path(folder).iterdir()):
            blob = file.resolve()
            if blob.name not in before and SHA256.fullmatch(blob.name) and _sha256(blob) != blob.name:
                blob.unlink()
                corrupt = file.name
        return Path(folder), corrupt

    def _check(self, folder: Path) -> None:
        """Refuse a snapshot without safetensors weights, or with some of their files missing."""
        if not any(folder.glob("*.safetensors")):
            names = [] if self.offline else self._names()
            pickles = sorted(name for name in names if name.endswith(PICKLES))
            if pickles:
                raise ModelUnsupported(
                    f"{self.title} has its weights only as pickle files ({pickles[0]}), which can run code when they "
                    "are read; use a model with safetensors weights, or convert it"
                )
            raise ModelUnsupported(f"{self.title} has no safetensors weights")
        for index in folder.glob("*.safetensors.index.json"):
            missing = sorted(name for name in _shards(index) if not (folder / name).is_file())
            if missing:
                raise WeightsError(f"{self.title}: {missing[0]}, named by {index.name}, is missing from {folder}")

    def _names(self) -> list[str]:
        import httpx
        from huggingface_hub import HfApi

        try:
            return HfApi(endpoint=self.endpoint).list_repo_files(self.model, revision=self.revision)
        except (OSError, httpx.HTTPError):
            return []

    def _explain(self, error: Exception) -> StartError:
        """The error to show for one of the hub library's. Its own text is left out: it may quote what was sent."""
        from huggingface_hub import errors

        cause = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) else error
        status = _status(cause)
        if isinstance(cause, errors.GatedRepoError):
            page = f"{self.endpoint}/{self.model}"
            return ModelNotFound(f"{self.title} is gated: accept its conditions at {page}, then set HF_TOKEN")
        if isinstance(cause, errors.RevisionNotFoundError):
            return ModelNotFound(f"the hub has '{self.model}', but no revision '{self.revision}' of it")
        if isinstance(cause, errors.RepositoryNotFoundError) or status in (401, 403, 404):
            return ModelNotFound(
                f"there is no directory {self.title}, and no hub model of that name that you may read: "
                f"check the name, and set HF_TOKEN for a private model ({self.endpoint} says {status})"
            )
        if status == 429:
            return StartError(f"{self.endpoint} is limiting downloads (429); try again later, or set HF_TOKEN")
        if status is not None:
            return StartError(f"{self.endpoint} answers {status} for {self.title}; try again later")
        if isinstance(error, errors.LocalEntryNotFoundError) and self.offline:
            return ModelNotFound(
                f"there is no directory '{self.model}', the cache {self.cache} holds no complete copy of {self.title}, "
                f"and downloads are off (HF_HUB_OFFLINE); run `tgi download {self.model}` with a network once"
            )
        if isinstance(error, ValueError):
            return ModelNotFound(f"'{self.model}' is neither a directory nor a hub id (owner/name)")
        if isinstance(cause, OSError) and cause.errno is not None and cause.errno in _DISK:
            return StartError(f"cannot write {self.title} to {self.cache}: {_DISK[cause.errno]}")
        if isinstance(cause, OSError) and "Consistency check" in str(cause):
            return WeightsError(f"a file of {self.title} arrived incomplete; run the command again to resume")
        return ModelNotFound(
            f"there is no directory '{self.model}', the cache {self.cache} holds no complete copy of {self.title}, "
            f"and {self.endpoint} cannot be reached ({type(cause or error).__name__}); "
            "check the network, or name a local directory"
        )


_DISK = {
    errno.ENOSPC: "the disk is full; free some space, or point HF_HOME at another disk",
    errno.EDQUOT: "the disk quota is used up; free some space, or point HF_HOME at another disk",
    errno.EFBIG: "the file would be larger than this process may write",
    errno.EIO: "the disk reports an error",
    errno.EROFS: "the disk is read-only; point HF_HOME at a directory that can be written",
    errno.EACCES: "permission denied; point HF_HOME at a directory that can be written",
    errno.EPERM: "permission denied; point HF_HOME at a directory that can be written",
    errno.ENOTDIR: "a part of that path is a file",
}


def _status(error: BaseException | None) -> int | None:
    response = getattr(error, "response", None)
    return None if response is None else int(response.status_code)


def _seconds_to_wait(error: Exception, waits: list[float]) -> float | None:
    """How long to wait before another try; None where trying again is no use."""
    cause = error.__cause__ or error
    status = _status(cause)
    if not waits or status is None or (status != 429 and status < 500):
        return None
    asked = str(getattr(cause, "response").headers.get("Retry-After", ""))  # noqa: B009  # _status has seen it
    return min(max(waits[0], float(asked) if asked.isdigit() else 0.0), LONGEST_WAIT)


def _shards(index: Path) -> set[str]:
    try:
        return set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError):
        raise WeightsError(f"{index} is not an index of safetensors files") from None


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _progress_bars(progress: Progress | None) -> Any:
    """A stand-in for tqdm that draws nothing and reports bytes.

    The hub library opens one bar for bytes received and one for bytes written; the further of the two is reported.
    """
    done: dict[int, int] = {}

    class Bar:
        format_dict: ClassVar[dict[str, Any]] = {}

        def __init__(self, *, unit: str = "it", total: int | None = 0, **_: Any) -> None:
            self.bytes = unit == "B"
            self.total = total or 0
            self.n = 0

        def update(self, count: float | None = 1) -> None:
            self.n += int(count or 0)
            if self.bytes and progress is not None:
                done[id(self)] = self.n
                progress(max(done.values()), self.total)

        def __enter__(self) -> "Bar":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def _nothing(self, *_: Any, **__: Any) -> None:
            pass

        refresh = close = set_description = set_description_str = set_postfix_str = _nothing

    return Bar
