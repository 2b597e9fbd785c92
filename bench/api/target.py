"""`Target`: the server under test, as far as it matters for what to send it and how to read its answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from bench.client.address import Address
from bench.types import Api

Kind = Literal["tgi", "ours", "vllm", "sglang", "llama.cpp", "openai", "mock"]

PATHS = {Api.TGI: "/generate_stream", Api.COMPLETIONS: "/v1/completions", Api.CHAT: "/v1/chat/completions"}


@dataclass(frozen=True, kw_only=True)
class Target:
    """`base_path` precedes every route, such as `/proxy/8000`; it is empty or begins with a slash.

    `info` is what the server says of itself. `tokenize_path` is where it tokenizes, None where it does not.
    """

    url: str
    address: Address
    base_path: str = ""
    api: Api
    model: str
    kind: Kind
    headers: Mapping[str, str] = field(default_factory=dict)  # sent with every request
    info: Mapping[str, Any] = field(default_factory=dict)
    max_context: int | None = None  # tokens, prompt and answer together
    can_ignore_eos: bool = False
    can_token_ids: bool = False  # a prompt may be token ids
    tokenize_path: str | None = None

    @property
    def path(self) -> str:
        return self.base_path + PATHS[self.api]

    @property
    def continuous_usage(self) -> bool:
        """Whether it may be asked to count tokens in every chunk; OpenAI itself refuses to be."""
        return self.kind in ("vllm", "sglang", "ours", "mock")

    @property
    def one_event_each_token(self) -> bool:
        """TGI sends one event for each token on every route, also those without text."""
        return self.kind in ("tgi", "ours")
