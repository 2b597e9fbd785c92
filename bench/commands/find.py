"""`tgi bench find`: the largest load that meets the objectives."""

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from bench.commands.options import Options

if TYPE_CHECKING:
    from pathlib import Path

    from bench.commands.session import Session
    from bench.metrics import Slo
    from bench.report.rundir import RunDir
    from bench.stats.find import Found

SECONDS = 10.0  # of a probe
PATIENCE = 3  # times as long as it should last, a probe is hopeless
FAILED = 0.01  # share of requests that may fail
GROWTH = 0.02  # seconds that latency may grow by in a second: a load that brings more than that is not kept up with
PROBES = 12
BACKLOG = "a growing backlog"  # beside the objectives


def find(
    url: Annotated[
        str | None, typer.Argument(help="Server to measure; unset: that of port 3000, or our own, started for this.")
    ] = None,
    *,
    over: Annotated[str, typer.Option("--over", metavar="rate|concurrency", help="What is raised")] = "rate",
    low: Annotated[float, typer.Option("--low", metavar="LOAD", help="Lowest load to try")] = 1.0,
    high: Annotated[float, typer.Option("--high", metavar="LOAD", help="Highest load to try")] = 1000.0,
    attain: Annotated[
        float, typer.Option("--attain", metavar="SHARE", help="Share of requests that must meet limits on each request")
    ] = 0.95,
    probes: Annotated[int, typer.Option("--probes", metavar="N", help="Most runs to take")] = PROBES,
    options: Options,
) -> None:
    """Find the largest load that meets --slo, and what limits it."""
    from bench.commands import setup
    from bench.commands.session import Session, say
    from bench.stats.find import Finder

    slo = _check(url, over, low, high, attain, probes, options)
    by_rate = over == "rate"
    options = replace(options, duration=options.duration or (None if options.requests else SECONDS))
    session, finder = Session(options), Finder(low, high, probes=probes, whole=not by_rate)
    runs: list[RunDir] = []
    with setup.server(options, url, most=int(high)) as subject:
        place = setup.output(options)
        say(options, subject.label)
        seed = setup.workload(options).seed
        while not session.interrupted and (proposed := finder.propose()) is not None:
            load = float(proposed)
            made = replace(options, seed=seed)
            scenario = setup.scenario(made, rate=load) if by_rate else setup.scenario(made, concurrency=load)
            number = len(runs) + 1
            limit = None if options.duration is None else PATIENCE * options.duration
            runs.append(
                session.measure(subject, scenario, place / f"run-{number:02}", name=f"probe {number}", limit_s=limit)
            )
            ratios = ratios_of(runs[-1], slo, attain, open_loop=by_rate)
            finder.observe(load, ratios)
            worst = max(ratios, key=lambda name: ratios[name])
            say(options, f"  {load:.4g}: {worst} at {100 * ratios[worst]:.0f} % of what is allowed")
    keys = [limit.key for limit in slo.limits if limit.statistic is not None]
    _finish(session, runs, finder.result(), place, over, keys)


def _check(url: str | None, over: str, low: float, high: float, attain: float, probes: int, options: Options) -> "Slo":
    """Raises UsageError."""
    from bench.commands import setup
    from bench.metrics import Slo
    from bench.types import UsageError

    setup.check_url(url)
    if options.slo is None:
        raise UsageError("name what must be met: --slo ttft_p99<500ms,tpot_p95<50ms")
    if over not in ("rate", "concurrency"):
        raise UsageError(f"--over {over}: it is rate or concurrency")
    if options.rate is not None or options.concurrency is not None:
        raise UsageError("the load is what is searched for: use --over, --low and --high, not --rate or --concurrency")
    if not 0 < low < high:
        raise UsageError(f"--low {low:g} must be above 0 and below --high {high:g}")
    if not 0 < attain < 1:
        raise UsageError(f"--attain {attain:g} must lie between 0 and 1")
    if probes < 2:
        raise UsageError(f"--probes {probes}: at least 2 are needed")
    return Slo.parse(options.slo)


def ratios_of(run: "RunDir", slo: "Slo", attain: float, *, open_loop: bool = False) -> dict[str, float]:
    """Measured / allowed for every objective, and for what latencies alone are blind to: failures, and in an open
    loop a backlog that only the short time of a probe keeps below the limits."""
    summary = run.summary
    planned = summary["num_prompts"]
    good = summary["completed"]
    ratios = {
        **slo.ratios(summary),
        "failed requests": (planned - good) / planned / FAILED if planned else float("inf"),
    }
    if any(limit.statistic is None for limit in slo.limits):
        share = summary.get("goodput_share") or 0.0
        ratios["requests outside the limits"] = (1 - share) / (1 - attain)
    if open_loop:
        ratios[BACKLOG] = _growth(run) / GROWTH
    return ratios


def _growth(run: "RunDir") -> float:
    """Seconds that the latency of requests surely grew by in each second of the schedule."""
    import numpy as np

    from bench.metrics import request_metrics
    from bench.stats.trend import sure_slope
    from bench.types import Outcome, Phase

    done = [record for record in run.records if record.phase is Phase.MEASURED and record.outcome is Outcome.OK]
    first = min((record.scheduled_ns for record in done), default=0)
    latency = np.array([request_metrics(record).e2e_sched for record in done], dtype=float)
    return sure_slope(np.array([(record.scheduled_ns - first) / 1e9 for record in done]), latency)


def _finish(
    session: "Session", runs: list["RunDir"], found: "Found", place: "Path", over: str, keys: list[str]
) -> None:
    """Write and print what was found; `keys` are what was judged. Raises InvalidRun if no probe brought anything."""
    import json
    import sys
    from dataclasses import asdict

    import msgspec

    from bench.commands.session import INTERRUPTED, points_text, say
    from bench.report.rundir import write_json, write_series
    from bench.types import InvalidRun

    title = f"Largest {over}: {runs[0].manifest.title}"
    write_series(place, msgspec.structs.replace(runs[0].manifest, title=title), runs)
    result = {"over": over, **asdict(found)}
    write_json(place / "find.json", result)
    unsure = sum(any(run.summary.get(f"{key}_reliable") is False for key in keys) for run in runs)
    if session.options.json:
        print(json.dumps(msgspec.to_builtins(result)))
    else:
        print(f"{points_text(runs)}\n\n{in_words(found, over)}")
        if unsure:
            print(
                f"In {unsure} of {len(runs)} probes a percentile of --slo rests on too few requests: raise --duration."
            )
    say(session.options, f"results in {place}")
    if not any(run.summary["completed"] for run in runs):
        raise InvalidRun("no request of any probe succeeded; the first run's report says why")
    if session.interrupted:
        sys.exit(INTERRUPTED)


def in_words(found: "Found", over: str) -> str:
    """The answer in a sentence or two."""
    unit = "requests/s" if over == "rate" else "requests at once"
    if not found.limited:
        return f"At least {found.load:.4g} {unit}: every load up to the highest one met the objectives."
    if found.load is None:
        return f"None: {found.high:.4g} {unit} already misses {found.binding}."
    bounds = f"surely {found.low:.4g}" + (f", surely not {found.high:.4g}" if math.isfinite(found.high) else "")
    piling_up = "Beyond it requests come faster than they are served."
    edges = {
        "cliff": "Beyond it latencies jump: stay well below.",
        "smooth": "Beyond it latencies rise slowly.",
    }
    beyond = piling_up if found.binding == BACKLOG else edges.get(found.edge, "")
    return f"{found.load:.4g} {unit} ({bounds}). The limit is {found.binding}. {beyond}".rstrip()
