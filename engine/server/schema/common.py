"""What the schemas of several route families share."""

from typing import Annotated

import msgspec
from msgspec import Meta

UInt32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Int32 = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Stop = str | list[str] | None


def check_seed(seed: int | None) -> None:
    """msgspec's bounds end at 63 bits; a seed has 64."""
    if seed is not None and not 0 <= seed < 2**64:
        raise ValueError(f"`seed` must be >= 0 and < 2^64. Given: {seed}")


encode = msgspec.json.Encoder().encode
