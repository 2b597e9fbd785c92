"""`tgi bench sweep`: a curve of throughput and latency over the load."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from bench.commands.options import Options

if TYPE_CHECKING:
    from pathlib import Path

    from bench.commands.session import Session
    from bench.runner import Scenario, Subject

DEFAULT = "1..64x2"
HIGHEST = 1_000_000  # requests a second, for what is not known yet
MOST = 64  # requests at once that find out what `max` is, unless --max-concurrency says otherwise


def sweep(
    url: Annotated[
        str | None, typer.Argument(help="Server to measure; unset: that of port 3000, or our own, started for this.")
    ] = None,
    *,
    options: Options,
) -> None:
    """Measure a server under one load after the other: --concurrency 1..64x2, or --rate 1..max:10."""
    from bench.commands import setup
    from bench.commands.session import Session, points_text, say
    from bench.ranges import numbers
    from bench.report.figures import number
    from bench.types import UsageError

    setup.check_url(url)
    count = setup.runs(options, 1)
    if options.rate is not None and options.concurrency is not None:
        raise UsageError("--concurrency and --rate exclude each other; sweep one of them")
    by_rate = options.rate is not None
    text = options.rate if options.rate is not None else options.concurrency or DEFAULT
    places = [] if by_rate else numbers(text, "--concurrency")
    if by_rate:
        numbers(text.replace("max", str(HIGHEST)), "--rate")  # refused now, not after the first runs
    session = Session(options)
    with setup.server(options, url, most=int(max(places, default=options.max_concurrency or MOST))) as subject:
        place = setup.output(options)
        say(options, subject.label)
        if by_rate and "max" in text:
            most = _most(session, subject, options, place)
            text = text.replace("max", f"{most:.6g}")
            say(options, f"max is {number(most)} requests/s")
        rates = numbers(text, "--rate") if by_rate else []
        runs = session.series(subject, _scenarios(options, places, rates), place, runs=count, what="Sweep")
    session.finish(runs, place, text=points_text(runs))


def _scenarios(options: Options, places: list[float], rates: list[float]) -> Iterator["Scenario"]:
    """Each with the same seed; the session gives every run its own."""
    from bench.commands import setup

    first = setup.workload(options).seed
    for concurrency in places:
        yield setup.scenario(replace(options, seed=first), concurrency=concurrency)
    for rate in rates:
        yield setup.scenario(replace(options, seed=first), rate=rate)


def _most(session: "Session", subject: "Subject", options: Options, place: "Path") -> float:
    """Requests a second that a server full of them completes. Raises InvalidRun if it completes none."""
    from bench.commands import setup
    from bench.runner import check

    closed = replace(options, max_concurrency=None, rate=None)
    full = setup.scenario(closed, concurrency=options.max_concurrency or MOST)
    measured = session.measure(subject, full, place / "max", name="as much as it takes")
    check(measured)
    return float(measured.summary["request_throughput"])
