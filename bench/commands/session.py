"""Runs one after the other, each watched on the terminal, until they are done or Ctrl-C ends them."""

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.commands.options import Options

if TYPE_CHECKING:
    from bench.client.pool import Progress, StopSignal
    from bench.report.rundir import RunDir
    from bench.runner import Scenario, Subject
    from bench.types import Record, Sample

INTERRUPTED = 130  # what shells say of a program that ended by SIGINT
MOST_DOUBTS = 5  # runs whose verdict is explained
SPREAD = (  # what a series shows of its runs
    "output_throughput",
    "request_throughput",
    "p50_ttft_ms",
    "p99_ttft_ms",
    "p50_tpot_ms",
    "p99_tpot_ms",
    "p99_itl_ms",
    "p99_e2el_ms",
)


class Session:
    """What the runs of one command share. `interrupted` says that no more should be started."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.interrupted = False
        self._runs = 0

    def measure(
        self,
        subject: "Subject",
        scenario: "Scenario",
        place: Path,
        *,
        name: str = "",
        same_seed: bool = False,
        limit_s: float | None = None,
    ) -> "RunDir":
        """Measure once, and write the run directory.

        Every run after the first has another seed than those before, unless it is to have that of its scenario. A run
        that is not over `limit_s` seconds after the start of its measured phase is ended. Raises BenchError.
        """
        from bench.report.figures import load_label
        from bench.runner import interruptible, load_fields, run

        if not same_seed:
            scenario = scenario.with_seed(scenario.seed + self._runs)
            self._runs += 1
        place.mkdir(parents=True, exist_ok=True)
        description = ", ".join(filter(None, (name, load_label(load_fields(scenario.load)))))
        with interruptible() as stop:
            watcher = _Watcher(self.options, scenario, description, stop, limit_s)
            try:
                measured = run(subject, scenario, place, argv=["tgi", *sys.argv[1:]], watch=watcher, stop=stop)
            finally:
                watcher.close()
            self.interrupted = self.interrupted or (stop.is_set() and not watcher.over_limit)
        return measured

    def series(
        self, subject: "Subject", scenarios: Iterable["Scenario"], place: Path, *, runs: int, what: str
    ) -> list["RunDir"]:
        """Measure each scenario `runs` times, every run in a folder of its own, and write the series' reports."""
        import msgspec

        from bench.report.rundir import write_series

        found: list[RunDir] = []
        for scenario in scenarios:
            for _ in range(runs):
                if not self.interrupted:
                    number = len(found) + 1
                    found.append(self.measure(subject, scenario, place / f"run-{number:02}", name=f"run {number}"))
        title = f"{what}: {subject.label}"
        write_series(place, msgspec.structs.replace(found[0].manifest, title=title), found)
        return found

    def finish(self, runs: Sequence["RunDir"], place: Path, *, text: str) -> None:
        """Print the outcome, and end as it deserves: by InvalidRun, or 130 after Ctrl-C."""
        from bench.runner import check

        if self.options.json:
            summaries = [run.summary for run in runs]
            print(json.dumps(summaries[0] if len(summaries) == 1 else {"runs": summaries}))
        else:
            print(text)
        say(self.options, f"results in {place}")
        for measured in runs:
            check(measured)
        if self.interrupted:
            sys.exit(INTERRUPTED)


class _Watcher:
    """Passes the progress of one run on to the view that fits the terminal, and watches the time."""

    def __init__(
        self, options: Options, scenario: "Scenario", description: str, stop: "StopSignal", limit_s: float | None
    ) -> None:
        from bench.report.live import open_view
        from bench.report.progress import LiveStats

        load = scenario.load
        self._view = None
        if not options.quiet:
            self._view = open_view(description, total=load.requests, duration_s=load.duration_s)
        self._stats, self._stop, self._limit_s = LiveStats(), stop, limit_s
        self.over_limit = False

    def __call__(self, progress: "Progress", records: Sequence["Record"], sample: "Sample | None") -> None:
        from bench.types import Phase

        late = self._limit_s is not None and progress.phase is Phase.MEASURED and progress.elapsed_s > self._limit_s
        if late and not self._stop.is_set():
            self.over_limit = True
            self._stop.set()
            self._stop.set()
        self._stats.add(records)
        self._stats.sample = sample or self._stats.sample
        if self._view is not None:
            self._view.update(progress, self._stats)

    def close(self) -> None:
        if self._view is not None:
            self._view.close()


def say(options: Options, text: str) -> None:
    """A line on standard error, unless it was asked for quiet."""
    if not options.quiet:
        print(text, file=sys.stderr, flush=True)


def run_text(measured: "RunDir") -> str:
    """The figures of one run for the terminal."""
    from bench.report.plain import summary_lines

    return "\n".join(summary_lines(measured.summary, measured.manifest.title))


def points_text(runs: Sequence["RunDir"]) -> str:
    """A row for each load of a series."""
    from bench.report.loads import POINT_COLUMNS, point_figure, points, token_words, worst_verdict
    from bench.tables import table

    rows = [
        (
            point.label,
            len(point.runs),
            *(point_figure(point, key) for key, _ in POINT_COLUMNS),
            worst_verdict(point) or "",
        )
        for point in points(runs)
    ]
    text = table(("load", "runs", *(name for _, name in POINT_COLUMNS), "verdict"), rows)
    return "\n\n".join(filter(None, (text, token_words(runs), doubts_text(runs))))


def spread_text(runs: Sequence["RunDir"]) -> str:
    """Means over the runs of one load with their 95 % intervals; none of what rests on too few requests in a run."""
    from bench.report.figures import number
    from bench.report.loads import points, token_words
    from bench.stats.intervals import t_interval
    from bench.tables import table

    needs = {key: max(point.needs(key) for point in points(runs)) for key in SPREAD}
    rows: list[tuple[object, ...]] = []
    for key in SPREAD:
        values = [run.summary[key] for run in runs if run.summary.get(key) is not None]
        if values and needs[key]:
            rows.append((key, f"n/a, need {number(needs[key])} a run", "", "", len(values)))
        elif values:
            found = t_interval(values)
            rows.append((key, found.center, found.low, found.high, len(values)))
    text = table(("mean over runs", "", "95 % from", "to", "runs"), rows)
    failed = sum(run.summary["failed"] for run in runs)
    lost = f"{number(failed)} of {number(sum(run.summary['num_prompts'] for run in runs))} requests failed"
    return "\n\n".join(filter(None, (text, lost if failed else "", token_words(runs), doubts_text(runs))))


def doubts_text(runs: Sequence["RunDir"], names: Sequence[str] = ()) -> str:
    """Why some of the runs are not VALID, a line each. `names` are theirs, else those of their folders."""
    lines = []
    for name, run in zip(names or [run.path.name for run in runs], runs, strict=True):
        if run.summary.get("reasons"):
            lines.append(f"{name} is {run.summary['verdict']}: {'; '.join(run.summary['reasons'])}")
    more = len(lines) - MOST_DOUBTS
    return "\n".join([*lines[:MOST_DOUBTS], *([f"and {more} more runs"] if more > 0 else [])])
