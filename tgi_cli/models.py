"""From what a user names as a model to a directory, with a progress bar where it has to be downloaded."""

from pathlib import Path

from engine.errors import ConfigError
from tgi_cli import ui

BUILTIN = "built-in"


def is_local(model: str | None) -> bool:
    """Whether it is a directory, or the built-in model: such have no revisions."""
    return model is None or Path(model).expanduser().is_dir()


def find_model(model: str | None, revision: str | None = None, cache_dir: str | Path | None = None) -> tuple[str, Path]:
    """The name to show and the directory of `model`; the built-in one where none is named.

    Raises ConfigError for a revision of what has none, and what `engine.hub.resolve` raises.
    """
    from engine.hub import builtin_model_path, resolve

    if revision is not None and is_local(model):
        what = "the built-in model" if model is None else f"the directory '{model}'"
        raise ConfigError(f"--revision: {what} has no revisions, models of the hub have; leave it out")
    if model is None:
        return BUILTIN, builtin_model_path()
    with ui.download_progress(model) as progress:
        return model, resolve(model, revision, cache_dir=cache_dir, progress=progress)
