"""What a request may ask for: a permit to run, and values within TGI's ranges, refused with TGI's messages.

The order of the checks is TGI's too, because clients see only the first that fails. Ranges are written as
`not (low <= value <= high)`, so that no number slips through by comparing false with everything.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from engine.config import ServerOptions
from engine.errors import InvalidRequest, Overloaded
from engine.server.schema.common import Stop
from engine.server.schema.tgi import GenerateParameters

MAX_STOP_LENGTH = 1024  # characters of one stop sequence
SMALLEST_FLOAT32 = 2.0**-149  # TGI reads parameters as float32, where anything less is zero


class Permits:
    """As many requests at once as the server was told; nobody waits for a permit."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.used = 0

    @contextmanager
    def hold(self, count: int = 1) -> Iterator[None]:
        """Take `count` permits for the length of a `with` block. Raises Overloaded when too few are free."""
        if self.used + count > self.total:
            raise Overloaded(f"{self.used} of {self.total} requests are running and {count} more were asked for")
        self.used += count
        try:
            yield
        finally:
            self.used -= count


def stop_sequences(stop: Stop) -> tuple[str, ...]:
    return (stop,) if isinstance(stop, str) else tuple(stop or ())


def check_best_of(best_of: int | None, options: ServerOptions) -> int:
    """The number of candidates, checked before a permit is taken."""
    if best_of is None or best_of <= 1:
        return 1
    if options.max_best_of == 1:
        raise InvalidRequest("`best_of` != 1 is not allowed for this endpoint")
    if best_of > options.max_best_of:
        raise InvalidRequest(f"`best_of` must be > 0 and <= {options.max_best_of}. Given: {best_of}")
    return best_of


def check_stream(parameters: GenerateParameters) -> None:
    """What TGI does not do while streaming."""
    if parameters.best_of not in (None, 1):
        raise InvalidRequest("`best_of` != 1 is not supported when streaming tokens")
    if parameters.decoder_input_details:
        raise InvalidRequest("`decoder_input_details` == true is not supported when streaming tokens")


def check_parameters(parameters: GenerateParameters, options: ServerOptions) -> None:
    """The checks that come before those of the text."""
    best_of = parameters.best_of or 1
    if best_of > 1 and not asks_for_sampling(parameters):
        raise InvalidRequest("you must use sampling when `best_of` is > 1")
    _check_ranges(parameters, options)
    if parameters.max_new_tokens == 0:
        raise InvalidRequest("`max_new_tokens` must be strictly positive")
    stop = stop_sequences(parameters.stop)
    if len(stop) > options.max_stop_sequences:
        raise InvalidRequest(f"`stop` supports up to {options.max_stop_sequences} stop sequences. Given: {len(stop)}")
    if not all(0 < len(text) <= MAX_STOP_LENGTH for text in stop):
        raise InvalidRequest(f"`stop` sequences must have 1 to {MAX_STOP_LENGTH} characters")
    if best_of > 1 and parameters.seed is not None:
        raise InvalidRequest("`seed` must not be set when `best_of` > 1")
    top_n_tokens = parameters.top_n_tokens or 0
    if top_n_tokens > options.max_top_n_tokens:
        raise InvalidRequest(f"`top_n_tokens` must be >= 0 and <= {options.max_top_n_tokens}. Given: {top_n_tokens}")


def asks_for_sampling(parameters: GenerateParameters) -> bool:
    """Whether a parameter that only sampling knows was given, be it with the value that means off."""
    given = (parameters.temperature, parameters.top_k, parameters.top_p, parameters.typical_p, parameters.min_p)
    return bool(parameters.do_sample) or any(value is not None for value in given)


def samples(parameters: GenerateParameters) -> bool:
    """Whether tokens are drawn rather than the best one taken: asked for, or a filter takes effect."""
    return bool(
        parameters.do_sample
        or _or(parameters.temperature, 1.0) != 1.0
        or parameters.top_k
        or _or(parameters.top_p, 1.0) < 1.0
        or _or(parameters.typical_p, 1.0) < 1.0
        or parameters.min_p
    )


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def check_choices(n: int | None, options: ServerOptions) -> int:
    """How many answers each prompt gets on OpenAI's routes."""
    choices = 1 if n is None else n
    if not 1 <= choices <= options.max_n:
        raise InvalidRequest(f"`n` must be >= 1 and <= {options.max_n}. Given: {choices}")
    return choices


def _check_ranges(parameters: GenerateParameters, options: ServerOptions) -> None:
    for name in ("temperature", "repetition_penalty"):
        if not _or(getattr(parameters, name), 1.0) >= SMALLEST_FLOAT32:
            raise InvalidRequest(f"`{name}` must be strictly positive")
    for name in ("frequency_penalty", "presence_penalty"):
        if not -2.0 <= _or(getattr(parameters, name), 0.0) <= 2.0:
            raise InvalidRequest(f"`{name}` must be >= -2.0 and <= 2.0")
    check_filters(parameters, as_tgi=options.strict)


def check_filters(parameters: GenerateParameters, *, as_tgi: bool = False) -> None:
    """The ranges of what only a request that samples heeds."""
    # 1.0 means off; TGI refuses it, which breaks clients that send their defaults.
    for name in ("top_p", "typical_p"):
        value = getattr(parameters, name)
        if value is not None and not (0.0 < value < 1.0 or (value == 1.0 and not as_tgi)):
            raise InvalidRequest(f"`{name}` must be > 0.0 and < 1.0")
    if parameters.top_k is not None and parameters.top_k <= 0:
        raise InvalidRequest("`top_k` must be strictly positive")
    if not 0.0 <= _or(parameters.min_p, 0.0) <= 1.0:
        raise InvalidRequest("`min_p` must be >= 0.0 and <= 1.0")


def check_truncate(truncate: int | None, max_input_tokens: int) -> None:
    if truncate is not None and not 0 < truncate <= max_input_tokens:
        raise InvalidRequest(
            f"`truncate` must be strictly positive and less than {max_input_tokens}. Given: {truncate}"
        )


def check_lengths(inputs: int, max_new_tokens: int | None, max_input_tokens: int, max_total_tokens: int) -> int:
    """The number of tokens the answer may have: what was asked for, or all that fits behind the prompt."""
    if max_new_tokens is not None and inputs + max_new_tokens > max_total_tokens:
        raise InvalidRequest(
            f"`inputs` tokens + `max_new_tokens` must be <= {max_total_tokens}. "
            f"Given: {inputs} `inputs` tokens and {max_new_tokens} `max_new_tokens`"
        )
    if inputs > max_input_tokens:
        raise InvalidRequest(f"`inputs` must have less than {max_input_tokens} tokens. Given: {inputs}")
    return max_total_tokens - inputs if max_new_tokens is None else max_new_tokens


def check_prompt_ids(ids: tuple[int, ...], vocab_size: int) -> None:
    if not ids:
        raise InvalidRequest("`inputs` cannot be empty")
    if max(ids) >= vocab_size:
        raise InvalidRequest(f"token ids must be < {vocab_size}. Given: {max(ids)}")


def check_unsupported(parameters: GenerateParameters) -> None:
    """What this version cannot do is refused, never ignored."""
    if parameters.watermark:
        raise InvalidRequest("`watermark` is not supported")
    if parameters.adapter_id is not None:
        raise InvalidRequest("`adapter_id` names an adapter that is not loaded; leave it out to use the base model")


def check_logit_bias(bias: Mapping[str, float] | None, vocab_size: int) -> tuple[tuple[int, float], ...]:
    """OpenAI's map from token ids, written as text, to what is added to their logits."""
    pairs = []
    for key, value in (bias or {}).items():
        if not (key.isascii() and key.isdecimal() and len(key) <= 10 and int(key) < vocab_size):
            raise InvalidRequest(f"`logit_bias` keys must be token ids < {vocab_size}. Given: {key[:32]}")
        if not -100.0 <= value <= 100.0:
            raise InvalidRequest(f"`logit_bias` values must be >= -100 and <= 100. Given: {value}")
        pairs.append((int(key), value))
    return tuple(pairs)
