"""`tgi generate`: one answer, or a conversation, from a model here or from a server."""

import json
import sys
from collections.abc import Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated

import typer

from engine.errors import ConfigError, InvalidRequest
from tgi_cli import ui
from tgi_cli.models import find_model
from tgi_cli.reply import Backend, Message, Reply
from tgi_cli.sampling import Sampling

if TYPE_CHECKING:
    import asyncio


def generate(
    prompt: Annotated[
        str | None, typer.Argument(help="Text to continue; - reads standard input. Without one: a conversation.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Hub id or directory; unset: the built-in model.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub model.")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Ask through the model's chat template.")] = False,
    system: Annotated[str | None, typer.Option(help="System message of a chat; implies --chat.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object with details, as TGI's.")] = False,
    url: Annotated[str | None, typer.Option(help="Ask this server in place of a model here.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")] = None,
    runtime: Annotated[str, typer.Option(help="What computes the model.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads to compute with.")] = None,
    speculate: Annotated[int, typer.Option(min=0, max=64, help="Draft tokens a step, from repetition.")] = 0,
    **given: object,
) -> None:
    """Continue a text, or talk with the model.

    A PROMPT, or text piped to standard input (less its last newline), is continued as it is; --chat asks it as a
    question. Without either, on a terminal, a conversation begins. With --url a server answers; its key is read from
    API_KEY in the environment.
    """
    sampling = Sampling.read(given)
    talk = prompt is None and sys.stdin.isatty()
    if talk and as_json:
        raise ConfigError("--json needs a prompt: tgi generate --json PROMPT")
    text = "" if talk else _read(prompt)
    if url is not None:
        local = {"--revision": revision, "--dtype": dtype, "--threads": threads, "--speculate": speculate or None}
        if named := [name for name, value in local.items() if value is not None]:
            raise ConfigError(f"{named[0]} is for a model here; leave it out with --url")
        backend = _server(url, model)
    else:
        backend = _engine(model, revision, dtype, runtime, threads, speculate, logprobs=as_json)
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
    if prompt is None or prompt == "-":
        try:
            prompt = sys.stdin.read().removesuffix("\n")
        except UnicodeDecodeError:
            raise InvalidRequest("standard input is not UTF-8 text") from None
    if not prompt:
        raise InvalidRequest("the prompt is empty; give a text to continue")
    return prompt


def _engine(
    model: str | None,
    revision: str | None,
    dtype: str | None,
    runtime: str,
    threads: int | None,
    speculate: int,
    *,
    logprobs: bool,
) -> Backend:
    name, path = find_model(model, revision)

    from engine.config import SchedulerOptions
    from engine.llm import LLM
    from tgi_cli.local import LocalBackend

    llm = LLM(
        path,
        dtype=dtype,
        runtime=runtime,
        threads=threads,
        num_draft=speculate,
        scheduler=SchedulerOptions(max_batch_size=1),
    )
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
