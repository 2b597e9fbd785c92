"""`tgi download`: a hub model into the local cache."""

from pathlib import Path
from typing import Annotated

import typer

from tgi_cli.models import find_model


def download(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Hub id (owner/name), or a directory, which is left as it is.")
    ],
    revision: Annotated[str | None, typer.Option(metavar="TEXT", help="Branch, tag or commit.")] = None,
    cache_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The hub cache to use in place of HF_HOME's.")
    ] = None,
) -> None:
    """Download a model into the local cache.

    Fetches safetensors weights, the tokenizer and the configuration, and prints where they are. An interrupted
    download goes on where it stopped. Private and gated models need HF_TOKEN in the environment;
    with HF_HUB_OFFLINE=1 nothing is downloaded, only looked up.
    """
    _, path = find_model(model, revision, cache_dir)
    print(path)
