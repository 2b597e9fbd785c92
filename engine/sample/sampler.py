"""From a row of logits to a token: the steps of the package docstring, in that order."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.errors import GenerationFailed
from engine.sample import warp
from engine.sample.noise import gumbel
from engine.types import SamplingParams, TokenScore

Logits = NDArray[np.floating[Any]]
Ids = NDArray[np.int64]
Tokens = Sequence[int] | NDArray[np.integer[Any]]


class Choice(NamedTuple):
    """A drawn token. `logprob` is 0.0 and `top` empty where the parameters ask for neither."""

    token: int
    logprob: float = 0.0
    top: tuple[TokenScore, ...] = ()


class Sampler:
    """Draws tokens. Stateless: the same arguments always give the same choice.

    `vocab_size` is the length of a row; ids from `num_tokens` on have no token and are never drawn.
    """

    def __init__(self, vocab_size: int, num_tokens: int | None = None) -> None:
        self._vocab_size = vocab_size
        self._ids = np.arange(min(vocab_size, num_tokens or vocab_size))

    def sample(
        self,
        logits: Logits,
        params: SamplingParams,
        tokens: Tokens,
        prompt_len: int,
        allowed: NDArray[np.uint32] | None = None,
    ) -> Choice:
        """Draw the token that follows `tokens`.

        `logits` `[V]` are read, never changed. `tokens` are all that come before the one drawn, also drafts not yet
        accepted; the first `prompt_len` are the prompt. They are looked at only where a penalty is on; an int64 array
        is then read in place. `allowed` `[at least ceil(V / 32)]` has a bit for each token that a grammar lets follow;
        None is every token. The noise is a function of `params.seed`, which must be set, and of `len(tokens)`.

        Raises GenerationFailed if a score is NaN or plus infinity, or all are minus infinity.
        """
        row = self._penalised(logits, params, tokens, prompt_len)[: self._ids.size]
        if allowed is not None:
            row = warp.grammar(row.astype(np.float64), allowed)
        token = _highest(row)
        ids, scores = self._ids, row
        if params.temperature > 0:
            ids, scores = self._candidates(row, params)
            if params.seed is None:
                raise ValueError("a request gets its seed when it is admitted")
            token = int(ids[np.argmax(scores + gumbel(params.seed, len(tokens), ids))])
        if not (params.logprobs or params.top_n_tokens):
            return Choice(token)
        if params.raw_logprobs:
            return Choice(token, *self.score(logits, token, params.top_n_tokens))
        return Choice(token, *_score(ids, scores, token, params.top_n_tokens))

    def score(self, logits: Logits, token: int, top_n: int = 0) -> tuple[float, tuple[TokenScore, ...]]:
        """The log probability of `token` under the model's own distribution, and the `top_n` most probable tokens.

        The latter are sorted, the lowest id first among equals; tokens of probability 0 are left out.
        Raises GenerationFailed as `sample` does.
        """
        row = logits[: self._ids.size]
        _highest(row)
        return _score(self._ids, row, token, top_n)

    def _penalised(self, logits: Logits, params: SamplingParams, tokens: Tokens, prompt_len: int) -> Logits:
        """Steps 1 to 4. Returns the row itself where none is on."""
        repeats = params.repetition_penalty != 1.0
        counts = params.frequency_penalty != 0.0 or params.presence_penalty != 0.0
        if not (repeats or counts or params.logit_bias):
            return logits
        row: Logits = logits.astype(np.float64)
        # What overflows to minus infinity cannot be drawn; plus infinity is reported by the caller.
        with np.errstate(over="ignore"):
            if repeats:
                seen = np.zeros(self._vocab_size, bool)
                seen[np.asarray(tokens, np.int64)] = True
                row = warp.repetition_penalty(row, seen, params.repetition_penalty)
            if counts:
                count = np.bincount(np.asarray(tokens[prompt_len:], np.int64), minlength=self._vocab_size)
                if params.relative_frequency:
                    everywhere = np.bincount(np.asarray(tokens, np.int64), minlength=self._vocab_size)
                    row = warp.relative_frequency_penalty(row, everywhere, params.frequency_penalty)
                else:
                    row = warp.frequency_penalty(row, count, params.frequency_penalty)
                row = warp.presence_penalty(row, count, params.presence_penalty)
        return warp.logit_bias(row, params.logit_bias)

    def _candidates(self, row: Logits, params: SamplingParams) -> tuple[Ids, Logits]:
        """Steps 7 to 11: the ids that are left, ascending, and their scores."""
        with np.errstate(over="ignore"):  # a temperature near 0 sends all but the highest scores to minus infinity
            scores = warp.temperature(row.astype(np.float64), params.temperature)
        possible = scores > -np.inf
        ids, scores = self._ids[possible], scores[possible]
        if params.top_k > 0:
            keep = warp.top_k(scores, params.top_k)
            ids, scores = ids[keep], scores[keep]
        if params.top_p < 1.0:
            keep = warp.top_p(scores, params.top_p)
            ids, scores = ids[keep], scores[keep]
        if params.typical_p < 1.0:
            keep = warp.typical_p(scores, params.typical_p)
            ids, scores = ids[keep], scores[keep]
        if params.min_p > 0.0:
            keep = warp.min_p(scores, params.min_p)
            ids, scores = ids[keep], scores[keep]
        return ids, scores


def _highest(row: Logits) -> int:
    """The id of the highest score, the lowest among equals; raises where there is none.

    numpy's argmax finds a NaN before any number, so one look at what it found is enough.
    """
    token = int(np.argmax(row))
    if not np.isfinite(row[token]):
        raise no_scores({np.inf: "plus infinity", -np.inf: "nothing but minus infinity"}.get(float(row[token]), "NaN"))
    return token


def no_scores(what: str) -> GenerationFailed:
    """The error of a request whose row of logits holds `what` in place of scores."""
    return GenerationFailed(
        f"the scores of the next token hold {what}: check the model's weights, or serve it in float32"
    )


def _score(ids: Ids, scores: Logits, token: int, top_n: int) -> tuple[float, tuple[TokenScore, ...]]:
    """The log probability of `token` and the `top_n` most probable of the candidates `ids` (ascending)."""
    logprobs = warp.log_softmax(scores.astype(np.float64))
    at = int(np.searchsorted(ids, token))
    logprob = float(logprobs[at]) if at < ids.size and ids[at] == token else -np.inf
    best = warp.lowest(-logprobs, top_n) if top_n else ()
    top = tuple(TokenScore(int(ids[i]), float(logprobs[i])) for i in best if logprobs[i] > -np.inf)
    return logprob, top
