"""`POST /v1/embeddings` of OpenAI, and `POST /embed` of text-embeddings-inference."""

from typing import Any, Literal

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from engine.server.schema.common import TokenId, UInt32

Inputs = str | list[str | TokenId | list[TokenId]]


class EmbedOptions(Struct, frozen=True, kw_only=True):
    normalize: bool | None = None
    truncate: bool | None = None
    truncation_direction: Literal["left", "right", "Left", "Right"] | None = None
    prompt_name: str | None = None
    dimensions: UInt32 | None = None


class EmbedBody(EmbedOptions, frozen=True, kw_only=True):
    """Older releases of huggingface_hub put the options under `parameters`."""

    inputs: Inputs
    parameters: EmbedOptions | None = None

    def option(self, name: str) -> Any:
        """An option's value, wherever it stands; None where it does not."""
        own = getattr(self, name)
        return own if own is not None or self.parameters is None else getattr(self.parameters, name)


class EmbeddingBody(Struct, frozen=True, kw_only=True):
    input: Inputs
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: UInt32 | None = None
    user: str | None = None
    truncate: bool | None = None  # ours


class EmbeddingItem(Struct, frozen=True, kw_only=True):
    object: Literal["embedding"] = "embedding"
    embedding: list[float] | str  # or the bytes of its float32 numbers, little endian, in base64
    index: int


class EmbeddingUsage(Struct, frozen=True):
    prompt_tokens: int
    total_tokens: int


class EmbeddingList(Struct, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: list[EmbeddingItem]
    model: str
    usage: EmbeddingUsage


class RootBody(Struct, frozen=True, kw_only=True):
    """What tells on `POST /` whether a body asks for an answer or for vectors."""

    inputs: Raw | UnsetType = UNSET
    parameters: dict[str, Raw] | None = None
    stream: Raw | UnsetType = UNSET
    normalize: Raw | UnsetType = UNSET
    prompt_name: Raw | UnsetType = UNSET
    truncation_direction: Raw | UnsetType = UNSET
    dimensions: Raw | UnsetType = UNSET
    encoding_format: Raw | UnsetType = UNSET
    truncate: Raw | UnsetType = UNSET


EMBED_DECODER = msgspec.json.Decoder(EmbedBody)
EMBEDDING_DECODER = msgspec.json.Decoder(EmbeddingBody)
ROOT_DECODER = msgspec.json.Decoder(RootBody)
