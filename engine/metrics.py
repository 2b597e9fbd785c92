"""Prometheus metrics with TGI's names, byte for byte, and the text exposition that carries them.

The exposition (format 0.0.4) is written here because client libraries append `_total` and `_created`
to counters, and TGI's dashboards know neither. What the engine counts is read from its `EngineStats`
at each scrape; what the HTTP process sees is observed as it happens.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import accumulate, repeat
from operator import mul
from typing import TypeVar

from engine.types import EngineInfo, EngineStats

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

DURATION_BUCKETS = tuple(accumulate(repeat(1.5, 35), mul, initial=0.0001))[1:]  # 0.15 ms to 146 s
BATCH_SIZE_BUCKETS = tuple(float(size) for size in range(1, 1025))
FAILURES = ("overloaded", "validation", "generation", "incomplete", "template", "dropped")
EMBEDDING_FAILURES = ("overloaded", "validation", "batch_size", "generation", "dropped")
CONCAT_REASONS = ("backpressure", "wait_exceeded", "chunking")
METHODS = ("prefill", "decode")
QUANTILES = (0.0, 0.5, 0.9, 0.95, 0.99, 0.999, 1.0)
SUMMARY_WINDOW = 1024  # newest observations a summary's quantiles are taken from

M = TypeVar("M", bound="Metric")


class Metric:
    """A name with its help text and at most one label; the values lie in the subclasses, by label value.

    Values of the label that are `known` are exported from the start, so that rates have a beginning. A
    metric without a label has the one value "".
    """

    kind: str

    def __init__(self, name: str, help: str, label: str = "", known: Iterable[str] = ()) -> None:
        self.name = name
        self.help = help
        self.label = label
        self.known = tuple(known) if label else ("",)

    def samples(self) -> Iterator[str]:
        """The sample lines, without HELP and TYPE."""
        raise NotImplementedError

    def _sample(self, suffix: str, label_value: str, value: float, *extra: tuple[str, str]) -> str:
        pairs = [(self.label, label_value), *extra] if self.label else extra
        inside = ",".join(f'{name}="{_escape_label(text)}"' for name, text in pairs)
        labels = f"{{{inside}}}" if pairs else ""
        return f"{self.name}{suffix}{labels} {_number(value)}"


class Scalar(Metric):
    """One number."""

    def __init__(self, name: str, help: str, label: str = "", known: Iterable[str] = ()) -> None:
        super().__init__(name, help, label, known)
        self._values = dict.fromkeys(self.known, 0.0)

    def set(self, value: float, label_value: str = "") -> None:
        self._values[label_value] = value

    def inc(self, amount: float = 1.0, label_value: str = "") -> None:
        self._values[label_value] = self.value(label_value) + amount

    def value(self, label_value: str = "") -> float:
        return self._values.get(label_value, 0.0)

    def samples(self) -> Iterator[str]:
        for label_value, value in self._values.items():
            yield self._sample("", label_value, value)


class Counter(Scalar):
    """Only rises; an engine's own counters start again at 0 with a new engine process."""

    kind = "counter"


class Gauge(Scalar):
    kind = "gauge"


class Histogram(Metric):
    """Counts of observations at or below each bound. The bounds must rise; +Inf is implied."""

    kind = "histogram"

    def __init__(
        self, name: str, help: str, bounds: Iterable[float], label: str = "", known: Iterable[str] = ()
    ) -> None:
        super().__init__(name, help, label, known)
        self.bounds = tuple(bounds)
        self._bounds_text = (*map(_number, self.bounds), "+Inf")
        self._counts = {label_value: self._zeros() for label_value in self.known}
        self._sums = dict.fromkeys(self.known, 0.0)

    def _zeros(self) -> list[int]:
        return [0] * len(self._bounds_text)

    def observe(self, value: float, label_value: str = "") -> None:
        if label_value not in self._counts:
            self._counts[label_value], self._sums[label_value] = self._zeros(), 0.0
        self._counts[label_value][bisect_left(self.bounds, value)] += 1
        self._sums[label_value] += value

    def count(self, label_value: str = "") -> int:
        return sum(self._counts.get(label_value, ()))

    def samples(self) -> Iterator[str]:
        for label_value, counts in self._counts.items():
            cumulative = list(accumulate(counts))
            for bound, count in zip(self._bounds_text, cumulative, strict=True):
                yield self._sample("_bucket", label_value, count, ("le", bound))
            yield self._sample("_sum", label_value, self._sums[label_value])
            yield self._sample("_count", label_value, cumulative[-1])


class Summary(Metric):
    """Quantiles of the newest observations; sum and count of all of them."""

    kind = "summary"

    def __init__(self, name: str, help: str) -> None:
        super().__init__(name, help)
        self._window: deque[float] = deque(maxlen=SUMMARY_WINDOW)
        self._sum = 0.0
        self._count = 0

    def observe(self, value: float) -> None:
        self._window.append(value)
        self._sum += value
        self._count += 1

    def samples(self) -> Iterator[str]:
        ordered = sorted(self._window)
        for quantile in QUANTILES:
            value = ordered[round(quantile * (len(ordered) - 1))] if ordered else float("nan")
            yield self._sample("", "", value, ("quantile", _number(quantile)))
        yield self._sample("_sum", "", self._sum)
        yield self._sample("_count", "", self._count)


class Alias(Metric):
    """Another metric under the name that some dashboards know it by."""

    def __init__(self, name: str, metric: Metric) -> None:
        super().__init__(name, f"The same as {metric.name}", metric.label, metric.known)
        self.kind = metric.kind
        self._metric = metric

    def samples(self) -> Iterator[str]:
        for line in self._metric.samples():
            yield self.name + line.removeprefix(self._metric.name)


def _escape_label(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _escape_help(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _number(value: float) -> str:
    """A sample value: integers without a point, the rest as the shortest text that reads back equal."""
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) else repr(float(value))


def render(metrics: Iterable[Metric]) -> str:
    """The text exposition: HELP and TYPE once for each metric, then its samples."""
    lines: list[str] = []
    for metric in metrics:
        lines.append(f"# HELP {metric.name} {_escape_help(metric.help)}")
        lines.append(f"# TYPE {metric.name} {metric.kind}")
        lines.extend(metric.samples())
    return "\n".join(lines) + "\n"


class Metrics:
    """Every metric of a server. Attributes are the exported names without the `tgi_` prefix.

    `max_input_tokens` and `info.max_total_tokens` bound the linear buckets of the length histograms.
    """

    def __init__(self, info: EngineInfo, max_input_tokens: int, max_embed_tokens: int = 0) -> None:
        self._all: list[Metric] = []
        self._declare_requests(max_input_tokens, info.max_total_tokens)
        self._declare_batches()
        self._declare_engine()
        self._declare_embeddings(max_embed_tokens or info.max_embed_tokens)
        self.batch_max_total_tokens.set(info.num_blocks * info.block_size)
        self.kv_blocks_total.set(info.num_blocks)
        self._last_step = 0

    def _declare_requests(self, max_input_tokens: int, max_total_tokens: int) -> None:
        counter, duration, histogram = self._counter, self._duration, self._histogram
        input_lengths, total_lengths = _linear(max_input_tokens), _linear(max_total_tokens)
        self.request_count = counter("request_count", "Requests that ask for a generation")
        self.request_success = counter("request_success", "Requests answered in full")
        self.request_failure = counter("request_failure", "Requests that failed, by reason", "err", FAILURES)
        self.request_duration = duration("request_duration", "Seconds from arrival to the end of the answer")
        self._add(Alias("tgi_request_duration_seconds", self.request_duration))
        self.request_validation_duration = duration(
            "request_validation_duration", "Seconds to check, template and tokenize a request"
        )
        self.request_queue_duration = duration("request_queue_duration", "Seconds a request waited for its first step")
        self.request_inference_duration = duration(
            "request_inference_duration", "Seconds from a request's first step to its last token"
        )
        self.request_mean_time_per_token_duration = duration(
            "request_mean_time_per_token_duration", "Seconds of inference per generated token of a request"
        )
        self.request_first_token_duration = duration(
            "request_first_token_duration", "Seconds from arrival to the first token"
        )
        self.request_inter_token_duration = duration(
            "request_inter_token_duration", "Seconds between two steps that brought tokens to one request, per token"
        )
        self.request_input_length = histogram("request_input_length", "Prompt tokens of a request", input_lengths)
        self.request_generated_tokens = histogram("request_generated_tokens", "Tokens of an answer", total_lengths)
        self.request_max_new_tokens = histogram(
            "request_max_new_tokens", "Largest number of tokens an answer may have", total_lengths
        )
        self.request_skipped_tokens = self._add(
            Summary("tgi_request_skipped_tokens", "Draft tokens accepted in one step of one request")
        )

    def _declare_batches(self) -> None:
        counter, duration, gauge = self._counter, self._duration, self._gauge
        self.batch_next_size = self._histogram(
            "batch_next_size", "Requests running in steps that compute prompt tokens", BATCH_SIZE_BUCKETS
        )
        self.batch_current_size = gauge("batch_current_size", "Requests running")
        self._add(Alias("tgi_batch_size", self.batch_current_size))
        self.batch_current_max_tokens = gauge("batch_current_max_tokens", "Tokens the running requests may grow to")
        self.batch_max_total_tokens = gauge("batch_max_total_tokens", "Tokens the KV cache holds")
        self.queue_size = gauge("queue_size", "Requests waiting for their first step")
        self.batch_inference_count = counter("batch_inference_count", "Steps, by what they computed", "method", METHODS)
        self.batch_inference_success = counter("batch_inference_success", "Steps that succeeded", "method", METHODS)
        self.batch_inference_failure = counter("batch_inference_failure", "Steps that failed", "method", METHODS)
        self.batch_inference_duration = duration("batch_inference_duration", "Seconds of a step", "method", METHODS)
        self.batch_forward_duration = duration(
            "batch_forward_duration", "Seconds of a step in the runtime", "method", METHODS
        )
        self.batch_decode_duration = duration(
            "batch_decode_duration", "Seconds to turn tokens into text", "method", METHODS
        )
        self.batch_filter_duration = duration(
            "batch_filter_duration", "Unused: batches are never filtered", "method", METHODS
        )
        self.batch_concat_duration = duration(
            "batch_concat_duration", "Unused: batches are never joined", "method", METHODS
        )
        self.batch_concat = counter("batch_concat", "Unused: batches are never joined", "reason", CONCAT_REASONS)

    def _declare_engine(self) -> None:
        counter, gauge = self._counter, self._gauge
        self.kv_blocks_used = gauge("kv_blocks_used", "Blocks of the KV cache that requests hold")
        self.kv_blocks_total = gauge("kv_blocks_total", "Usable blocks of the KV cache")
        self.kv_usage = gauge("kv_usage", "Share of the KV cache that requests hold, 0 to 1")
        self.engine_steps = counter("engine_steps", "Steps of the engine")
        self.prompt_tokens = counter("prompt_tokens", "Prompt tokens computed or found in the prefix cache")
        self.generated_tokens = counter("generated_tokens", "Tokens generated")
        self.prefix_cache_hit_tokens = counter("prefix_cache_hit_tokens", "Prompt tokens found in the prefix cache")
        self.prefix_cache_hit_rate = gauge(
            "prefix_cache_hit_rate", "Share of all prompt tokens that were found in the prefix cache, 0 to 1"
        )
        self.preemptions = counter("preemptions", "Running requests put back in the queue to free blocks")
        self.draft_tokens = counter("draft_tokens", "Draft tokens verified")
        self.accepted_draft_tokens = counter("accepted_draft_tokens", "Draft tokens the model agreed with")

    def _declare_embeddings(self, max_embed_tokens: int) -> None:
        """Those of text-embeddings-inference."""
        methods = ("single", "batch")
        self.embed_count = self._add(
            Counter("te_request_count", "Requests for embeddings, of one text or of several", "method", methods)
        )
        self.embed_success = self._add(
            Counter("te_request_success", "Such requests answered in full", "method", methods)
        )
        self.embed_failure = self._add(
            Counter("te_request_failure", "Such requests that failed, by reason", "err", EMBEDDING_FAILURES)
        )
        self.embed_duration = self._embed_duration("duration", "from arrival to the answer")
        self.embed_tokenization_duration = self._embed_duration("tokenization_duration", "to check and tokenize")
        self.embed_queue_duration = self._embed_duration("queue_duration", "in the engine's queue")
        self.embed_inference_duration = self._embed_duration("inference_duration", "from there to the last vector")
        self.embed_input_length = self._add(
            Histogram("te_request_input_length", "Tokens of a text to embed", _linear(max(1, max_embed_tokens)))
        )
        self.embed_queue_size = self._add(Gauge("te_queue_size", "Requests waiting in the engine that embeds"))

    def observe_embedding(self, tokenization: float, queue: float, inference: float, lengths: Iterable[int]) -> None:
        """Record an answered request: seconds, and the tokens of its texts."""
        self.embed_tokenization_duration.observe(tokenization)
        self.embed_queue_duration.observe(queue)
        self.embed_inference_duration.observe(inference)
        for length in lengths:
            self.embed_input_length.observe(length)

    def observe_step(self, stats: EngineStats) -> None:
        """Record a step of the engine. A report without a new one, such as a heartbeat, changes nothing."""
        last, self._last_step = self._last_step, stats.steps
        if stats.steps in (0, last):  # 0: an engine that has just started, or is gone
            return
        method = "prefill" if stats.step_prefill else "decode"
        ended = self.batch_inference_failure if stats.step_failed else self.batch_inference_success
        self.batch_inference_count.inc(1, method)
        ended.inc(1, method)
        self.batch_inference_duration.observe(stats.step_seconds, method)
        self.batch_forward_duration.observe(stats.step_seconds, method)
        if stats.step_prefill:
            self.batch_next_size.observe(stats.step_size)

    def exposition(self, stats: EngineStats, embedding: EngineStats | None = None) -> str:
        """The page at `/metrics`. `embedding` is of the engine that embeds, where it is another one."""
        self.embed_queue_size.set((embedding or stats).waiting)
        self.queue_size.set(stats.waiting)
        self.batch_current_size.set(stats.running)
        self.batch_current_max_tokens.set(stats.batch_max_tokens)
        self.kv_blocks_used.set(stats.blocks_used)
        self.kv_usage.set(stats.blocks_used / max(1, self.kv_blocks_total.value()))
        self.engine_steps.set(stats.steps)
        self.prompt_tokens.set(stats.prompt_tokens)
        self.generated_tokens.set(stats.generated_tokens)
        self.prefix_cache_hit_tokens.set(stats.cached_tokens)
        self.prefix_cache_hit_rate.set(stats.cached_tokens / max(1, stats.prompt_tokens))
        self.preemptions.set(stats.preemptions)
        self.draft_tokens.set(stats.drafted_tokens)
        self.accepted_draft_tokens.set(stats.accepted_tokens)
        return render(self._all)

    def _add(self, metric: M) -> M:
        self._all.append(metric)
        return metric

    def _counter(self, name: str, help: str, label: str = "", known: Iterable[str] = ()) -> Counter:
        return self._add(Counter(f"tgi_{name}", help, label, known))

    def _embed_duration(self, name: str, what: str) -> Histogram:
        return self._add(Histogram(f"te_request_{name}", f"Seconds of such a request {what}", DURATION_BUCKETS))

    def _gauge(self, name: str, help: str) -> Gauge:
        return self._add(Gauge(f"tgi_{name}", help))

    def _duration(self, name: str, help: str, label: str = "", known: Iterable[str] = ()) -> Histogram:
        return self._add(Histogram(f"tgi_{name}", help, DURATION_BUCKETS, label, known))

    def _histogram(self, name: str, help: str, bounds: tuple[float, ...]) -> Histogram:
        return self._add(Histogram(f"tgi_{name}", help, bounds))


def _linear(largest: int) -> tuple[float, ...]:
    """A hundred equal steps up to `largest`."""
    return tuple(largest / 100 * step for step in range(1, 101))
