"""What SageMaker and Vertex AI send in their own wrapping."""

from typing import Any

import msgspec
from msgspec import Struct


class VertexBody(Struct, frozen=True, kw_only=True):
    """`POST /vertex`: each instance is a body of `/generate`, or of `/v1/chat/completions`."""

    instances: list[dict[str, Any]]


class VertexAnswer(Struct, frozen=True):
    predictions: list[str]


VERTEX_DECODER = msgspec.json.Decoder(VertexBody)
