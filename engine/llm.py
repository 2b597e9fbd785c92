"""`LLM`: a model to be used from a program, on an engine that runs in a thread of this process.

    from engine import LLM, SamplingParams

    with LLM() as llm:  # the built-in model
        [answer] = llm.generate(["What is a river?"], SamplingParams(max_new_tokens=32))
        print(answer.text)
        [vector] = llm.embed(["A river is wide."])

Within asyncio, `async with LLM() as llm` and `async for piece in llm.stream(prompt)` do the same piece by piece.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

from engine.answer import Answer
from engine.client import InlineClient
from engine.config import CacheOptions, EngineOptions, ModelOptions, SchedulerOptions, SpecOptions
from engine.embedding import finished
from engine.hub import builtin_model_path, resolve
from engine.text.output import Piece
from engine.text.tokenizer import Tokenizer
from engine.types import EmbedRequest, EngineInfo, FinishReason, GenerateRequest, SamplingParams, TokenScore

DEFAULT_PARAMS = SamplingParams()

Prompt = str | Sequence[int]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Generation:
    """A finished answer; `pieces` has an entry for each generated token."""

    text: str
    pieces: tuple[Piece, ...]
    finish_reason: FinishReason
    prompt_tokens: int
    seed: int
    prompt_logprobs: tuple[float, ...] = ()
    prompt_top: tuple[tuple[TokenScore, ...], ...] = ()

    @property
    def token_ids(self) -> list[int]:
        return [piece.id for piece in self.pieces]


class LLM:
    """A model, its tokenizer and an engine.

    `model` is a directory or a model id of the Hugging Face hub; None is the built-in model. The engine starts
    with the first use. Raises the subclasses of `StartError`, and InvalidRequest for prompts that cannot run.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        revision: str | None = None,
        dtype: str | None = None,
        runtime: str = "auto",
        threads: int | None = None,
        quantize: str | None = None,
        kv_cache_dtype: str | None = None,
        num_draft: int = 0,
        cache: CacheOptions | None = None,
        scheduler: SchedulerOptions | None = None,
    ) -> None:
        path = builtin_model_path() if model is None else resolve(str(model), revision)
        self.tokenizer = Tokenizer.load(path)
        self._client = InlineClient(
            EngineOptions(
                model=ModelOptions(
                    path=str(path),
                    dtype=dtype,
                    runtime=runtime,
                    threads=threads,
                    quantize=quantize,
                    kv_cache_dtype=kv_cache_dtype,
                ),
                cache=cache or CacheOptions(),
                scheduler=scheduler or SchedulerOptions(),
                spec=SpecOptions(num_draft=num_draft),
            )
        )
        self._info: EngineInfo | None = None
        self._runner: asyncio.Runner | None = None

    @property
    def info(self) -> EngineInfo:
        """What was loaded; only after the start."""
        assert self._info is not None, "the engine has not been started"
        return self._info

    @property
    def max_total_tokens(self) -> int:
        """Of one request, prompt and answer. Starts the engine; for programs that do not use asyncio themselves."""
        return self._run(self.start()).max_total_tokens

    async def start(self) -> EngineInfo:
        if self._info is None:
            self._info = await self._client.start()
        return self._info

    async def aclose(self) -> None:
        await self._client.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    def stream(
        self,
        prompt: Prompt,
        params: SamplingParams = DEFAULT_PARAMS,
        *,
        stop: Sequence[str] = (),
        keep_stop: bool = True,
    ) -> Answer:
        """The answer to one prompt (text, or token ids), piece by piece. The engine must have been started."""
        ids = self.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        request = GenerateRequest(prompt=tuple(ids), params=params)
        return Answer(self._client, self.tokenizer, request, stop=stop, keep_stop=keep_stop)

    def generate(
        self,
        prompts: Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] = DEFAULT_PARAMS,
        *,
        stop: Sequence[str] = (),
        keep_stop: bool = True,
    ) -> list[Generation]:
        """Answer all prompts in one batch, in their order. For programs that do not use asyncio themselves."""
        if isinstance(prompts, str):  # one text is a sequence of its characters, which nobody means
            prompts = [prompts]
        each = [params] * len(prompts) if isinstance(params, SamplingParams) else list(params)

        async def run() -> list[Generation]:
            await self.start()
            answers = [
                self.stream(prompt, own, stop=stop, keep_stop=keep_stop)
                for prompt, own in zip(prompts, each, strict=True)
            ]
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(_finish(answer)) for answer in answers]
            return [task.result() for task in tasks]

        return self._run_group(run())

    def embed(
        self,
        texts: Sequence[Prompt],
        *,
        normalize: bool | None = None,
        dimensions: int | None = None,
        truncate: bool = False,
    ) -> list[list[float]]:
        """The vectors of all texts, in their order. For programs that do not use asyncio themselves.

        An encoder pools as its own configuration says, a model that generates takes its last token's hidden state.
        `normalize` brings vectors to length 1 (None: if the model's configuration says so), `dimensions` takes the
        first numbers only, and `truncate` cuts texts to the length the model was made for. Token ids are embedded as
        they are, so that special tokens must be among them.
        """
        if isinstance(texts, str):
            texts = [texts]

        async def run() -> list[list[float]]:
            info = await self.start()
            normal = info.normalizes if normalize is None else normalize
            requests = [
                EmbedRequest(prompt=tuple(self._encode(text, info.embed_truncation if truncate else None)))
                for text in texts
            ]
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._client.embed(request)) for request in requests]
            return [finished(task.result().vector, normalize=normal, dimensions=dimensions).tolist() for task in tasks]

        return self._run_group(run())

    def _encode(self, text: Prompt, limit: int | None) -> Sequence[int]:
        if not isinstance(text, str):
            return text[:limit]
        return self.tokenizer.encode(text) if limit is None else self.tokenizer.encode_cut(text, limit)

    def _run_group(self, work: Coroutine[object, object, T]) -> T:
        """Run it, and raise the first error of its tasks."""
        try:
            return self._run(work)
        except ExceptionGroup as group:
            raise group.exceptions[0] from None

    def _run(self, work: Coroutine[object, object, T]) -> T:
        if self._runner is None:
            self._runner = asyncio.Runner()
        return self._runner.run(work)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the engine that `generate` started."""
        if self._runner is not None:
            self._runner.run(self.aclose())
            self._runner.close()
            self._runner = None


async def _finish(answer: Answer) -> Generation:
    async for _ in answer.steps():
        pass
    assert answer.finish_reason is not None
    return Generation(
        text=answer.text,
        pieces=tuple(answer.pieces),
        finish_reason=answer.finish_reason,
        prompt_tokens=answer.prompt_tokens,
        seed=answer.seed,
        prompt_logprobs=answer.prompt_logprobs,
        prompt_top=answer.prompt_top,
    )
