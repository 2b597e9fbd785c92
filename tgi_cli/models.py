"""From what a user names as a model to a directory, with a progress bar where it has to be downloaded."""

from pathlib import Path

from tgi_cli import ui

BUILTIN = "built-in"


def find_model(model: str | None, revision: str | None = None, cache_dir: str | None = None) -> tuple[str, Path]:
    """The name to show and the directory of `model`; the built-in one where none is named."""
    from engine.hub import builtin_model_path, resolve

    if model is None:
        return BUILTIN, builtin_model_path()
    with ui.download_progress(model) as progress:
        return model, resolve(model, revision, cache_dir=cache_dir, progress=progress)
