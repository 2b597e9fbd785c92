"""Who counts the tokens of a prompt: the server, a local tokenizer, nobody but ourselves, or nobody."""

import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from bench.api.target import Target
from bench.types import Api, BenchError, UsageError
from bench.workload.words import COMMON

if TYPE_CHECKING:
    from tokenizers import Tokenizer

ORDINARY_IDS = range(300, 1300)  # of most vocabularies: past the bytes and special tokens
TOKENS_PER_WORD = 1.35  # of English prose, where nobody counts


class TokenCounter(Protocol):
    """`as_ids`: prompts are lists of ids. `estimated`: the counts are guesses."""

    estimated: bool
    as_ids: bool

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text as the server will count them as a prompt, special tokens included."""

    def __hash__(self) -> int:
        """What was found out about one is remembered for it."""


class LocalTokens:
    """A tokenizer.json of this machine, or the directory of a model that has one. Raises UsageError."""

    estimated = False
    as_ids = False

    def __init__(self, path: Path, *, special_tokens: bool = True) -> None:
        self.path = path / "tokenizer.json" if path.is_dir() else path
        self.special_tokens = special_tokens

    @cached_property
    def tokenizer(self) -> "Tokenizer":
        from tokenizers import Tokenizer

        if not self.path.is_file():
            raise UsageError(f"no tokenizer at {self.path}: give a tokenizer.json or a directory with one")
        try:
            return Tokenizer.from_file(str(self.path))
        except Exception as error:  # the library raises plain Exception
            raise UsageError(f"{self.path} is not a tokenizer.json: {error}") from None

    def count(self, texts: Sequence[str]) -> list[int]:
        encoded = self.tokenizer.encode_batch(list(texts), add_special_tokens=self.special_tokens)
        return [len(each) for each in encoded]

    def token_ends(self, text: str) -> list[int]:
        """For each token of an answer, the position after it (see `bench.api.counting.Retokenizer`)."""
        return [end for _, end in self.tokenizer.encode(text, add_special_tokens=False).offsets]


class ServerTokens:
    """The server's own tokenizer, through `POST /tokenize` of TGI, vLLM, SGLang, llama.cpp or ours."""

    estimated = False
    as_ids = False
    connections = 8

    def __init__(self, target: Target, *, timeout: float = 30.0) -> None:
        if target.tokenize_path is None:
            raise UsageError(f"{target.url} does not tokenize: give --tokenizer with a tokenizer.json")
        self.target = target
        self.path = target.tokenize_path
        self.timeout = timeout

    def count(self, texts: Sequence[str]) -> list[int]:
        """Raises BenchError where the server cannot be asked."""
        return [len(ids) for ids in self.ids(texts)]

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of each text. Raises BenchError where the server cannot be asked."""
        import httpx

        limits = httpx.Limits(max_connections=self.connections, max_keepalive_connections=self.connections)
        with (
            httpx.Client(
                base_url=str(self.target.address),
                headers=dict(self.target.headers),
                timeout=self.timeout,
                limits=limits,
                trust_env=False,
            ) as client,
            ThreadPoolExecutor(min(self.connections, max(1, len(texts)))) as pool,
        ):
            return list(pool.map(lambda text: self._ask(client, text), texts))

    def _ask(self, client: Any, text: str) -> list[int]:
        import httpx

        from bench.api.detect import tokenize_body

        try:
            response = client.post(self.path, json=tokenize_body(self.target.kind, self.target.model, text))
            response.raise_for_status()
            return _listed_ids(response.json())
        except (httpx.HTTPError, ValueError) as error:
            raise BenchError(f"{self.target.url} cannot tokenize: {error}; give --tokenizer instead") from None


def _listed_ids(answer: Any) -> list[int]:
    """Of TGI (a list of tokens), vLLM and SGLang (`tokens`), llama.cpp (`tokens`, maybe with their pieces)."""
    listed = answer.get("tokens") if isinstance(answer, dict) else answer
    if not isinstance(listed, list):
        raise ValueError("the answer has no list of tokens")
    return [int(token["id"] if isinstance(token, dict) else token) for token in listed]


class IdTokens:
    """Prompts as token ids, whose number needs no counting. `pool` holds ids that are ordinary words."""

    estimated = False
    as_ids = True

    def __init__(self, pool: Sequence[int] = ORDINARY_IDS) -> None:
        if not pool:
            raise UsageError("prompts of token ids need at least one id to draw from")
        self.pool = pool

    @classmethod
    def of_server(cls, server: ServerTokens) -> "IdTokens":
        """Draw from the server's own ids of common words, so that all of them are in its vocabulary."""
        ids = server.ids([" " + word for word in COMMON])
        # What comes with every word is a special token.
        always = set.intersection(*(set(each) for each in ids))
        return cls(sorted({one for each in ids for one in each} - always))

    def count(self, texts: Sequence[str]) -> list[int]:
        raise UsageError("prompts of token ids are made up, not read: leave --token-ids out for files")

    def draw(self, rng: random.Random, length: int) -> list[int]:
        return rng.choices(self.pool, k=length)


class EstimatedTokens:
    """Nobody to ask: a word counts as one token when prompts are made, prose as a little more when it is read."""

    estimated = True
    as_ids = False

    def count(self, texts: Sequence[str]) -> list[int]:
        return [max(1, round(len(text.split()) * TOKENS_PER_WORD)) for text in texts]


def token_counter(target: Target, *, tokenizer: Path | None = None, token_ids: bool = False) -> TokenCounter:
    """The best there is: ids where wanted and taken, then the tokenizer given, then the server's, then none.

    Raises UsageError where ids are wanted but the target takes none.
    """
    server = ServerTokens(target) if target.tokenize_path is not None else None
    if token_ids:
        if not target.can_token_ids:
            other = "" if target.api is Api.COMPLETIONS else ", or try --api openai"
            raise UsageError(f"{target.url} takes no token ids on {target.path}: leave --token-ids out{other}")
        return IdTokens.of_server(server) if server is not None else IdTokens()
    if tokenizer is not None:
        return LocalTokens(tokenizer, special_tokens=target.api is not Api.CHAT)
    return server or EstimatedTokens()
