"""Request bodies: bytes within the limit, JSON, then a struct. Each step refuses with a status of its own.

msgspec refuses NaN, infinities, numbers that do not fit and lone surrogates, and ignores unknown fields,
as TGI does. It lets the last of two equal keys win; a second look refuses those, since two readers of one
text could understand it differently.
"""

import asyncio
import json
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import TypeVar

import msgspec
from starlette.requests import Request

from engine.server import strict
from engine.server.errors import BadJSON, PayloadTooLarge, UnsupportedMediaType, WrongShape

LARGE_BODY = 1 << 16  # bytes from which decoding leaves the event loop

T = TypeVar("T")


async def read_struct(request: Request, decoder: msgspec.json.Decoder[T], limit: int, executor: Executor) -> T:
    """Read and decode the body of a request.

    Raises UnsupportedMediaType (415), PayloadTooLarge (413), BadJSON (400) and WrongShape (422).
    """
    body = await read_body(request, limit)
    del request.state.body  # or it would be held as long as the answer takes
    as_tgi = request.app.state.strict
    if len(body) < LARGE_BODY:
        return decode(body, decoder, as_tgi=as_tgi)
    return await asyncio.get_running_loop().run_in_executor(executor, decode, body, decoder, as_tgi)


async def read_body(request: Request, limit: int) -> bytes:
    """The body of a request that is declared to be JSON, for a route that passes the request on to another."""
    if not hasattr(request.state, "body"):
        _check_content_type(request)
        request.state.body = await _read(request, limit)
    return bytes(request.state.body)


def decode(body: bytes, decoder: msgspec.json.Decoder[T], as_tgi: bool = False) -> T:
    """The struct in a body; with `as_tgi` only what TGI reads of it."""
    try:
        decoded = decoder.decode(strict.as_tgi_reads(decoder.type, body) if as_tgi else body)
        _unique_keys.decode(body.decode())
    except msgspec.ValidationError as error:
        raise WrongShape(f"Failed to deserialize the JSON body into the target type: {_describe(error)}") from None
    except RecursionError:
        raise BadJSON("Failed to parse the request body as JSON: nested too deeply") from None
    except (msgspec.DecodeError, ValueError) as error:
        raise BadJSON(f"Failed to parse the request body as JSON: {error}") from None
    return decoded


def _check_content_type(request: Request) -> None:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not (
        media_type.startswith("application/") and media_type.endswith("+json")
    ):
        raise UnsupportedMediaType("Expected request with `Content-Type: application/json`")
    if request.headers.get("content-encoding", "identity") != "identity":
        raise UnsupportedMediaType("Compressed request bodies are not supported; send the JSON as it is")


async def _read(request: Request, limit: int) -> bytes:
    """The body, counted while it arrives: a false Content-Length lets nothing past the limit."""
    refusal = PayloadTooLarge(f"Failed to buffer the request body: length limit exceeded ({limit} bytes)")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        raise refusal
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise refusal
    return bytes(body)


def _describe(error: msgspec.ValidationError) -> str:
    """`parameters.top_k: Expected ...`: the path first, as TGI writes it."""
    reason, _, path = str(error).partition(" - at `$")
    path = path.rstrip("`").lstrip(".")
    return f"{path}: {reason}" if path else reason


def _refuse_duplicates(pairs: Sequence[tuple[str, object]]) -> None:
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            raise ValueError(f"duplicate field `{key[:64]}`")
        seen.add(key)


# Numbers stay text: only the keys matter, and digits beyond number are none of its business.
_unique_keys = json.JSONDecoder(object_pairs_hook=_refuse_duplicates, parse_int=str, parse_float=str)
