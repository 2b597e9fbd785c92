"""Where the settings of `tgi serve` come from: flag > environment > --config file > --preset > default.

Each setting keeps where it was said, so that a message can name the place to change. The environment's HOSTNAME is
not read: containers set it to their own name.
"""

import difflib
import os
import socket
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.config import EngineOptions, ModelOptions, ServerOptions
from engine.errors import ConfigError
from tgi_cli.flags import Flag, Value, as_written
from tgi_cli.options import BY_KEY, FLAGS, SECTIONS


@dataclass(frozen=True)
class Setting:
    flag: Flag
    value: Value = field(repr=False)  # some are secrets
    source: str


@dataclass(frozen=True)
class Settings:
    """The settings that were made, by the key of their flag; what is absent keeps its default."""

    made: Mapping[str, Setting]

    def __getitem__(self, key: str) -> Any:
        return self.made[key].value if key in self.made else None

    def notices(self) -> Iterator[str]:
        """One line for each setting that changes nothing, and one for a key that others can read."""
        for setting in self.made.values():
            if setting.flag.no_effect and setting.value not in setting.flag.as_it_is:
                yield f"the flag --{setting.flag.name} has no effect: {setting.flag.no_effect}" + _said(setting)
        if "api_key" in self.made and self.made["api_key"].source.startswith("--"):
            yield "--api-key can be read by every user of this machine; use API_KEY or --api-key-file instead"

    def engine_options(self, model_path: Path) -> EngineOptions:
        parts = {name: self._section(name) for name in SECTIONS if name != "server"}
        parts["model"]["path"] = str(model_path)
        options = {name: SECTIONS[name](**values) for name, values in parts.items()}
        return EngineOptions(**options, json_logs=bool(self["json_output"]))

    def encoder_options(self, model_path: Path) -> EngineOptions:
        """For an encoder beside the model: on the same runtime, the rest is its own."""
        of_model = self._section("model")
        model = ModelOptions(
            path=str(model_path), **{key: of_model[key] for key in ("runtime", "threads") if key in of_model}
        )
        return EngineOptions(model=model, json_logs=bool(self["json_output"]))

    def server_options(self, model_id: str) -> ServerOptions:
        return ServerOptions(model_id=model_id, api_keys=self._api_keys(), **self._section("server"))

    def _section(self, name: str) -> dict[str, Any]:
        fills = ((item.flag.fills, item.value) for item in self.made.values())
        return {path.split(".")[1]: value for path, value in fills if path and path.startswith(f"{name}.")}

    def _api_keys(self) -> tuple[str, ...]:
        keys = self["api_key"].split() if "api_key" in self.made else []  # no header can carry a key with a space
        if "api_key_file" in self.made:
            file = Path(self["api_key_file"]).expanduser()
            lines = [line.strip() for line in _read(file, self.made["api_key_file"].source).splitlines()]
            found = [line for line in lines if line and not line.startswith("#")]
            if not found:
                raise ConfigError(f"{self.made['api_key_file'].source}: {file} holds no key; write one on a line")
            keys += found
        return tuple(keys)


def read_settings(given: Mapping[str, object], environ: Mapping[str, str] | None = None) -> Settings:
    """Gather the settings from every source.

    `given` holds what was typed, by flag key, None or empty where a flag was not. Raises ConfigError, which names the
    flag, variable or file, what it held and what is allowed.
    """
    environ = os.environ if environ is None else environ
    made = dict(_typed(given))
    for key, setting in _environment(environ):
        made.setdefault(key, setting)
    for name, find in (("config", Path), ("preset", preset_path)):
        if name in made:
            file = find(str(made[name].value)).expanduser()
            for key, setting in _file(file, made[name].source):
                made.setdefault(key, setting)
    settings = Settings(dict(sorted(made.items())))
    _check(settings)
    return settings


def preset_path(name: str) -> Path:
    """The TOML file of a preset: beside this module in an installed package, in configs/ of a checkout."""
    here = Path(__file__).parent
    packaged = here / "presets" / "serve" / f"{name}.toml"
    return packaged if packaged.is_file() else here.parent / "configs" / "serve" / f"{name}.toml"


def _typed(given: Mapping[str, object]) -> Iterator[tuple[str, Setting]]:
    for key, value in given.items():
        if value is not None and value != []:
            flag = BY_KEY[key]
            yield key, Setting(flag, flag.parse(value, f"--{flag.name}"), f"--{flag.name}")


def _environment(environ: Mapping[str, str]) -> Iterator[tuple[str, Setting]]:
    for flag in FLAGS:
        text = environ.get(flag.env or "")
        if text:
            yield flag.key, Setting(flag, flag.parse(text, f"environment {flag.env}"), f"environment {flag.env}")
        elif text is not None and flag.secret and not flag.no_effect:
            # An empty key is a mistake in a deployment, and must not open the server to everyone.
            raise ConfigError(f"environment {flag.env} is set but empty; give it a value or unset it")


def _file(file: Path, source: str) -> Iterator[tuple[str, Setting]]:
    try:
        table = tomllib.loads(_read(file, source))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file} is not TOML: {error}") from None
    for key, value in table.items():
        flag = BY_KEY.get(key)
        if flag is None or key == "config":
            raise ConfigError(f"{file}: unknown key '{key}'{_suggestion(key)}")
        yield key, Setting(flag, flag.parse(value, f"{file}: {key}"), f"{file}: {key}")


def _read(file: Path, source: str) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"{source}: cannot read {file}: {reason}") from None


def _suggestion(key: str) -> str:
    close = difflib.get_close_matches(key.replace("-", "_"), BY_KEY, n=1)
    return f"; did you mean '{close[0]}'?" if close else "; keys are the flags of `tgi serve` with underscores"


def _said(setting: Setting) -> str:
    return "" if setting.source.startswith("--") else f" ({setting.source})"


def _check(settings: Settings) -> None:
    """Refuse what is not available, and settings that contradict each other."""
    made = settings.made
    for setting in made.values():
        if setting.flag.unavailable:
            value, reason = as_written(setting.value), setting.flag.unavailable
            raise ConfigError(f"{setting.source}: '{value}' is not available: {reason}; leave it out")
    if "api_key" in made and not settings["api_key"].strip():
        raise ConfigError(f"{made['api_key'].source} is empty; give a key, or leave it out")
    if "max_input_tokens" in made and "max_input_length" in made:
        both = f"{made['max_input_tokens'].source} and {made['max_input_length'].source}"
        raise ConfigError(f"{both} say the same thing; keep --max-input-tokens")
    limit = "max_input_length" if "max_input_length" in made else "max_input_tokens"
    _ordered(settings, limit, "below", "max_total_tokens")
    _ordered(settings, "max_total_tokens", "at most", "max_batch_total_tokens")
    _ordered(settings, "max_batch_prefill_tokens", "at most", "max_batch_total_tokens")
    if "num_blocks" in made and "max_batch_total_tokens" in made:
        both = f"{made['num_blocks'].source} and {made['max_batch_total_tokens'].source}"
        raise ConfigError(f"{both} both set the size of the KV cache; keep one")
    if "tokenizer_config_path" in made:
        _read(Path(settings["tokenizer_config_path"]), made["tokenizer_config_path"].source)
    if "hostname" in made:
        _resolves(made["hostname"])


def _ordered(settings: Settings, small: str, relation: str, large: str) -> None:
    left, right = settings.made.get(small), settings.made.get(large)
    if left is None or right is None:
        return
    low, high = settings[small], settings[large]
    if low > high or (relation == "below" and low == high):
        raise ConfigError(f"{left.source}: {low} must be {relation} the {high} of {right.source}")


def _resolves(setting: Setting) -> None:
    try:
        socket.getaddrinfo(str(setting.value), None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise ConfigError(
            f"{setting.source}: '{setting.value}' is no address of this machine, and no name that resolves to one"
        ) from None
