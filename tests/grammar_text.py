"""Texts that a grammar lets through, drawn from random logits as a model without any sense would draw them."""

from functools import cache

import numpy as np
from tiny_models import DEFAULT_MODEL

from engine.sample import Sampler
from engine.text.grammar import Compiler, Matcher
from engine.text.tokenizer import Tokenizer
from engine.types import SamplingParams

PADDED = 8200  # a model with more rows than there are tokens
END_IDS = (2, 0)


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer.load(DEFAULT_MODEL)


@cache
def compiler() -> Compiler:
    return Compiler(tokenizer().to_json(), PADDED, END_IDS)


@cache
def _closing() -> np.ndarray:
    """1 for tokens that tend to bring a text to its end."""
    own = tokenizer()
    texts = (own.token_text(i) if i < own.vocab_size and i not in own.special_ids else "" for i in range(PADDED))
    return np.array([i in END_IDS or (text != "" and not text.strip('"}]')) for i, text in enumerate(texts)], float)


def ids_of(mask: np.ndarray) -> list[int]:
    """The token ids that a row of a mask allows."""
    return np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")).tolist()


def write(matcher: Matcher, seed: int, most: int = 400) -> str | None:
    """A text drawn from random logits, in which what closes grows more likely; None where it does not end in time."""
    rng, sampler, tokens = np.random.default_rng(seed), Sampler(PADDED), []
    params = SamplingParams(temperature=1.0, seed=seed)
    for length in range(most):
        (mask,) = matcher.masks()
        logits = (rng.normal(0, 3, PADDED) + _closing() * length / 8).astype(np.float32)
        token = sampler.sample(logits, params, [0] * (length + 1), 1, mask).token
        if token in END_IDS:
            return tokenizer().decode(tokens)
        matcher.advance([token])
        tokens.append(token)
    return None
