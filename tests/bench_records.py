"""Made-up records of a run, whose every stamp is known."""

import random

from bench.types import Outcome, OutputEvent, Phase, Record, TokenSource

MS = 1_000_000
START = 50_000 * MS


def record(
    index: int = 0,
    *,
    scheduled: float = 0,
    sent: float = 0,
    events: list[tuple[float, float]] | None = None,
    ended: float | None = None,
    kinds: list[str] | None = None,
    **fields: object,
) -> Record:
    """Times in milliseconds after START; `events` are (time, tokens)."""
    events = [(100, 1), (120, 1), (150, 1)] if events is None else events
    kinds = kinds or ["content"] * len(events)
    last = ended if ended is not None else (events[-1][0] + 1 if events else sent + 1)
    values: dict[str, object] = {
        "index": index,
        "phase": Phase.MEASURED,
        "outcome": Outcome.OK,
        "status": 200,
        "scheduled_ns": START + round(scheduled * MS),
        "sent_ns": START + round(sent * MS),
        "ended_ns": START + round(last * MS),
        "events": [
            OutputEvent(START + round(at * MS), tokens, kind) for (at, tokens), kind in zip(events, kinds, strict=True)
        ],
        "input_tokens": 10,
        "input_source": "server",
        "output_tokens": sum(tokens for _, tokens in events),
        "token_source": TokenSource.USAGE_DELTA,
    }
    return Record(**(values | fields))  # type: ignore[arg-type]  # fields of Record


def run(seed: int = 0, requests: int = 60, most_tokens: int = 1, concurrency: int = 6) -> list[Record]:
    """A closed loop of `concurrency` places: every tenth request fails, some tokens share an event, one warms up."""
    random_ = random.Random(seed)
    free = [0.0] * concurrency
    records = [record(10_000, phase=Phase.WARMUP, scheduled=-500, sent=-500, events=[(-400, 1), (-390, 1)])]
    for index in range(requests):
        at = min(free)
        sent = at + random_.uniform(0, 2)
        moment, events = sent + random_.lognormvariate(4, 0.5), []
        for _ in range(random_.randint(1, 30)):
            events.append((moment, random_.randint(1, most_tokens)))
            moment += random_.lognormvariate(3, 0.6)
        ended = events[-1][0] + random_.uniform(0, 3)
        free[free.index(at)] = ended
        made = record(index, scheduled=at, sent=sent, events=events, ended=ended, input_tokens=random_.randint(1, 99))
        records.append(_failed(made, index) if index % 10 == 9 else made)
    return records


def _failed(made: Record, index: int) -> Record:
    made.outcome = (Outcome.CUT, Outcome.CANCELLED, Outcome.HTTP_ERROR)[index // 10 % 3]
    made.error = "it broke"
    if made.outcome is Outcome.HTTP_ERROR:
        made.events, made.output_tokens, made.status = [], 0, 503
    return made


def window(records: list[Record]) -> tuple[int, int]:
    return START, max(one.ended_ns for one in records)
