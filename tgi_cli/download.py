"""`tgi download`: a hub model into the local cache."""

from pathlib import Path
from typing import Annotated

import typer

from tgi_cli import ui


def download(
    model: Annotated[str, typer.Argument(help="Hub id (owner/name), or a directory, which is left as it is.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
    cache_dir: Annotated[Path | None, typer.Option(help="The hub cache to use in place of HF_HOME's.")] = None,
) -> None:
    """Download a model into the local cache.

    Fetches safetensors weights, the tokenizer and the configuration, and prints where they are. An interrupted
    download goes on where it stopped. Private and gated models need HF_TOKEN in the environment;
    with HF_HUB_OFFLINE=1 nothing is downloaded, only looked up.
    """
    from engine.hub import resolve

    with ui.download_progress(model) as progress:
        path = resolve(model, revision, cache_dir=cache_dir, progress=progress)
    print(path)
