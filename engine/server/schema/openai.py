"""What OpenAI's routes share: parameters, usage, models."""

from typing import Literal

from msgspec import Struct, field

from engine.server.schema.common import Int32, Stop, UInt32, check_seed


class StreamOptions(Struct, frozen=True, kw_only=True):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None  # usage so far in every chunk, as vLLM offers it


class OpenAIParameters(Struct, frozen=True, kw_only=True):
    """What chat and completions share; from `top_k` on, extensions that OpenAI lacks."""

    model: str | None = None
    max_tokens: UInt32 | None = None
    temperature: float | None = None
    top_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    stop: Stop = None
    seed: int | None = None
    n: UInt32 | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    top_k: Int32 | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float | None = None
    ignore_eos: bool | None = None
    timings: bool | None = None  # ours: the usage chunk of a stream says how long the request waited and ran

    def __post_init__(self) -> None:
        check_seed(self.seed)


class Usage(Struct, frozen=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Model(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str


class ModelList(Struct, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: list[Model] = field(default_factory=list)
