"""Structured output: which tokens may come next, so that a text matches a grammar (llguidance).

A `Grammar` is a JSON schema, a regular expression or a grammar in llguidance's dialect of Lark. A `Compiler` knows
the tokens of one model and turns grammars into `Matcher`s; a matcher follows the tokens of one answer.

- The text of an answer is matched as a whole, as if `^` and `$` stood around it.
- JSON has at most one space between two tokens and no line breaks, whatever the schema says about layout: a model
  that may write blanks for ever sometimes does. Properties come in the order of the schema, and what has
  `properties` is an object, whether the schema says so or not: TGI's clients leave that out.
- What llguidance cannot enforce (`uniqueItems`, `not`, an unknown `format`, look-around, ...) is an error, not ignored.
- The model's end tokens are allowed where the text matches, and are all that is allowed where it cannot go on. No
  other special token is, unless a Lark grammar names it. An id without a token is never allowed.

A mask `[ceil(V / 32)]` has one bit for each token, the lowest id in the lowest bit of the first word.
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import llguidance
import numpy as np
from numpy.typing import NDArray

from engine.errors import GenerationFailed, InvalidRequest
from engine.text.schemas import enforceable, inexact_number
from engine.text.tokenizer import Tokenizer
from engine.types import Grammar

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

Masks = NDArray[np.uint32]

MAX_CACHED = 32  # compiled grammars that a compiler keeps
ANY_TOKEN = np.uint32(0xFFFFFFFF)

# Every option that a schema could set for itself under `x-guidance`.
JSON_OPTIONS: "JsonCompileOptions" = {
    "whitespace_pattern": " ",
    "item_separator": ",",
    "key_separator": ":",
    "coerce_one_of": False,
    "lenient": False,
    "json_allow_general_unicode_escapes": False,
}

# What one grammar may cost. The first two bound compiling (about 50,000 units of fuel take a millisecond), the others
# each mask: none takes longer than some 20 ms, or its request ends.
LIMITS: dict[str, Any] = {
    "initial_lexer_fuel": 1_000_000,
    "max_grammar_size": 500_000,
    "step_lexer_fuel": 200_000,
    "step_max_items": 50_000,
    "max_items_in_row": 10_000,
    "max_lexer_states": 50_000,  # of 1 to 2 kB
}


class Compiler:
    """Compiles grammars for the tokens of one model. Safe to share between threads.

    `tokenizer` is the content of a `tokenizer.json` (`Tokenizer.to_json`), `vocab_size` the width of the model's
    logits: as many as there are tokens, or more. Compiling lets other threads run; making a compiler does not, and
    takes a second for 128,000 tokens. Raises InvalidRequest where the tokenizer is of a kind that llguidance cannot
    read, or the model has no end token to end a text with.
    """

    def __init__(self, tokenizer: str, vocab_size: int, end_ids: Sequence[int]) -> None:
        if not end_ids:
            raise InvalidRequest("grammar is not supported: the model has no end token")
        self._end_ids = frozenset(end_ids)
        try:
            self._tokens = llguidance.LLTokenizer(tokenizer, n_vocab=vocab_size, eos_token=sorted(end_ids))
        except ValueError as error:
            raise InvalidRequest(f"grammar is not supported with this model's tokenizer: {error}") from None
        self._limits = llguidance.LLParserLimits(**LIMITS, verbose_errors=False)
        self._compiled: OrderedDict[Grammar, llguidance.LLMatcher] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def load(cls, path: Path, vocab_size: int, end_ids: Sequence[int]) -> "Compiler":
        """For the model in a directory. Raises TokenizerError as well."""
        tokenizer = Tokenizer.load(path)
        return cls(tokenizer.to_json(), max(vocab_size, tokenizer.vocab_size), end_ids)

    def compile(self, grammar: Grammar) -> "Matcher":
        """A matcher at the beginning of a text, whose first tokens have been found: they take the longest.

        Raises InvalidRequest, which says why the grammar cannot be used.
        """
        with self._lock:
            if grammar in self._compiled:
                self._compiled.move_to_end(grammar)
                return self._matcher(self._compiled[grammar])
        compiled = llguidance.LLMatcher(self._tokens, _source(grammar), log_level=0, limits=self._limits)
        compiled.compute_bitmask()
        if compiled.is_error():
            raise InvalidRequest(f"grammar is not valid: {_reason(compiled.get_error())}")
        with self._lock:
            self._compiled[grammar] = compiled
            while len(self._compiled) > MAX_CACHED:
                self._compiled.popitem(last=False)
            return self._matcher(compiled)

    def _matcher(self, compiled: llguidance.LLMatcher) -> "Matcher":
        return Matcher(compiled.deep_copy(), self._tokens.vocab_size, self._end_ids)


class Matcher:
    """Follows the tokens of one answer. One thread at a time may use it; `masks` lets other threads run."""

    def __init__(self, matcher: llguidance.LLMatcher, vocab_size: int, end_ids: frozenset[int]) -> None:
        self._matcher = matcher
        self._words = -(-vocab_size // 32)
        self._end_ids = end_ids

    @property
    def finished(self) -> bool:
        """Whether the text matches and nothing but an end token can follow."""
        return self._matcher.is_stopped() and not self._matcher.is_error()

    def masks(self, draft: Sequence[int] = ()) -> Masks:
        """The tokens allowed next, and after each token of a draft: `[len(draft) + 1, words]`. Nothing moves.

        Rows after a draft token that is not allowed, or that ends the text, allow every token: nobody keeps what is
        drawn there. Raises GenerationFailed where the grammar has become too costly or has run into a dead end.
        """
        masks = np.full((len(draft) + 1, self._words), ANY_TOKEN)
        followed = 0
        for row, token in zip(masks, (*draft, None), strict=True):
            self._matcher.unsafe_compute_mask_ptr(row.ctypes.data, row.nbytes)
            self._check()
            if not self._matcher.is_accepting():
                for end in self._end_ids:  # also one that has a text of its own, which it cannot be used to spell
                    row[end // 32] &= ~np.uint32(1 << end % 32)
            if token is None or token in self._end_ids or self._matcher.try_consume_tokens([token]) == 0:
                break
            followed += 1
        if followed:
            self._matcher.rollback(followed)
        self._check()
        return masks

    def explore(self, count: int) -> None:
        """Follow a text of up to `count` tokens, the first and the last that is allowed in turn.

        A few grammars become too costly only then: raises GenerationFailed as `masks` does.
        """
        for step in range(count):
            allowed = np.unpackbits(self.masks()[0].view(np.uint8), bitorder="little")
            allowed[[*self._end_ids]] = 0
            tokens = np.flatnonzero(allowed)
            if tokens.size == 0:
                return
            self.advance([int(tokens[-(step % 2)])])

    def advance(self, tokens: Sequence[int]) -> None:
        """Follow tokens that the answer now has. One that does not match makes the next `masks` fail."""
        self._matcher.consume_tokens([token for token in tokens if token not in self._end_ids])

    def _check(self) -> None:
        if self._matcher.is_error():
            raise GenerationFailed(f"the grammar cannot be followed any further: {_reason(self._matcher.get_error())}")


def _source(grammar: Grammar) -> str:
    """What llguidance compiles."""
    match grammar.kind:
        case "json":
            try:
                schema = enforceable(grammar.text)
                if (number := inexact_number(schema)) is not None:
                    raise InvalidRequest(f"grammar is not valid: {number} is not a number that JSON readers agree on")
                return llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=JSON_OPTIONS)
            except (ValueError, RecursionError) as error:
                raise InvalidRequest(f"grammar is not valid: a schema must be a JSON object ({error})") from None
        case "regex":
            return llguidance.LLMatcher.grammar_from_regex(grammar.text)
        case "lark":
            return llguidance.LLMatcher.grammar_from_lark(grammar.text)


DEAD_ENDS = {
    "NoExtensionBias": "no text matches it",
    "ParserTooComplex": "it is too complex",
    "LexerTooComplex": "it is too complex",
}
MAX_REASON = 500  # characters


def _reason(error: str) -> str:
    """What llguidance says, without what it adds for its own developers."""
    text = " ".join(error.split("<non-verbose/>")[0].split())
    return next((words for code, words in DEAD_ENDS.items() if text.startswith(code)), text[:MAX_REASON])
