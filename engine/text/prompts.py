"""The prompts that some encoders want before a text, such as "query: ", as sentence-transformers keeps them."""

import json
from collections.abc import Mapping
from pathlib import Path

from engine.errors import TokenizerError

FILE = "config_sentence_transformers.json"


def read_prompts(path: Path) -> Mapping[str, str]:
    """The prompts of the model in a directory, by name. Raises TokenizerError where their file is corrupt."""
    try:
        found = json.loads((path / FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise TokenizerError(f"{path / FILE} cannot be read ({error}); download the model again") from None
    prompts = found.get("prompts") if isinstance(found, dict) else None
    if not isinstance(prompts, dict):
        return {}
    return {name: text for name, text in prompts.items() if isinstance(text, str)}
