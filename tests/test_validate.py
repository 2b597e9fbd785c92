import math

import pytest

from engine.errors import InvalidRequest
from engine.types import SamplingParams
from engine.validate import check

VOCAB = 100

REFUSED = [
    ("temperature", (-1.0, -1e-300), "`temperature` must be strictly positive"),
    ("repetition_penalty", (0.0, -1.0), "`repetition_penalty` must be strictly positive"),
    ("frequency_penalty", (-2.01, 2.01), "`frequency_penalty` must be >= -2.0 and <= 2.0"),
    ("presence_penalty", (-2.01, 2.01), "`presence_penalty` must be >= -2.0 and <= 2.0"),
    ("top_p", (0.0, -0.1, 1.01), "`top_p` must be > 0.0 and < 1.0"),
    ("typical_p", (0.0, -0.1, 1.01), "`typical_p` must be > 0.0 and < 1.0"),
    ("min_p", (-0.01, 1.01), "`min_p` must be >= 0.0 and <= 1.0"),
    ("top_k", (-1,), "`top_k` must be strictly positive"),
    ("max_new_tokens", (0, -5), "`max_new_tokens` must be strictly positive"),
    ("top_n_tokens", (-1, VOCAB + 1), "`top_n_tokens` must be >= 0 and <= 100. Given: "),
    ("seed", (-1, 2**64), "`seed` must be >= 0 and < 2**64. Given: "),
    ("logit_bias", (((VOCAB, 1.0),), ((-1, 1.0),)), "`logit_bias` must hold token ids >= 0 and < 100. Given: "),
    ("stop_token_ids", ((3, VOCAB), (-1,)), "`stop_token_ids` must hold token ids >= 0 and < 100. Given: "),
]
FLOATS = ["temperature", "repetition_penalty", "frequency_penalty", "presence_penalty", "top_p", "typical_p", "min_p"]
NOT_FINITE = [math.nan, math.inf, -math.inf]


@pytest.mark.parametrize(("name", "value", "message"), [(n, v, m) for n, values, m in REFUSED for v in values])
def test_out_of_range(name: str, value: object, message: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check(SamplingParams(**{name: value}), VOCAB)
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("name", FLOATS)
def test_no_number_but_a_finite_one(name: str, value: float) -> None:
    with pytest.raises(InvalidRequest, match=f"`{name}` must be"):
        check(SamplingParams(**{name: value}), VOCAB)


@pytest.mark.parametrize("value", NOT_FINITE)
def test_no_bias_but_a_finite_one(value: float) -> None:
    with pytest.raises(InvalidRequest, match=r"`logit_bias` must be a finite number. Given: .* for token id 3"):
        check(SamplingParams(logit_bias=((2, 1.0), (3, value))), VOCAB)


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(),
        SamplingParams(temperature=1e-6, top_p=1.0, typical_p=1e-6, min_p=1.0, top_k=10**6, seed=2**64 - 1),
        SamplingParams(frequency_penalty=-2.0, presence_penalty=2.0, repetition_penalty=1e-3, max_new_tokens=1, seed=0),
        SamplingParams(logit_bias=((0, -100.0), (VOCAB - 1, 100.0)), stop_token_ids=(0, VOCAB - 1), top_n_tokens=VOCAB),
    ],
)
def test_the_edges_are_accepted(params: SamplingParams) -> None:
    check(params, VOCAB)
