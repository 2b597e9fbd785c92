"""The engine's public face: `from engine import LLM, SamplingParams`.

Names are imported when they are first used, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.answer import Answer
    from engine.client import EngineClient, InlineClient, ProcessClient
    from engine.config import CacheOptions, EngineOptions, ModelOptions, SchedulerOptions, SpecOptions
    from engine.errors import (
        EngineDead,
        EngineError,
        GenerationFailed,
        InvalidRequest,
        ModelNotFound,
        Overloaded,
        StartError,
    )
    from engine.llm import LLM, Generation
    from engine.types import EngineInfo, EngineStats, FinishReason, GenerateRequest, SamplingParams, TokenEvent

_HOME = {
    "engine.answer": ("Answer",),
    "engine.client": ("EngineClient", "InlineClient", "ProcessClient"),
    "engine.config": ("CacheOptions", "EngineOptions", "ModelOptions", "SchedulerOptions", "SpecOptions"),
    "engine.errors": (
        "EngineDead",
        "EngineError",
        "GenerationFailed",
        "InvalidRequest",
        "ModelNotFound",
        "Overloaded",
        "StartError",
    ),
    "engine.llm": ("LLM", "Generation"),
    "engine.types": (
        "EngineInfo",
        "EngineStats",
        "FinishReason",
        "GenerateRequest",
        "SamplingParams",
        "TokenEvent",
    ),
}

__all__ = [
    "LLM",
    "Answer",
    "CacheOptions",
    "EngineClient",
    "EngineDead",
    "EngineError",
    "EngineInfo",
    "EngineOptions",
    "EngineStats",
    "FinishReason",
    "GenerateRequest",
    "Generation",
    "GenerationFailed",
    "InlineClient",
    "InvalidRequest",
    "ModelNotFound",
    "ModelOptions",
    "Overloaded",
    "ProcessClient",
    "SamplingParams",
    "SchedulerOptions",
    "SpecOptions",
    "StartError",
    "TokenEvent",
]


def __getattr__(name: str) -> object:
    for module, names in _HOME.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'engine' has no attribute '{name}'")
