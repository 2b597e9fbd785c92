"""Perplexity: how well a model, at the precision it is served in, predicts a text it has not seen.

exp of the mean negative log probability of every token but the first of its window, under the model's own distribution
(before temperature and filters). Documents do not see each other; one longer than a window is cut into windows that do
not overlap. So it compares precisions and runtimes on the same windows, which is what it is for; a figure from another
tool that cuts the text in another way is not comparable.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from engine.errors import ConfigError
from engine.llm import LLM
from engine.types import SamplingParams

BATCH = 16  # windows that run together
SCORE = SamplingParams(max_new_tokens=1, prompt_logprobs=True, ignore_eos=True)


Document = str | list[dict[str, Any]]  # a text, or the messages of a chat


class _Line(msgspec.Struct):
    text: str | None = None
    messages: list[dict[str, Any]] | None = None

    @property
    def document(self) -> Document:
        document = self.messages if self.text is None else self.text
        if document is None:
            raise msgspec.ValidationError('a line has neither "text" nor "messages"')
        return document


_LINE = msgspec.json.Decoder(_Line)


@dataclass(frozen=True, kw_only=True)
class Perplexity:
    value: float
    tokens: int  # scored
    windows: int


def read_documents(file: Path) -> list[Document]:
    """What a file holds: each line's `text`, or chat of `messages`, of a `.jsonl` file; or the whole of any other.

    Raises ConfigError.
    """
    try:
        content = file.read_text(encoding="utf-8")
        if file.suffix != ".jsonl":
            return [content]
        return [_LINE.decode(line).document for line in content.split("\n") if line.strip()]
    except (OSError, UnicodeError, msgspec.MsgspecError) as error:
        raise ConfigError(f"cannot read texts from '{file}': {error}") from error


def perplexity(
    llm: LLM,
    documents: Sequence[Document],
    window: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Perplexity:
    """Score the documents in windows of at most `window` tokens (None: the model's context, less one for its answer).

    `progress` gets the number of windows done and of all. Raises ConfigError where no token can be scored.
    """
    context = llm.max_total_tokens - 1
    if window is not None and not 2 <= window <= context:
        raise ConfigError(f"a window must have 2 to {context} tokens here. Given: {window}")
    windows = list(cut_windows(llm, documents, window or context))
    if not windows:
        raise ConfigError("there is nothing to score: no document has two tokens or more")
    logprobs: list[float] = []
    for done, batch in enumerate(_batches(windows), start=1):
        for generation in llm.generate(batch, SCORE):
            logprobs += generation.prompt_logprobs
        if progress is not None:
            progress(min(done * BATCH, len(windows)), len(windows))
    value = math.exp(-math.fsum(logprobs) / len(logprobs))
    return Perplexity(value=value, tokens=len(logprobs), windows=len(windows))


def _batches(windows: Sequence[list[int]]) -> Iterator[list[list[int]]]:
    for first in range(0, len(windows), BATCH):
        yield list(windows[first : first + BATCH])


def cut_windows(llm: LLM, documents: Sequence[Document], window: int) -> Iterator[list[int]]:
    """The tokens of every window: what is scored."""
    for document in documents:
        ids = _encode(llm, document)
        for first in range(0, len(ids), window):
            if len(ids) - first >= 2:
                yield ids[first : first + window]


def _encode(llm: LLM, document: Document) -> list[int]:
    if isinstance(document, str):
        return llm.tokenizer.encode(document)
    if llm.tokenizer.chat is None:
        raise ConfigError("the texts hold chats, but this model has no chat template; leave them out")
    text = llm.tokenizer.chat.render(document, add_generation_prompt=False)
    return llm.tokenizer.encode(text, add_special_tokens=False)
