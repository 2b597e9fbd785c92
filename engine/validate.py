"""The ranges of `SamplingParams`, checked once more where a request enters the engine.

The server refuses bad values first; this is for callers that do not pass through it. The messages are TGI's where TGI
has one. Ranges are written as `not (low <= x <= high)`, which refuses
NaN as well.
"""

from math import inf

from engine.errors import InvalidRequest
from engine.types import SamplingParams


def check(params: SamplingParams, vocab_size: int) -> None:
    """Raise InvalidRequest for the first value that is out of range. `0 < x < inf` also refuses infinity."""
    _check_ranges(params)
    if params.max_new_tokens < 1:
        raise InvalidRequest("`max_new_tokens` must be strictly positive")
    if not 0 <= params.top_n_tokens <= vocab_size:
        raise InvalidRequest(f"`top_n_tokens` must be >= 0 and <= {vocab_size}. Given: {params.top_n_tokens}")
    if params.seed is not None and not 0 <= params.seed < 2**64:
        raise InvalidRequest(f"`seed` must be >= 0 and < 2**64. Given: {params.seed}")
    for token, bias in params.logit_bias:
        _check_token("logit_bias", token, vocab_size)
        if not -inf < bias < inf:
            raise InvalidRequest(f"`logit_bias` must be a finite number. Given: {bias} for token id {token}")
    for token in params.stop_token_ids:
        _check_token("stop_token_ids", token, vocab_size)


def _check_ranges(params: SamplingParams) -> None:
    """The numbers that shape the distribution, in TGI's order. 0 (greedy) and 1 (off) are this engine's own."""
    if not 0 <= params.temperature < inf:
        raise InvalidRequest("`temperature` must be strictly positive")
    if not 0 < params.repetition_penalty < inf:
        raise InvalidRequest("`repetition_penalty` must be strictly positive")
    if not -2 <= params.frequency_penalty <= 2:
        raise InvalidRequest("`frequency_penalty` must be >= -2.0 and <= 2.0")
    if not -2 <= params.presence_penalty <= 2:
        raise InvalidRequest("`presence_penalty` must be >= -2.0 and <= 2.0")
    if not 0 < params.top_p <= 1:
        raise InvalidRequest("`top_p` must be > 0.0 and < 1.0")
    if not 0 < params.typical_p <= 1:
        raise InvalidRequest("`typical_p` must be > 0.0 and < 1.0")
    if not 0 <= params.min_p <= 1:
        raise InvalidRequest("`min_p` must be >= 0.0 and <= 1.0")
    if params.top_k < 0:
        raise InvalidRequest("`top_k` must be strictly positive")


def _check_token(name: str, token: int, vocab_size: int) -> None:
    if not 0 <= token < vocab_size:
        raise InvalidRequest(f"`{name}` must hold token ids >= 0 and < {vocab_size}. Given: {token}")
