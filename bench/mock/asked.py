"""What a request asks the mock for, read from the body of any of its three streaming APIs."""

from typing import Any, NamedTuple

import msgspec

from bench.mock import tokens
from bench.mock.behaviour import Behaviour
from bench.types import Api

DEFAULT_TOKENS = 16

ROUTES = {
    "/generate_stream": Api.TGI,
    "/generate": Api.TGI,
    "/v1/completions": Api.COMPLETIONS,
    "/v1/chat/completions": Api.CHAT,
}


class Refused(Exception):
    """A request that is answered with an error status and a message."""

    def __init__(self, status: int, message: str, kind: str = "invalid_request_error") -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class _Parameters(msgspec.Struct):
    max_new_tokens: int | None = None
    ignore_eos: bool | None = None
    details: bool | None = None


class _Message(msgspec.Struct):
    role: str
    content: str | list[dict[str, Any]] | None = None


class _Body(msgspec.Struct):
    inputs: str | None = None
    parameters: _Parameters | None = None
    prompt: str | list[int | str] | None = None
    messages: list[_Message] | None = None
    model: str | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    ignore_eos: bool | None = None
    return_token_ids: bool | None = None


_decode = msgspec.json.Decoder(_Body).decode


class Asked(NamedTuple):
    api: Api
    stream: bool
    prompt_tokens: int
    output_tokens: int
    finish_reason: str  # in OpenAI's words
    usage: str  # none, final, continuous or last_choice
    token_ids: bool
    details: bool


def read(path: str, body: bytes, behaviour: Behaviour) -> Asked:
    """Raises Refused."""
    api = ROUTES[path]
    try:
        asked = _decode(body)
    except msgspec.MsgspecError as error:
        raise Refused(400, f"the body is not a request: {error}") from None
    if api is not Api.TGI and asked.model not in (None, behaviour.model):
        raise Refused(404, f"The model `{asked.model}` does not exist.", "NotFoundError")
    parameters = asked.parameters or _Parameters()
    prompt_tokens = _prompt_tokens(api, asked)
    limit = behaviour.max_context - prompt_tokens
    wanted = next(
        (n for n in (parameters.max_new_tokens, asked.max_completion_tokens, asked.max_tokens) if n is not None),
        min(DEFAULT_TOKENS, limit),
    )
    if wanted < 1:
        raise Refused(400, f"at least 1 token must be asked for, or the prompt is too long. Given: {wanted}")
    if wanted > limit:
        raise Refused(
            400, f"{prompt_tokens} prompt tokens and {wanted} new ones exceed the context of {behaviour.max_context}"
        )
    output_tokens, reason = wanted, "length"
    if behaviour.eos_after is not None and not (asked.ignore_eos or parameters.ignore_eos):
        output_tokens, reason = min(wanted, behaviour.eos_after), "stop" if behaviour.eos_after <= wanted else reason
    return Asked(
        api=api,
        stream=path == "/generate_stream" or bool(asked.stream),
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        finish_reason=reason,
        usage=_usage(asked.stream_options, behaviour),
        token_ids=behaviour.token_ids or bool(asked.return_token_ids),
        details=bool(parameters.details),
    )


def _prompt_tokens(api: Api, asked: _Body) -> int:
    if api is Api.TGI and asked.inputs is not None:
        return tokens.count(asked.inputs)
    if api is Api.CHAT and asked.messages:
        return tokens.count_chat([(message.role, _text(message)) for message in asked.messages])
    if api is Api.COMPLETIONS and asked.prompt:
        if isinstance(asked.prompt, str):
            return tokens.count(asked.prompt)
        texts = [part for part in asked.prompt if isinstance(part, str)]
        if texts and len(asked.prompt) > 1:
            raise Refused(400, f"one prompt at a time. Given: {len(asked.prompt)}")
        return tokens.count(texts[0]) if texts else len(asked.prompt)
    field = {Api.TGI: "inputs", Api.CHAT: "messages", Api.COMPLETIONS: "prompt"}[api]
    raise Refused(422, f"missing field `{field}`")


def _text(message: _Message) -> str:
    if isinstance(message.content, list):
        return "".join(str(part.get("text", "")) for part in message.content)
    return message.content or ""


def _usage(options: _StreamOptions | None, behaviour: Behaviour) -> str:
    if behaviour.usage != "asked":
        return behaviour.usage
    if options is None or not options.include_usage:
        return "none"
    return "continuous" if options.continuous_usage_stats else "final"
