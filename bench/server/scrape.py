"""The server's own numbers: its Prometheus page in one schema, whatever its dialect.

TGI and ours   tgi_*          vLLM   vllm:*
SGLang         sglang:*       llama.cpp   llamacpp:*
"""

import contextlib
import http.client
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from urllib.parse import urlsplit

from bench.types import Sample

SAMPLE = re.compile(rb"^([a-zA-Z_:][\w:]*)(?:\{[^}]*\})?[ \t]+([^ \t\n]+)", re.MULTILINE)
TIMEOUT_SECONDS = 5.0
STOP_AFTER = 3  # a server that answered nothing useful this often has no metrics

# Field of Sample -> names that mean it; the values of a name with several labels are added.
NAMES: dict[str, tuple[str, ...]] = {
    "running": (
        "tgi_batch_current_size",
        "vllm:num_requests_running",
        "sglang:num_running_reqs",
        "llamacpp:requests_processing",
    ),
    "waiting": (
        "tgi_queue_size",
        "vllm:num_requests_waiting",
        "sglang:num_queue_reqs",
        "llamacpp:requests_deferred",
    ),
    "kv_used": (
        "vllm:kv_cache_usage_perc",
        "vllm:gpu_cache_usage_perc",
        "sglang:token_usage",
        "llamacpp:kv_cache_usage_ratio",
    ),
    "prompt_tokens": (
        "tgi_prompt_tokens",
        "tgi_request_input_length_sum",
        "vllm:prompt_tokens_total",
        "sglang:prompt_tokens_total",
        "llamacpp:prompt_tokens_total",
    ),
    "generated_tokens": (
        "tgi_generated_tokens",
        "tgi_request_generated_tokens_sum",
        "vllm:generation_tokens_total",
        "sglang:generation_tokens_total",
        "llamacpp:tokens_predicted_total",
    ),
    "prefix_hits": (
        "tgi_prefix_cache_hit_tokens",
        "vllm:prefix_cache_hits_total",
        "vllm:gpu_prefix_cache_hits_total",
        "sglang:cached_tokens_total",
    ),
    "prefix_queries": (
        "vllm:prefix_cache_queries_total",
        "vllm:gpu_prefix_cache_queries_total",
    ),
    "requests": ("tgi_request_success", "vllm:request_success_total", "sglang:num_requests_total"),
    "preemptions": ("tgi_preemptions", "vllm:num_preemptions_total"),
}


def totals(page: bytes) -> dict[str, float]:
    """The values of a text exposition by metric name, added over their labels. Buckets are left out."""
    found: dict[str, float] = {}
    for name, text in SAMPLE.findall(page):
        if name.endswith(b"_bucket"):
            continue
        with contextlib.suppress(ValueError):
            key = name.decode()
            found[key] = found.get(key, 0.0) + float(text)
    return found


def sample(page: bytes, at_ns: int) -> Sample | None:
    """The page in our schema; None where it has nothing of it."""
    values = totals(page)
    fields = {field: _first(values, names) for field, names in NAMES.items()}
    used, total = values.get("tgi_kv_blocks_used"), values.get("tgi_kv_blocks_total")
    if used is not None and total:
        fields["kv_used"] = used / total
    if fields["prefix_queries"] is None and fields["prefix_hits"] is not None:
        fields["prefix_queries"] = fields["prompt_tokens"]  # these servers look every prompt token up
    if all(value is None for value in fields.values()):
        return None
    return Sample(at_ns=at_ns, **fields)


def _first(values: Mapping[str, float], names: Iterable[str]) -> float | None:
    return next((values[name] for name in names if name in values), None)


class Scraper:
    """Reads /metrics every `interval` seconds in a thread, on a connection of its own.

    `extra` adds what else is known at that moment (CPU, memory, GPU). A server without metrics is asked a few times
    and then left alone; samples then hold only the extra values.
    """

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str] | None = None,
        *,
        interval: float = 0.5,
        extra: Callable[[], Mapping[str, float | None]] | None = None,
    ) -> None:
        self.samples: list[Sample] = []
        self._url, self._headers = urlsplit(url), dict(headers or {})
        self._interval, self._extra = interval, extra
        self._failures = 0
        self._connection: http.client.HTTPConnection | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)

    def __enter__(self) -> "Scraper":
        self.take()  # before the load, so that differences have a beginning
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stopped.set()
        self._thread.join()
        self.take()
        if self._connection is not None:
            self._connection.close()

    def take(self) -> None:
        """Take one sample now."""
        found = self._scrape() if self._failures < STOP_AFTER else None
        extra = dict(self._extra()) if self._extra else {}
        if found is None:
            self._failures += 1
            if not any(value is not None for value in extra.values()):
                return
            found = Sample(at_ns=time.monotonic_ns())
        else:
            self._failures = 0
        for name, value in extra.items():
            setattr(found, name, value)
        self.samples.append(found)

    def _run(self) -> None:
        while not self._stopped.wait(self._interval):
            self.take()

    def _scrape(self) -> Sample | None:
        try:
            if self._connection is None:
                self._connection = self._connect()
            self._connection.request("GET", f"{self._url.path.rstrip('/')}/metrics", headers=self._headers)
            at_ns = time.monotonic_ns()
            response = self._connection.getresponse()
            page = response.read()
        except (OSError, http.client.HTTPException):
            if self._connection is not None:
                self._connection.close()
            self._connection = None
            return None
        return sample(page, at_ns) if response.status == http.client.OK else None

    def _connect(self) -> http.client.HTTPConnection:
        host = self._url.hostname or "127.0.0.1"
        if self._url.scheme == "https":
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(host, self._url.port, timeout=TIMEOUT_SECONDS, context=context)
        return http.client.HTTPConnection(host, self._url.port, timeout=TIMEOUT_SECONDS)
