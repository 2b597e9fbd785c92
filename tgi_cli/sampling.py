"""How the next token is chosen, as `tgi generate` and `/set` take it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from engine.errors import ConfigError
from tgi_cli.flags import Flag, Value, as_written

if TYPE_CHECKING:
    from engine.types import SamplingParams

Number = partial(Flag, kind=float, group="Sampling")
Count = partial(Flag, kind=int, group="Sampling")

SAMPLING: tuple[Flag, ...] = (
    Count(
        "max-new-tokens",
        "Longest answer, in tokens; unset: 128, and in a chat what the context leaves, 1024 at most",
        aliases=("max-tokens",),
        at_least=1,
    ),
    Number(
        "temperature",
        "0 is greedy: always the likeliest token. Unset: 0, or 1 with any of top-k, top-p, typical-p and min-p",
        at_least=0,
    ),
    Count("top-k", "Choose among the k likeliest tokens; 0 is off", at_least=0),
    Number("top-p", "Choose among the likeliest tokens that hold this share; 1 is off", above=0, at_most=1),
    Number("typical-p", "As top-p, by how typical a token is; 1 is off", above=0, at_most=1),
    Number("min-p", "Leave out tokens less likely than this share of the likeliest; 0 is off", at_least=0, at_most=1),
    Number("repetition-penalty", "Above 1: less of what was there, in prompt or answer", above=0),
    Number("frequency-penalty", "Less of what the answer has often", at_least=-2, at_most=2),
    Number("presence-penalty", "Less of what the answer has at all", at_least=-2, at_most=2),
    Count("seed", "The same seed gives the same answer; unset: drawn", at_least=0, at_most=2**64 - 1),
    Flag("stop", "End the answer at this text; repeatable", group="Sampling", many=True),
    Flag("ignore-eos", "Go on past the model's own end", kind=bool, group="Sampling"),
)
FLAG = {flag.key: flag for flag in SAMPLING}
OFF = {"top_k": 0, "top_p": 1.0, "typical_p": 1.0, "min_p": 0.0}  # values that TGI's server refuses to be told
FILTERS = tuple(OFF)


@dataclass(frozen=True)
class Sampling:
    """The parameters that were set; the rest keep their defaults."""

    given: Mapping[str, Value] = field(default_factory=dict)

    @classmethod
    def read(cls, typed: Mapping[str, object]) -> Self:
        """From the values of a command line. Raises ConfigError that names the flag and what is allowed."""
        made = cls()
        for key, value in typed.items():
            if key == "stop" and isinstance(value, list):
                if "" in value:
                    raise ConfigError("--stop is empty; give the text to stop at, or leave it out")
                made = replace(made, given={**made.given, "stop": tuple(value)} if value else made.given)
            elif value is not None:
                made = replace(made, given={**made.given, key: FLAG[key].parse(value, f"--{FLAG[key].name}")})
        return made

    def set(self, name: str, text: str) -> Self:
        """One more parameter, as `/set` takes it; `none` unsets it.

        Raises ConfigError on an unknown name or a bad value.
        """
        key = name.replace("-", "_")
        key = "max_new_tokens" if key == "max_tokens" else key
        if key not in FLAG:
            raise ConfigError(f"there is no parameter '{name}'; there are: {', '.join(FLAG)}")
        if text == "none":
            return replace(self, given={other: value for other, value in self.given.items() if other != key})
        value = (text,) if key == "stop" else FLAG[key].parse(text, key)
        return replace(self, given={**self.given, key: value})

    @property
    def temperature(self) -> float:
        default = 1.0 if any(name in self.given for name in FILTERS) else 0.0
        given = self.given.get("temperature", default)
        return float(given) if isinstance(given, int | float) else default

    @property
    def max_new_tokens(self) -> int | None:
        limit = self.given.get("max_new_tokens")
        return limit if isinstance(limit, int) else None

    @property
    def stop(self) -> tuple[str, ...]:
        given = self.given.get("stop", ())
        return given if isinstance(given, tuple) else ()

    def params(self, max_new_tokens: int, *, logprobs: bool = False) -> "SamplingParams":
        """What the engine is told."""
        from engine.types import SamplingParams

        other = {key: value for key, value in self.given.items() if key not in ("stop", "max_new_tokens")}
        other["temperature"] = self.temperature
        # As a server scores tokens: by the model's own distribution.
        return SamplingParams(
            max_new_tokens=max_new_tokens,
            logprobs=logprobs,
            raw_logprobs=logprobs,
            **other,  # type: ignore[arg-type]
        )

    def request(self) -> dict[str, Any]:
        """What a server is told, by the names that TGI and OpenAI share; what is off is left out."""
        fields: dict[str, Any] = {key: value for key, value in self.given.items() if value != OFF.get(key)}
        fields.pop("max_new_tokens", None)
        fields.pop("temperature", None)
        if self.temperature == 0:
            return {key: value for key, value in fields.items() if key not in FILTERS}
        return fields

    def __str__(self) -> str:
        shown = {"temperature": self.temperature, **self.given}
        return ", ".join(f"{key} {as_written(value)}" for key, value in shown.items())
