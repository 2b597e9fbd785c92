"""The JSON files of a checkpoint directory: what the model is, which tokens end a text, how many tokens there are."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from engine.errors import ModelNotFound, ModelUnsupported

T = TypeVar("T")


def read_config(path: str | Path) -> dict[str, Any]:
    """The contents of `config.json` in the directory `path`.

    Raises ModelNotFound (no directory or no config.json) and ModelUnsupported (not a JSON object).
    """
    directory = Path(path)
    if not directory.is_dir():
        raise ModelNotFound(f"there is no model directory '{path}'")
    config = read_object(directory / "config.json")
    if config is None:
        raise ModelNotFound(f"'{path}' has no config.json; it must be a model directory as Hugging Face lays it out")
    return config


def eos_token_ids(path: str | Path, config: Mapping[str, Any]) -> tuple[int, ...]:
    """The tokens that end a text, in the checkpoint's order; empty where it names none.

    `generation_config.json` decides, else `config.json`, else the `eos_token` of `tokenizer_config.json`.
    Raises ModelUnsupported where one of these files is corrupt.
    """
    directory = Path(path)
    generation = read_object(directory / "generation_config.json") or {}
    for file, source in (
        ("generation_config.json", generation),
        ("config.json", config),
        ("config.json", config.get("text_config")),
    ):
        if isinstance(source, Mapping) and source.get("eos_token_id") is not None:
            return _token_ids(source["eos_token_id"], file)
    name = (read_object(directory / "tokenizer_config.json") or {}).get("eos_token")
    if isinstance(name, Mapping):
        name = name.get("content")
    token = _tokens(directory).get(name) if isinstance(name, str) else None
    return () if token is None else (token,)


def count_tokens(path: str | Path) -> int | None:
    """One more than the highest id that `tokenizer.json` names; None without that file.

    A model may have more rows of logits than that (a padded vocabulary); those ids stand for no token.
    """
    tokens = _tokens(Path(path))
    return max(tokens.values()) + 1 if tokens else None


class _AddedToken(msgspec.Struct):
    id: int
    content: str


class _TokenizerModel(msgspec.Struct):
    vocab: dict[str, int] | list[tuple[str, float]] = {}


class _TokenizerFile(msgspec.Struct):
    """The parts of `tokenizer.json` that give ids to tokens."""

    model: _TokenizerModel
    added_tokens: list[_AddedToken] = []


def _tokens(directory: Path) -> dict[str, int]:
    """Token -> id, of the vocabulary and the added tokens; empty without a tokenizer.json."""
    file = directory / "tokenizer.json"
    try:
        tokenizer = msgspec.json.decode(file.read_bytes(), type=_TokenizerFile)
    except FileNotFoundError:
        return {}
    except (OSError, RecursionError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ModelUnsupported(f"cannot read '{file}': {error}") from error
    vocab = tokenizer.model.vocab
    tokens = dict(vocab) if isinstance(vocab, dict) else {entry[0]: id for id, entry in enumerate(vocab)}
    return tokens | {added.content: added.id for added in tokenizer.added_tokens}


def _token_ids(value: Any, file: str) -> tuple[int, ...]:
    ids = value if isinstance(value, list) else [value]
    if not all(type(id) is int and id >= 0 for id in ids):
        raise ModelUnsupported(f"{file}: eos_token_id must be a token id or a list of them, not {value!r}")
    return tuple(dict.fromkeys(ids))


def read_object(file: Path) -> dict[str, Any] | None:
    """The JSON object in `file`, or None where there is no such file. Raises ModelUnsupported."""
    return read_json(file, dict[str, Any])


def read_json(file: Path, type: type[T]) -> T | None:
    """What `file` holds, or None where there is no such file. Raises ModelUnsupported where it is of another type."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=type)
    except FileNotFoundError:
        return None
    except (OSError, RecursionError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ModelUnsupported(f"cannot read '{file}': {error}") from error
