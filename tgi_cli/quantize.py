"""`tgi quantize`: a model with smaller weights, in a directory of its own."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from engine.errors import ConfigError
from tgi_cli import ui
from tgi_cli.models import find_model

COPIED = ("*.json", "*.jinja", "*.txt", "*.md", "LICENSE*", "tokenizer.model")  # whatever else belongs to a model
POOLING = "*_Pooling/config.json"  # of an encoder
NOT_COPIED = ("config.json", "*.safetensors.index.json")


def quantize(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Hub id or directory; built-in: the built-in model.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The directory to make.")],
    method: Annotated[str, typer.Option(metavar="NAME", help="int8 or int4, as tgi serve --quantize.")] = "int4",
    revision: Annotated[str | None, typer.Option(metavar="TEXT", help="Branch, tag or commit of a hub model.")] = None,
    threads: Annotated[int | None, typer.Option(metavar="N", min=1, help="Threads; unset: the physical cores.")] = None,
) -> None:
    """Write a model with quantized weights, in the compressed-tensors format.

    It holds what tgi serve --quantize makes when it loads the model, and gives the same tokens: tgi serve OUT starts
    faster and reads less. OUT appears when it is complete; an interrupted run leaves nothing.
    """
    name, path = find_model(None if model == "built-in" else model, revision)
    out = out.expanduser().absolute()
    if out.exists():
        raise ConfigError(f"'{out}' exists; name a directory that does not")
    if not out.parent.is_dir():
        raise ConfigError(f"there is no directory '{out.parent}' to make '{out.name}' in")
    from engine.runtimes.native import available

    if (reason := available()) is not None:
        raise ConfigError(reason)
    from engine.runtimes.native.quantize import Quantization
    from engine.weights.save import save_tensors

    made = Quantization(path, method, threads)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as temporary:
        whole = Path(temporary) / "model"
        whole.mkdir()
        with ui.progress(f"quantizing {name}") as show:
            save_tensors(whole, made.tensors(show))
        (whole / "config.json").write_text(json.dumps(made.config, indent=2) + "\n")
        _copy_files(path, whole)
        whole.rename(out)
    size = sum(file.stat().st_size for file in out.glob("*.safetensors"))
    ui.note(
        f"{ui.size(size)} of weights, {sum(f.stat().st_size for f in path.glob('*.safetensors')) / size:.1f}x smaller"
    )
    print(out)


def _copy_files(source: Path, target: Path) -> None:
    for file in sorted({file for pattern in COPIED for file in source.glob(pattern)}):
        if file.is_file() and not any(file.match(pattern) for pattern in NOT_COPIED):
            shutil.copyfile(file, target / file.name)
    for file in source.glob(POOLING):
        (target / file.parent.name).mkdir()
        shutil.copyfile(file, target / file.parent.name / file.name)
