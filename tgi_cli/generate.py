"""`tgi generate`: one answer, or a conversation, from a model here or from a server."""

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.errors import ConfigError, InvalidRequest
from tgi_cli import ui
from tgi_cli.models import find_model
from tgi_cli.options import BY_KEY
from tgi_cli.reply import Backend, Message, Reply
from tgi_cli.sampling import Sampling

if TYPE_CHECKING:
    import asyncio

# Flags of `tgi serve` that say how a model is run here; the environment variables are the server's.
MODEL_FLAGS = tuple(
    replace(BY_KEY[key], group="Options", env=None)
    for key in ("dtype", "quantize", "kv_cache_dtype", "runtime", "threads", "speculate")
)


def generate(
    prompt: Annotated[
        str | None,
        typer.Argument(metavar="PROMPT", help="Text to continue; - reads standard input. Without one: a conversation."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", metavar="TEXT", help="Hub id or directory; unset: the built-in model."),
    ] = None,
    revision: Annotated[str | None, typer.Option(metavar="TEXT", help="Branch, tag or commit of a hub model.")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Ask through the model's chat template.")] = False,
    system: Annotated[
        str | None, typer.Option(metavar="TEXT", help="System message of a chat; implies --chat.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object with details, as TGI's.")] = False,
    url: Annotated[str | None, typer.Option(metavar="URL", help="Ask this server in place of a model here.")] = None,
    **given: object,
) -> None:
    """Continue a text, or talk with the model.

    A PROMPT, or text piped to standard input (less its last newline), is continued as it is; --chat asks it as a
    question. Without either, on a terminal, a conversation begins. With --url a server answers; its key is read from
    API_KEY in the environment.
    """
    engine = {
        flag.key: flag.parse(value, f"--{flag.name}")
        for flag in MODEL_FLAGS
        if (value := given.pop(flag.key)) is not None
    }
    sampling = Sampling.read(given)
    talk = prompt is None and sys.stdin.isatty()
    if talk and as_json:
        raise ConfigError("--json needs a prompt: tgi generate --json PROMPT")
    text = "" if talk else _read(prompt)
    if url is not None:
        named = ["revision"] if revision is not None else list(engine)
        if named:
            raise ConfigError(f"--{named[0]} is for a model here; leave it out with --url")
        backend = _server(url, model)
    else:
        backend = _engine(model, revision, engine, chat=talk or chat or bool(system), logprobs=as_json)
    import asyncio

    with asyncio.Runner() as runner:
        try:
            runner.run(backend.start())
            if talk:
                _talk(backend, sampling, system, runner)
            else:
                messages = _messages(text, system) if chat or system else None
                runner.run(_answer(backend, text, messages, sampling, as_json))
        finally:
            runner.run(backend.aclose())


def _read(prompt: str | None) -> str:
    """The prompt, or standard input where there is none or it is `-`."""
    source = "the prompt"
    try:
        if prompt is None or prompt == "-":
            source = "standard input"
            prompt = sys.stdin.read().removesuffix("\n")
        prompt.encode()  # bytes that are no text may have become lone surrogates
    except UnicodeError:
        raise InvalidRequest(f"{source} is not UTF-8 text") from None
    if not prompt:
        raise InvalidRequest("the prompt is empty; give a text to continue")
    return prompt


def _engine(
    model: str | None, revision: str | None, flags: Mapping[str, Any], *, chat: bool, logprobs: bool
) -> Backend:
    name, path = find_model(model, revision)

    from engine.config import SchedulerOptions
    from engine.llm import LLM
    from tgi_cli.local import LocalBackend

    llm = LLM(
        path,
        dtype=flags.get("dtype"),
        quantize=flags.get("quantize"),
        kv_cache_dtype=flags.get("kv_cache_dtype"),
        runtime=flags.get("runtime", "auto"),
        threads=flags.get("threads"),
        num_draft=flags.get("speculate", 0),
        scheduler=SchedulerOptions(max_batch_size=1),
    )
    if chat and llm.tokenizer.chat is None:
        raise InvalidRequest(f"{name} has no chat template; use tgi generate PROMPT")
    return LocalBackend(name, llm, logprobs=logprobs)


def _server(url: str, model: str | None) -> Backend:
    from tgi_cli.remote import ServerBackend, api_key

    return ServerBackend(url, model, api_key())


def _messages(text: str, system: str | None) -> list[Message]:
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    return [*messages, {"role": "user", "content": text}]


async def _answer(
    backend: Backend, text: str, messages: Sequence[Message] | None, sampling: Sampling, as_json: bool
) -> None:
    reply = backend.complete(text, sampling) if messages is None else backend.chat(messages, sampling)
    async with aclosing(reply.texts()) as texts:
        async for piece in texts:
            if not as_json:
                sys.stdout.write(piece)
                sys.stdout.flush()
    if as_json:
        print(json.dumps(reply.as_json(), ensure_ascii=False))
    elif sys.stdout.isatty():
        print()
        _show_stats(reply)


def _show_stats(reply: Reply) -> None:
    if sys.stderr.isatty():
        ui.note(f"[{reply.summary()}]")


def _talk(backend: Backend, sampling: Sampling, system: str | None, runner: "asyncio.Runner") -> None:
    from tgi_cli.session import Session
    from tgi_cli.terminal import converse

    converse(Session(backend, sampling, system), runner)
