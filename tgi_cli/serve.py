"""`tgi serve`, also known as text-generation-launcher: settings in, a server out."""

import logging
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.config import EngineOptions, ServerOptions
from engine.errors import ConfigError
from tgi_cli import ui
from tgi_cli.flags import as_written
from tgi_cli.models import find_model, is_local
from tgi_cli.settings import Settings, read_settings
from tgi_cli.version import Version

if TYPE_CHECKING:
    from engine.types import EngineInfo

PACKAGES = ("tgi", "numpy", "tokenizers", "safetensors", "huggingface_hub", "torch", "transformers")

log = logging.getLogger("tgi")


def serve(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="Hub id or local directory; unset: the small built-in model.")
    ] = None,
    env: Annotated[bool, typer.Option("--env", "-e", help="Show what runs here and the settings, and end.")] = False,
    version: Version = False,
    **given: object,
) -> None:
    """Serve a model over TGI's HTTP API and OpenAI's.

    Each flag can come from the command line, its environment variable, a TOML file (--config) or a preset
    (--preset); the first of them that sets it counts.
    """
    settings = read_settings(given if model is None else {**given, "model_id": model})
    if model is not None and given.get("model_id") not in (None, model):
        raise ConfigError(f"two models are named: '{model}' and --model-id '{given['model_id']}'; keep one")
    if env:
        ui.rows(environment(settings))
        return
    from engine.logs import configure_logging

    configure_logging(as_json=bool(settings["json_output"]))
    for notice in settings.notices():
        log.warning("%s", notice)
    revision = settings["revision"]
    if revision is not None and is_local(settings["model_id"]):
        log.warning("the flag --revision has no effect: only models of the hub have revisions")
        revision = None
    name, path = find_model(settings["model_id"], revision, settings["huggingface_hub_cache"])
    _check_context(settings, path)
    encoder = None
    if settings["embedding_model_id"] is not None:
        _, encoder_path = find_model(settings["embedding_model_id"], None, settings["huggingface_hub_cache"])
        encoder = settings.encoder_options(encoder_path)
    _run(settings.engine_options(path), settings.server_options(name), encoder, inline=bool(settings["inline"]))


def _check_context(settings: Settings, path: Path) -> None:
    """Refuse, by the name of the setting, more than the model's context."""
    from engine.models.checkpoint import read_config
    from engine.models.registry import family

    if (setting := settings.made.get("max_total_tokens")) is not None:
        config = read_config(path)
        most = family(config).spec(config, None).max_context
        if settings["max_total_tokens"] > most:
            raise ConfigError(f"{setting.source} {setting.value}: this model supports at most {most}")


def _run(engine: EngineOptions, server: ServerOptions, encoder: EngineOptions | None, *, inline: bool) -> None:
    from engine.client import InlineClient, ProcessClient
    from engine.server.run import serve as serve_http
    from engine.server.service import Embedder
    from engine.text.tokenizer import Tokenizer

    log.info("loading %s for %s:%d", server.model_id, server.hostname, server.port)
    if not server.api_keys and server.hostname not in ("127.0.0.1", "::1", "localhost"):
        log.warning("everyone who reaches %s may use this server; set API_KEY to ask for a key", server.hostname)
    template = server.tokenizer_config_path
    tokenizer = Tokenizer.load(Path(engine.model.path), Path(template) if template else None)
    kind = InlineClient if inline else ProcessClient
    embedder = None
    if encoder is not None and server.embedding_model_id is not None:
        log.info("loading %s for embeddings", server.embedding_model_id)
        embedder = Embedder(server.embedding_model_id, kind(encoder), Tokenizer.load(Path(encoder.model.path)))
    serve_http(kind(engine), tokenizer, server, on_ready=_announce, encoder=embedder)


def _announce(url: str, info: "EngineInfo") -> None:
    log.info(
        "%s with %s parameters on the %s runtime in %s: "
        "%s of weights, up to %s of KV cache for %d tokens, %d a request",
        info.architecture,
        ui.thousands(info.num_parameters),
        info.runtime,
        info.weight_format or info.dtype,
        ui.size(info.weight_bytes),
        ui.size(info.kv_bytes),
        info.num_blocks * info.block_size,
        info.max_total_tokens,
    )
    log.info("ready at %s", url)


def environment(settings: Settings) -> Iterator[tuple[str, str]]:
    """What `--env` shows: the machine, the packages, and every setting with its source; secrets are not shown."""
    from importlib.metadata import PackageNotFoundError, version

    yield "platform", platform.platform()
    yield "python", platform.python_version()
    yield "cores", str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    for package in PACKAGES:
        try:
            yield package, version(package)
        except PackageNotFoundError:
            yield package, "not installed"
    for setting in settings.made.values():
        shown = "***" if setting.flag.secret else as_written(setting.value)
        yield f"--{setting.flag.name}", f"{shown}  ({setting.source})"
