"""Whether the times that the client reports are those at which the mock sent."""

from collections.abc import Sequence

import numpy as np

from bench.load.arrivals import Load
from bench.metrics import request_metrics
from bench.mock import Behaviour, Stall
from bench.selftest.check import Check
from bench.selftest.rig import Exchange, Pair, exchange

STALL_S = 5.0
STALL_TTFT_MS = 20.0


def stamps(quick: bool) -> list[Check]:
    streams = 64
    load = Load(concurrency=streams, requests=streams)
    run = exchange(Behaviour(ttft_ms=100, itl_ms=20), load, requests=streams, output_tokens=100 if quick else 400)
    errors = run.stamp_errors() * 1e6
    late = max((pair.record.user_lag_ns for pair in run.pairs), default=0) / 1e6
    note = f"{run.events:,} events; the client itself read up to {late:.1f} ms late"
    name = f"error of the stamps at {streams} streams"
    return [
        Check(name=f"{name}, p50", figure=float(np.quantile(errors, 0.5)), unit="us", high=30, note=note),
        Check(name=f"{name}, p99", figure=float(np.quantile(errors, 0.99)), unit="us", high=200),
    ]


def means(quick: bool) -> list[Check]:
    streams, tokens = 500, 60 if quick else 200
    load = Load(concurrency=streams, requests=streams)
    run = exchange(Behaviour(ttft_ms=100, itl_ms=20), load, requests=streams, output_tokens=tokens)
    metrics = [request_metrics(pair.record) for pair in run.pairs]
    found = {
        "TTFT": ([one.ttft for one in metrics], [_true_ttft(pair) for pair in run.pairs]),
        "TPOT": ([one.tpot for one in metrics], [_true_tpot(pair) for pair in run.pairs]),
    }
    checks = []
    for name, (ours, theirs) in found.items():
        client, truth = float(np.mean(np.array(ours, float))), float(np.mean(theirs))
        checks.append(
            Check(
                name=f"error of the mean {name}, {streams} streams of 50 tokens/s",
                figure=abs(client / truth - 1) * 100,
                unit="%",
                high=1,
                note=f"{client * 1e3:.3f} ms, in truth {truth * 1e3:.3f}",
            )
        )
    return checks


def _true_ttft(pair: Pair) -> float:
    return (pair.truth.sent_ns[0] - pair.raw.sent_ns) / 1e9


def _true_tpot(pair: Pair) -> float:
    sent = pair.truth.sent_ns
    return (sent[-1] - sent[0]) / 1e9 / (len(sent) - 1)


def stall(quick: bool) -> list[Check]:
    """Coordinated omission: requests due while the server is frozen must be charged for the time it was."""
    rate, seconds = 40, 9 if quick else 20
    load = Load(rate=rate, arrival="constant", requests=rate * seconds)
    behaviour = Behaviour(ttft_ms=STALL_TTFT_MS, itl_ms=5, stalls=(Stall(2.0, STALL_S),))
    run = exchange(behaviour, load, requests=rate * seconds, output_tokens=4)
    client = _p99([_from_schedule(pair) for pair in run.pairs])
    truth = _p99([(pair.truth.sent_ns[0] - pair.raw.scheduled_ns) / 1e9 for pair in run.pairs])
    should = _p99(_computed(run))
    name = f"a stall of {STALL_S:g} s in the p99 of TTFT from schedule"
    return [
        Check(
            name=f"{name}, against the mock's stamps",
            figure=abs(client - truth) * 1e3,
            unit="ms",
            high=1,
            note=f"{client:.4f} s, in truth {truth:.4f} s",
        ),
        Check(
            name=f"{name}, against the arithmetic",
            figure=abs(client / should - 1) * 100,
            unit="%",
            high=1,
            note=f"computed {should:.4f} s",
        ),
    ]


def _from_schedule(pair: Pair) -> float:
    found = request_metrics(pair.record).ttft_sched
    assert found is not None
    return found


def _computed(run: Exchange) -> list[float]:
    """TTFT from schedule by arithmetic alone: the TTFT, and for as long as it overlaps with the stall, that."""
    ((begin, end),) = run.truth.stalls
    ttft = round(STALL_TTFT_MS * 1e6)
    times = []
    for pair in run.pairs:
        due = pair.raw.scheduled_ns
        left = max(0, end - max(due, begin)) if due + ttft > begin else 0
        times.append((ttft + left) / 1e9)
    return times


def _p99(values: Sequence[float]) -> float:
    return float(np.quantile(values, 0.99))
