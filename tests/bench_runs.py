"""Runs that were never run: records as a busy server would give them, from a seed, to make reports of."""

import random
from pathlib import Path

from bench.load.arrivals import Load
from bench.metrics import Slo
from bench.report.manifest import collect
from bench.report.rundir import RunDir
from bench.summary import summarize
from bench.types import Health, Outcome, OutputEvent, Phase, Record, Sample, TokenSource

SECOND = 1_000_000_000
START = 5_000 * SECOND  # of the measured window; no clock starts at 0
FAILURES = (Outcome.HTTP_ERROR, Outcome.CUT, Outcome.STREAM_ERROR, Outcome.TIMEOUT)


def made_records(rng: random.Random, load: Load, *, speed: float = 1.0, failing: float = 0.02) -> list[Record]:
    """A closed loop or an open one; the fuller the server, the longer its queue and its steps."""
    streams = load.concurrency or 8
    free = [START] * streams
    records: list[Record] = []
    for index in range(load.requests or 0):
        slot = min(range(streams), key=free.__getitem__)
        arrival = START + round(index / load.rate * SECOND) if load.rate else free[slot]
        record = made_record(rng, index, max(arrival, START), max(arrival, free[slot]), streams, speed)
        if rng.random() < failing:
            fail(rng, record)
        free[slot] = record.ended_ns
        records.append(record)
    return records


def made_record(rng: random.Random, index: int, due: int, sent: int, streams: int, speed: float) -> Record:
    prompt, output = round(rng.lognormvariate(5, 0.7)) + 1, rng.randrange(8, 64)
    queue = rng.expovariate(1 / (0.002 * streams)) / speed
    prefill = (0.01 + prompt * 0.0002) / speed
    at = sent + round((queue + prefill) * SECOND)
    events = [OutputEvent(at, 1)]
    for _ in range(output - 1):
        stall = 0.15 if rng.random() < 0.004 else 0.0
        at += round((rng.lognormvariate(-4.6, 0.25) * (1 + streams / 60) + stall) / speed * SECOND)
        events.append(OutputEvent(at, 1, coalesced=rng.random() < 0.01))
    return Record(
        index=index,
        phase=Phase.MEASURED,
        outcome=Outcome.OK,
        status=200,
        scheduled_ns=due,
        sent_ns=sent + 40_000,
        ended_ns=at + 300_000,
        events=events,
        input_tokens=prompt,
        input_source="server",
        output_tokens=output,
        token_source=TokenSource.TGI_TOKEN,
        wanted_tokens=output,
        finish_reason="length",
        text="a b c " * 4,
        server={"queue": queue, "prefill": prefill},
    )


def fail(rng: random.Random, record: Record) -> None:
    record.outcome = rng.choice(FAILURES)
    record.error = f"{record.outcome.value} <made up> & meant to hurt </script>"
    record.events = [] if record.outcome is Outcome.HTTP_ERROR else record.events[: len(record.events) // 2]
    record.ended_ns = record.events[-1].at_ns if record.events else record.sent_ns + SECOND // 20
    record.output_tokens = len(record.events)


def made_health(rng: random.Random, seconds: int) -> list[Health]:
    return [
        Health(
            at_ns=START + second * SECOND,
            worker=worker,
            lag_p50_ns=rng.randrange(20_000, 90_000),
            lag_p99_ns=rng.randrange(90_000, 900_000),
            late_p99_ns=rng.randrange(10_000, 200_000),
            cpu=rng.uniform(0.1, 0.6),
        )
        for second in range(seconds + 1)
        for worker in range(2)
    ]


def made_samples(rng: random.Random, seconds: float, streams: int) -> list[Sample]:
    samples, generated = [], 0.0
    for tick in range(int(seconds * 4) + 2):
        generated += rng.uniform(80, 120) * streams / 4
        samples.append(
            Sample(
                at_ns=START + tick * SECOND // 4,
                running=min(streams, rng.randrange(streams // 2, streams + 1)),
                waiting=rng.randrange(0, max(1, streams // 4) + 1),
                kv_used=min(1.0, 0.1 + streams / 90 + rng.uniform(0, 0.1)),
                generated_tokens=generated,
                cpu=rng.uniform(0.5, 2),
            )
        )
    return samples


def made_run(path: Path, load: Load, *, seed: int = 1, speed: float = 1.0, slo: str | None = None) -> RunDir:
    """One run, summarized, not yet written."""
    rng = random.Random(seed)
    records = made_records(rng, load, speed=speed)
    end = max(record.ended_ns for record in records)
    seconds = (end - START) / SECOND
    health, samples = made_health(rng, int(seconds)), made_samples(rng, seconds, load.concurrency or 8)
    manifest = collect(
        ["tgi", "bench", "http://127.0.0.1:3000", "--api-key", "hunter2"],
        title="tiny-llama under load",
        server={"url": "http://127.0.0.1:3000", "kind": "ours", "api": "tgi", "model": "tiny-llama", "info": {}},
        load={name: getattr(load, name) for name in ("concurrency", "rate", "arrival", "requests")},
        workload={"in": 150, "out": 32},
        seeds={"workload": seed},
        window_ns=(START, end),
        slo=slo,
    )
    summary = summarize(
        records,
        window_ns=(START, end),
        health=health,
        samples=samples,
        slo=Slo.parse(slo) if slo else None,
        load=load,
    )
    return RunDir(path=path, manifest=manifest, records=records, samples=samples, health=health, summary=summary)
