"""The figures of a summary as people read them: three digits and a unit, or how many samples are missing."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from bench.stats.paired import Judgement
from bench.types import ONE_PER_EVENT, TokenSource

LATENCIES = (
    ("ttft", "TTFT", "from the send to the first token"),
    ("ttft_sched", "TTFT from schedule", "from the planned start to the first token"),
    ("ttfo", "TTFO", "from the send to the first token that is not reasoning"),
    ("tpot", "TPOT", "time per output token after the first"),
    ("itl", "ITL", "gap between tokens"),
    ("icl", "ICL", "gap between events, what a user sees"),
    ("e2el", "E2E", "from the send to the last token"),
    ("e2el_sched", "E2E from schedule", "from the planned start to the last token"),
    ("ntpot", "NTPOT", "end to end, divided by the tokens"),
    ("max_stall", "Longest stall", "the largest gap of each request"),
    ("queue", "Queue", "as the server says"),
)
LOST = (("failed", "failed"), ("cancelled", "cancelled"), ("never_sent", "never sent"))
PER_TOKEN = ("tpot", "itl", "ntpot")  # which a wrong count makes wrong
STATISTICS = ("mean", "p50", "p90", "p95", "p99")
NONE = "n/a"


class Figure(NamedTuple):
    """One figure with its name. `note` says what it is short of, or how it was counted."""

    name: str
    value: str
    unit: str = ""
    note: str = ""


def number(value: Any) -> str:
    """Three significant digits, thousands apart: 0.0123, 4.56, 78.9, 123, 45,678."""
    if value is None or isinstance(value, str | bool) or math.isnan(value):
        return NONE
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    decimals = 2 - math.floor(math.log10(abs(value)))
    return f"{round(value, decimals):,.{max(0, decimals)}f}"


def figure(summary: Mapping[str, Any], key: str) -> str:
    """The number under a key, or 'n/a, need N' where it rests on too few samples."""
    if summary.get(f"{key}_reliable") is False:
        needs = summary.get(f"{key}_needs")
        return f"{NONE}, need {number(needs)}" if needs else NONE
    return number(summary.get(key))


def milliseconds(summary: Mapping[str, Any], metric: str, statistic: str) -> str:
    text = figure(summary, f"{statistic}_{metric}_ms")
    return text if text.startswith(NONE) else f"{text} ms"


def headline(summary: Mapping[str, Any]) -> list[Figure]:
    """What a reader looks for first."""
    figures = [_output(summary), Figure("Requests", figure(summary, "request_throughput"), "1/s")]
    open_loop = isinstance(summary.get("request_rate"), int | float)
    ttft = ("ttft_sched", "TTFT from schedule") if open_loop else ("ttft", "TTFT")
    for metric, name in (ttft, ("tpot", "TPOT"), ("e2el", "E2E")):
        value = figure(summary, f"p50_{metric}_ms")
        note = f"p99 {milliseconds(summary, metric, 'p99')}"
        if metric in PER_TOKEN and token_note(summary) == ONE_PER_EVENT:
            note += f", {ONE_PER_EVENT}"
        figures.append(Figure(f"{name} p50", value, "" if value.startswith(NONE) else "ms", note))
    if summary.get("request_goodput") is not None:
        share = summary.get("goodput_share")
        note = f"{number(100 * share)} % met the SLO" if share is not None else "that met the SLO"
        figures.append(Figure("Goodput", figure(summary, "request_goodput"), "1/s", note))
    lost = {name: summary.get(key) or 0 for key, name in LOST}
    note = ", ".join(f"{number(count)} {name}" for name, count in lost.items() if count) or "none failed"
    figures.append(Figure("Completed", number(summary.get("completed") or 0), "", note))
    return figures


def token_note(summary: Mapping[str, Any]) -> str:
    """How the figures of tokens are to be taken; nothing where the server counted every event."""
    if TokenSource.EVENTS in (summary.get("token_sources") or ()):
        return ONE_PER_EVENT
    return "estimated" if summary.get("token_source_estimated") else ""


def _output(summary: Mapping[str, Any]) -> Figure:
    """Throughput in the steady window where there is one, and of the whole run beside it."""
    notes = [note] if (note := token_note(summary)) else []
    if summary.get("steady_window_s"):
        notes.append(f"whole run {figure(summary, 'output_throughput')}")
        return Figure("Output", figure(summary, "steady_output_throughput"), "tokens/s", ", ".join(notes))
    return Figure("Output", figure(summary, "output_throughput"), "tokens/s", ", ".join(notes))


def latency_rows(summary: Mapping[str, Any]) -> list[tuple[str, str, list[str]]]:
    """(name, meaning, a text for each of STATISTICS) of every latency the summary knows, in milliseconds."""
    rows = []
    by_event = token_note(summary) == ONE_PER_EVENT
    for key, title, meaning in LATENCIES:
        name = f"{title}, estimated" if by_event and key in PER_TOKEN else title
        if any(summary.get(f"{statistic}_{key}_ms") is not None for statistic in STATISTICS):
            rows.append((name, meaning, [figure(summary, f"{statistic}_{key}_ms") for statistic in STATISTICS]))
        if summary.get("failed") and f"adjusted_p50_{key}_ms" in summary:
            keys = [f"adjusted_{statistic}_{key}_ms" for statistic in STATISTICS]
            values = [_infinite(summary[one]) if one in summary else "" for one in keys]
            rows.append((f"{name}, adjusted", "what failed counts as infinite", values))
    return rows


def _infinite(value: float | None) -> str:
    """JSON has no infinity: an adjusted percentile that is null fell among the failures."""
    return "∞" if value is None else number(value)


def load_label(load: Mapping[str, Any]) -> str:
    """A load in a few words: '64 concurrent', '50 requests/s, poisson'."""
    if load.get("trace"):
        return "a replayed trace"
    if load.get("rate") is not None:
        return ", ".join([f"{load['rate']:.6g} requests/s", *([load["arrival"]] if load.get("arrival") else [])])
    if load.get("concurrency") is not None:
        return f"{load['concurrency']:,} concurrent"
    return "all at once"


def load_value(load: Mapping[str, Any]) -> float | None:
    """The place of a load on an axis: its rate, or its concurrency."""
    value = load.get("rate") if load.get("rate") is not None else load.get("concurrency")
    return None if value is None else float(value)


NAMES = {"output_throughput": "Output, tokens/s", "request_throughput": "Requests/s", "request_goodput": "Goodput, 1/s"}


def metric_name(key: str) -> str:
    """`p99_ttft_ms` as people say it: TTFT p99, ms."""
    if key in NAMES:
        return NAMES[key]
    statistic, _, rest = key.partition("_")
    if rest.endswith("_ms"):
        known = {name: title for name, title, _ in LATENCIES}
        metric = rest.removesuffix("_ms")
        return f"{known.get(metric, metric)} {statistic}, ms"
    return key.replace("_", " ")


def change(relative: float) -> str:
    """A relative change: 0.1 is +10.0 %."""
    return f"{100 * relative:+.1f} %"


def interval(judgement: Judgement) -> str:
    """The bounds of a change; one pair has none."""
    if math.isinf(judgement.high):
        return "needs 2 pairs"
    return f"{change(judgement.low)} to {change(judgement.high)}"


def outcome(judgement: Judgement) -> str:
    more = f", {judgement.more_pairs} more pairs" if judgement.more_pairs else ""
    return judgement.verdict.value + more
