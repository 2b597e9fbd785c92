"""How the vectors of a model are made, as the files of sentence-transformers in its directory say.

`modules.json` lists what follows the model; `1_Pooling/config.json` says how the hidden states become one vector;
`sentence_bert_config.json`, or else the tokenizer, has the length of text that the model was made for.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import ModelUnsupported
from engine.models.checkpoint import read_json, read_object
from engine.models.spec import ModelSpec
from engine.types import Pooling

MODES: dict[str, Pooling] = {"mean": "mean", "cls": "cls", "max": "max", "lasttoken": "last"}
FLAGS = {  # as all versions before 6 wrote them
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
FOLDER = "1_Pooling"
NO_LIMIT = 1 << 31  # transformers writes 1e30 for a tokenizer without a length limit


@dataclass(frozen=True)
class PoolingSpec:
    mode: Pooling
    normalizes: bool = False  # the vectors are brought to length 1
    max_tokens: int | None = None  # longer texts are cut to this, special tokens included


def find_pooling(path: str | Path, spec: ModelSpec) -> PoolingSpec:
    """The pooling of the model in `path`: its own, or the mean for an encoder and the last token for a decoder.

    Raises ModelUnsupported for a corrupt file, and for anything that would change the vectors and is not done here.
    """
    directory = Path(path)
    modules = read_json(directory / "modules.json", list[dict[str, Any]]) or []
    folder, normalizes = FOLDER, False
    for module in modules:
        kind = str(module.get("type")).rpartition(".")[2]
        match kind:
            case "Transformer":
                pass
            case "Pooling":
                folder = Path(str(module.get("path"))).name or FOLDER
            case "Normalize":
                normalizes = True
            case _:
                raise ModelUnsupported(f"modules.json: cannot compute the module '{module.get('type')}' of this model")
    config = read_object(directory / folder / "config.json")
    default: Pooling = "last" if spec.causal else "mean"
    mode = default if config is None else _mode(config, f"{folder}/config.json")
    return PoolingSpec(mode, normalizes, _max_tokens(directory))


def _mode(config: Mapping[str, Any], file: str) -> Pooling:
    """The one mode that is on. Several would be put side by side, which no model of note asks for."""
    given = config.get("pooling_mode")
    if given is None:
        given = [mode for key, mode in FLAGS.items() if config.get(key)] or ["mean"]
    modes = given if isinstance(given, list) else [given]
    if len(modes) != 1 or modes[0] not in MODES:
        raise ModelUnsupported(f"{file}: pools by {', '.join(map(str, modes))}; supported is one of {', '.join(MODES)}")
    return MODES[modes[0]]


def _max_tokens(directory: Path) -> int | None:
    for file, key in (("sentence_bert_config.json", "max_seq_length"), ("tokenizer_config.json", "model_max_length")):
        limit = (read_object(directory / file) or {}).get(key)
        if limit is None:
            continue
        if type(limit) not in (int, float) or limit < 1:
            raise ModelUnsupported(f"{file}: '{key}' is {limit!r}; expected a number of tokens")
        return int(limit) if limit < NO_LIMIT else None
    return None
