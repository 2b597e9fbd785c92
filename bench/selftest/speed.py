"""How much the client can take: processor time for an event, events per second, streams, and sending on time."""

import numpy as np

from bench.load.arrivals import Load
from bench.mock import Behaviour
from bench.selftest.check import Check
from bench.selftest.rig import Exchange, exchange

STREAMS = 2000


def cpu_per_event(quick: bool) -> list[Check]:
    """The difference between a long and a short run, so that what does not depend on events falls out."""
    streams, short = 500, 20
    long = 120 if quick else 300

    def run(tokens: int) -> Exchange:
        behaviour = Behaviour(ttft_ms=500, itl_ms=20)
        return exchange(behaviour, Load(concurrency=streams, requests=streams), requests=streams, output_tokens=tokens)

    little, much = run(short), run(long)
    events = much.events - little.events
    receiving = (much.receiving_s - little.receiving_s) / events * 1e6
    parsing = (much.parsing_s - little.parsing_s) / events * 1e6
    return [
        Check(
            name="client CPU per event, with parsing",
            figure=receiving + parsing,
            unit="us",
            high=12,
            note=f"{streams} streams of 50 tokens/s; receiving {receiving:.1f}, parsing {parsing:.1f}",
        )
    ]


def throughput(quick: bool) -> list[Check]:
    """The mock sends as fast as it can; the socket buffers hold it back to what the client takes."""
    streams = 64
    load = Load(concurrency=streams, requests=streams)
    behaviour = Behaviour(ttft_ms=500, itl_ms=0)
    run = exchange(behaviour, load, requests=streams, output_tokens=1000 if quick else 4000)
    taken = [read.user_ns for pair in run.pairs for read in pair.raw.reads[1:]]
    seconds = (max(taken) - min(taken)) / 1e9
    note = f"{run.events:,} events in {len(taken):,} reads"
    return [
        Check(name="events per second and worker", figure=run.events / seconds, unit="events/s", low=60_000, note=note)
    ]


def many_streams(quick: bool) -> list[Check]:
    behaviour = Behaviour(ttft_ms=1500, itl_ms=200)
    load = Load(concurrency=STREAMS, requests=STREAMS)
    run = exchange(behaviour, load, requests=STREAMS, output_tokens=10 if quick else 40)
    changes = sorted(change for pair in run.pairs for change in ((pair.raw.sent_ns, 1), (pair.raw.ended_ns, -1)))
    at_once = int(np.cumsum([step for _, step in changes]).max())
    late = np.quantile(run.stamp_errors(), 0.99)
    note = f"{STREAMS / 0.2:,.0f} events/s; stamp error p99 {late * 1e6:.0f} us"
    return [Check(name="streams at once in one worker, all complete", figure=at_once, low=STREAMS, note=note)]


def schedule(quick: bool) -> list[Check]:
    rate, seconds = 1000, 2 if quick else 8
    load = Load(rate=rate, arrival="constant", requests=rate * seconds)
    run = exchange(Behaviour(ttft_ms=5), load, requests=rate * seconds, output_tokens=1)
    late = [(pair.raw.sent_ns - pair.raw.scheduled_ns) / 1e6 for pair in run.pairs]
    name = f"sends behind the schedule at {rate:,} requests/s, p99"
    return [Check(name=name, figure=float(np.quantile(late, 0.99)), unit="ms", high=1)]
