"""One run: a server and a scenario in, a run directory out.

    items -> bytes on the wire -> streams -> records -> summary -> files

Everything that is sent is made before the first request, and everything that came back is read after the last one;
while a run is on, only a sample of the finished streams is looked at, for the live view.
"""

import random
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from bench.api.decode import decode
from bench.api.encode import RequestOptions, encode
from bench.api.target import Target
from bench.client.pool import LoadResult, Progress, StopSignal, WorkerLost, run_load
from bench.load.arrivals import Load
from bench.load.plan import schedule
from bench.metrics import Slo
from bench.report.manifest import collect
from bench.report.rundir import RunDir
from bench.server.scrape import Scraper
from bench.server.telemetry import Telemetry
from bench.summary import summarize
from bench.types import InvalidRun, Item, Outcome, Phase, PlannedRequest, RawStream, Record, Sample, UsageError, Verdict
from bench.workload.items import Workload, build, sampler
from bench.workload.sessions import filler
from bench.workload.tokens import LocalTokens, TokenCounter, token_counter

LARGEST_SUPPLY = 100_000  # requests prepared for a closed loop that ends by the clock
SUPPLY_MARGIN = 3  # times as many as the warm-up's pace would need
OTHER_SEED = 0x9E3779B9  # added to a seed where a second, unrelated one is needed


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What is asked for, how fast, and what the answers are held against. `workload` has a seed."""

    workload: Workload
    load: Load
    warmup: int = 0
    request: RequestOptions = field(default_factory=RequestOptions)
    slo: Slo | None = None
    goodput: Slo | None = None
    workers: int | None = None
    timeout_s: float = 600.0
    scrape: bool = True
    tokenizer: Path | None = None
    title: str = ""

    @property
    def seed(self) -> int:
        assert self.workload.seed is not None, "the workload of a scenario has a seed"
        return self.workload.seed

    def with_seed(self, seed: int) -> "Scenario":
        return replace(self, workload=replace(self.workload, seed=seed))


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The server under test; `command` is what started it, where we did."""

    target: Target
    command: Sequence[str] = ()

    @property
    def label(self) -> str:
        return f"{self.target.model} at {self.target.url} ({self.target.kind}, {self.target.api.value})"


# Told of the counts so far, the records read since the last time, and the server's newest sample.
Watcher = Callable[[Progress, Sequence[Record], Sample | None], None]


def run(
    subject: Subject,
    scenario: Scenario,
    place: Path,
    *,
    argv: Sequence[str] = (),
    watch: Watcher | None = None,
    stop: StopSignal | None = None,
) -> RunDir:
    """Measure once and write the run directory. Raises BenchError for what a user can mend; a run that only went
    badly (no request succeeded, say) is written and returned like any other, see `check`.
    """
    target = subject.target
    counter = token_counter(target, tokenizer=scenario.tokenizer, token_ids=scenario.workload.token_ids)
    warm, items = _items(scenario, counter, subject)
    measured = [_planned(target, item, scenario, Phase.MEASURED) for item in items]
    planned = [_planned(target, item, scenario, Phase.WARMUP) for item in warm]
    planned += schedule(measured, scenario.load.times(_arrivals(scenario)))
    reader = _Reader(target, {item.index: item for item in (*warm, *items)}, scenario.tokenizer)
    lost: WorkerLost | None = None
    with _scraper(subject, scenario) as scraper:
        try:
            result = run_load(
                target.address,
                planned,
                scenario.load,
                workers=scenario.workers,
                timeout_s=scenario.timeout_s,
                on_progress=reader.progress(watch, scraper),
                stop=stop,
                fill_turn=filler(target, scenario.request, items),
            )
        except WorkerLost as error:
            lost, result = error, error.partial
    records = reader.finish(result.streams)
    interrupted = stop is not None and stop.is_set()
    if interrupted:
        records = [record for record in records if record.outcome is not Outcome.NEVER_SENT]
    made = _directory(subject, scenario, place, argv, result, records, scraper)
    if interrupted:
        _mark_interrupted(made.summary)
    made.write()
    if lost is not None:
        raise lost
    return made


def _mark_interrupted(summary: dict[str, Any]) -> None:
    """A run that was ended early is shorter than planned; what it measured stands."""
    summary["reasons"] = [*summary["reasons"], "the run was interrupted: what had not been sent by then is left out"]
    if summary["verdict"] == Verdict.VALID.value:
        summary["verdict"] = Verdict.DEGRADED.value


def check(measured: RunDir) -> None:
    """Raises InvalidRun if a run brought nothing, or cannot be trusted."""
    failed = [r for r in measured.records if r.phase is Phase.MEASURED and r.outcome is not Outcome.OK]
    if not measured.summary["completed"]:
        common = Counter(record.error or record.outcome.value for record in failed).most_common(1)
        said = f": {common[0][0]} ({common[0][1]} times)" if common else ""
        raise InvalidRun(f"none of {len(failed)} requests succeeded{said}")
    if measured.summary["verdict"] == Verdict.INVALID.value:
        raise InvalidRun("the measurement is INVALID: " + "; ".join(measured.summary["reasons"]))


@contextmanager
def interruptible() -> Iterator[StopSignal]:
    """A stop signal that Ctrl-C sets: the first lets requests in flight end, the second cancels them, the third
    ends the program. Only in the main thread, where Python delivers signals.
    """
    stop = StopSignal()

    def on_signal(number: int, frame: object) -> None:
        if stop.is_set():
            signal.signal(number, previous)
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = signal.signal(signal.SIGINT, on_signal)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, previous)


def _items(scenario: Scenario, counter: TokenCounter, subject: Subject) -> tuple[list[Item], list[Item]]:
    """The items of the warm-up and of the measured phase, numbered through."""
    workload, limit, warmup = scenario.workload, subject.target.max_context, scenario.warmup
    count = _count(scenario, counter, subject)
    if not warmup:
        return [], build(workload, count, counter, max_context=limit)
    if workload.turns == 1 and workload.data is None:
        made = build(workload, warmup + count, counter, max_context=limit)
        return made[:warmup], made[warmup:]
    # Neither a conversation nor the prompts of a file may be met twice.
    items = build(workload, count, counter, max_context=limit)
    single = replace(
        workload, turns=1, data=None, out_tokens=workload.out_tokens or 16, seed=scenario.seed + OTHER_SEED
    )
    warm = build(single, warmup, counter, max_context=limit)
    return [msgspec.structs.replace(item, index=len(items) + item.index) for item in warm], items


def _count(scenario: Scenario, counter: TokenCounter, subject: Subject) -> int:
    """How many requests to prepare."""
    load, workload = scenario.load, scenario.workload
    if load.requests is not None:
        return load.requests
    times = load.times(_arrivals(scenario))
    if times is not None:
        if not times:
            raise UsageError("no request falls into this duration; raise --rate or --duration")
        draw, drawn = sampler(workload.turns, "--turns"), _arrivals(scenario)
        return sum(draw(drawn) for _ in times) * 2 if workload.turns != 1 else len(times)
    assert load.concurrency is not None
    assert load.duration_s is not None
    pace = _pace(scenario, counter, subject)
    return min(LARGEST_SUPPLY, round(pace * load.duration_s * SUPPLY_MARGIN) + 2 * load.concurrency)


def _pace(scenario: Scenario, counter: TokenCounter, subject: Subject) -> float:
    """Requests a second that a short closed loop of the same kind completes."""
    load, target = scenario.load, subject.target
    assert load.concurrency is not None
    single = replace(
        scenario.workload,
        turns=1,
        data=None,
        out_tokens=scenario.workload.out_tokens or 16,
        seed=scenario.seed + 2 * OTHER_SEED,
    )
    items = build(single, load.concurrency, counter, max_context=target.max_context)
    planned = [_planned(target, item, scenario, Phase.MEASURED) for item in items]
    short = Load(concurrency=load.concurrency, requests=len(items))
    result = run_load(target.address, planned, short, workers=scenario.workers, timeout_s=scenario.timeout_s)
    ended = max((stream.ended_ns for stream in result.streams), default=0)
    return len(items) / max(1e-3, (ended - result.window_ns[0]) / 1e9)


def _arrivals(scenario: Scenario) -> random.Random:
    return random.Random(scenario.seed + OTHER_SEED)  # noqa: S311  # a workload, not a secret


def _planned(target: Target, item: Item, scenario: Scenario, phase: Phase) -> PlannedRequest:
    """A later turn waits for the answers before it, and so has no bytes yet."""
    later = item.turn > 0 and isinstance(item.prompt, list)
    return PlannedRequest(
        index=item.index,
        payload=b"" if later else encode(target, item, scenario.request),
        phase=phase,
        session=item.session,
        think_ns=scenario.workload.think_ns if item.turn else 0,
        turn=item.turn,
        messages=[part for part in item.prompt if isinstance(part, dict)] if later else None,
    )


@contextmanager
def _scraper(subject: Subject, scenario: Scenario) -> Iterator[Scraper | None]:
    if not scenario.scrape:
        yield None
        return
    target = subject.target
    extra = Telemetry(target.address.host, target.address.port)
    with Scraper(target.url, target.headers, extra=extra) as scraper:
        yield scraper


class _Reader:
    """Turns streams into records: what there is time for while the run is on, the rest after it."""

    SHARE = 0.05  # of the time may go into the live view's records; the client's workers need the machine

    def __init__(self, target: Target, items: Mapping[int, Item], tokenizer: Path | None) -> None:
        self._target, self._items = target, items
        self._tokenizer = LocalTokens(tokenizer) if tokenizer is not None else None
        self._read: dict[int, Record] = {}
        self._waiting: deque[RawStream] = deque()
        self._started, self._spent = time.monotonic(), 0.0

    def progress(self, watch: Watcher | None, scraper: Scraper | None) -> Callable[[Progress], None] | None:
        if watch is None:
            return None

        def on_progress(progress: Progress) -> None:
            self._waiting.extend(progress.finished)
            begin = time.monotonic()
            until = begin + self.SHARE * (begin - self._started) - self._spent
            found = []
            while self._waiting and time.monotonic() < until:
                found.append(self._record(self._waiting.popleft()))
            self._spent += time.monotonic() - begin
            watch(progress, found, scraper.samples[-1] if scraper and scraper.samples else None)

        return on_progress

    def _record(self, stream: RawStream) -> Record:
        record = self._read.get(stream.index)
        if record is None:
            item = self._items[stream.index]
            record = self._read[stream.index] = decode(stream, self._target, item, tokenizer=self._tokenizer)
        return record

    def finish(self, streams: Sequence[RawStream]) -> list[Record]:
        return [self._record(stream) for stream in sorted(streams, key=lambda stream: stream.index)]


def _directory(
    subject: Subject,
    scenario: Scenario,
    place: Path,
    argv: Sequence[str],
    result: LoadResult,
    records: Sequence[Record],
    scraper: Scraper | None,
) -> RunDir:
    target, samples = subject.target, scraper.samples if scraper else []
    summary = summarize(
        records,
        window_ns=result.window_ns,
        health=result.health,
        samples=samples,
        slo=scenario.slo,
        goodput=scenario.goodput,
        load=scenario.load,
        clock_offset_moved_ns=result.clock_offset_moved_ns,
        about=_about(target, scenario),
    )
    manifest = collect(
        argv,
        title=scenario.title or subject.label,
        server=_server(subject),
        load=load_fields(scenario.load),
        workload=asdict(scenario.workload),
        window_ns=result.window_ns,
        started_ns=result.started_ns,
        seeds={"workload": scenario.seed},
        dataset=scenario.workload.data,
        slo=None if scenario.slo is None else str(scenario.slo),
    )
    return RunDir(
        path=place, manifest=manifest, records=records, summary=summary, samples=samples, health=result.health
    )


def _about(target: Target, scenario: Scenario) -> dict[str, Any]:
    return {
        "date": datetime.now().strftime("%Y%m%d-%H%M%S"),
        "backend": target.kind,
        "api": target.api.value,
        "label": scenario.title or None,
        "model_id": target.model,
        "tokenizer_id": str(scenario.tokenizer) if scenario.tokenizer else target.model,
        "seed": scenario.seed,
    }


def _server(subject: Subject) -> dict[str, Any]:
    target = subject.target
    return {
        "url": target.url,
        "kind": target.kind,
        "api": target.api.value,
        "model": target.model,
        "info": dict(target.info),
        "command": list(subject.command),
    }


def load_fields(load: Load) -> dict[str, Any]:
    """A load as the manifest has it. A trace can be long, and the requests' own times say what it was."""
    fields = asdict(load)
    if load.trace is not None:
        fields["trace"] = f"{len(load.trace)} requests"
    return fields
