"""The words and figures of the reports, and the two views of a run under way."""

import io
import re
from dataclasses import dataclass, field

import msgspec
import pytest
from bench_runs import START, made_run
from rich.console import Console

from bench.load.arrivals import Load
from bench.metrics import DEFINITIONS
from bench.report.figures import figure, headline, latency_rows, load_label, metric_name, number, token_note
from bench.report.html import comparison_page, run_page, series_page
from bench.report.live import LiveView, open_view, sparkline
from bench.report.loads import points, worst_verdict
from bench.report.markdown import comparison_report, run_report, series_report
from bench.report.plain import PlainView, summary_lines
from bench.report.progress import LiveStats, Pace, percentile
from bench.report.rundir import RunDir
from bench.stats.paired import Samples, judge
from bench.types import ONE_PER_EVENT, Outcome, Phase, Sample, TokenSource


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.01234, "0.0123"),
        (4.5678, "4.57"),
        (99.96, "100.0"),
        (123.456, "123"),
        (45678.9, "45,700"),
        (1234, "1,234"),
        (-2.5, "-2.50"),
        (float("inf"), "∞"),
        (float("nan"), "n/a"),
        (None, "n/a"),
    ],
)
def test_numbers_have_three_digits(value, text):
    assert number(value) == text


def test_a_figure_says_how_many_samples_it_lacks():
    assert figure({"p99_ttft_ms": 12.0, "p99_ttft_ms_reliable": False, "p99_ttft_ms_needs": 300}, "p99_ttft_ms") == (
        "n/a, need 300"
    )
    assert figure({"p99_ttft_ms": 12.0}, "p99_ttft_ms") == "12"
    assert figure({}, "p99_ttft_ms") == "n/a"


def test_an_open_loop_is_headed_by_the_latency_from_schedule():
    latencies = {"p50_ttft_ms": 1.0, "p50_ttft_sched_ms": 5000.0}
    names = {one.name: one.value for one in headline({"request_rate": 50.0, **latencies})}
    assert names["TTFT from schedule p50"] == "5,000"
    names = {one.name: one.value for one in headline({"request_rate": "inf", "max_concurrency": 4, **latencies})}
    assert names["TTFT p50"] == "1"


def test_failures_are_charged_beside_the_latencies():
    summary = {"failed": 3, "p50_ttft_ms": 5.0, "adjusted_p50_ttft_ms": 6.0, "adjusted_p99_ttft_ms": None}
    rows = {name: values for name, _, values in latency_rows(summary)}
    assert rows["TTFT, adjusted"] == ["", "6", "", "", "∞"]
    assert "TTFT, adjusted" not in {name for name, _, _ in latency_rows(summary | {"failed": 0})}


@pytest.mark.parametrize(
    ("load", "label"),
    [
        ({"concurrency": 1000}, "1,000 concurrent"),
        ({"rate": 12.345, "arrival": "poisson"}, "12.345 requests/s, poisson"),
        ({"rate": None, "concurrency": None}, "all at once"),
        ({"trace": "90 requests"}, "a replayed trace"),
    ],
)
def test_loads_have_names(load, label):
    assert load_label(load) == label


def test_keys_have_names():
    assert metric_name("p99_e2el_ms") == "E2E p99, ms"
    assert metric_name("output_throughput") == "Output, tokens/s"
    assert metric_name("goodput_share") == "goodput share"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return made_run(tmp_path_factory.mktemp("run"), Load(concurrency=8, requests=120), slo="ttft_p99<500ms")


def cells(row: str) -> int:
    return len(re.findall(r"(?<!\\)\|", row))


@pytest.fixture(scope="module")
def reports(run: RunDir) -> dict[str, tuple[str, str]]:
    """Name: (Markdown, HTML), of runs whose every text tries to break out."""
    run.manifest.title = "a|b <script>alert(1)</script> `x`"
    keys = ["output_throughput", "p50_ttft_ms"]
    values = {key: Samples([run.summary[key]] * 3, [run.summary[key] * x for x in (1.1, 1.11, 1.12)]) for key in keys}
    pair = ("old | <new>", [run] * 3, [run] * 3, judge(values), "<worse>")
    series = msgspec.structs.replace(run.manifest, kind="series")
    return {
        "run": (run_report(run), run_page(run)),
        "series": (series_report(series, [run]), series_page(series, [run])),
        "comparison": (comparison_report(*pair), comparison_page(*pair)),
    }


@pytest.mark.parametrize("kind", ["run", "series", "comparison"])
def test_every_report_prints_the_definitions(reports, kind):
    markdown, page = reports[kind]
    assert DEFINITIONS.rstrip() in markdown
    assert "a chunk is never" in re.sub(r"\s+", " ", page).lower()


@pytest.mark.parametrize("kind", ["run", "series", "comparison"])
def test_tables_are_whole(reports, kind):
    lines = reports[kind][0].splitlines()
    tables = "\n".join(line if line.startswith("|") else "" for line in lines).split("\n\n")
    tables = [table.strip().splitlines() for table in tables if table.strip()]
    assert tables
    for table in tables:
        assert len({cells(row) for row in table}) == 1
        assert len(table) > 2


@pytest.mark.parametrize("kind", ["run", "series", "comparison"])
def test_no_text_becomes_markup(reports, kind):
    markdown, page = reports[kind]
    assert "<script>alert" not in markdown + page
    assert "<new>" not in page
    assert "meant to hurt </script>" not in page
    assert page.count("</script>") == 5  # the data, and four scripts of ours


@pytest.mark.parametrize("kind", ["run", "series", "comparison"])
def test_the_page_is_one_file_and_names_its_vendored_part(reports, kind):
    page = reports[kind][1]
    assert "Copyright (c) 2022 Leon Sorokin" in page
    assert not re.search(r"<(?:link|script|img|iframe)[^>]+(?:src|href)=\"(?!data:)", page)
    assert "$" + "title" not in page


def test_a_run_says_how_it_went(run):
    markdown = run_report(run)
    assert f"**{run.summary['verdict']}**" in markdown
    assert all(reason in markdown for reason in run.summary["reasons"])
    kinds = {record.outcome.value for record in run.records if record.outcome is not Outcome.OK}
    assert all(f"| {kind} |" in markdown for kind in kinds)
    text = "\n".join(summary_lines(run.summary, "title"))
    assert text.startswith("title\n\nOutput")
    assert figure(run.summary, "p50_ttft_ms") in text
    assert run.summary["verdict"] in text


def test_another_tools_results_are_not_called_valid(run):
    run = RunDir(path=run.path, manifest=run.manifest, records=[], summary={"completed": 3})
    [point] = points([run])
    assert worst_verdict(point) is None
    assert "VALID" not in "\n".join(summary_lines(run.summary))
    assert "pill tone-good" not in series_page(run.manifest, [run])


@dataclass
class Counted:
    sent: int = 0
    done: int = 0
    reads: int = 0
    elapsed_s: float = 0.0
    planned: int = 120
    phase: Phase = Phase.MEASURED
    failed: dict[str, int] = field(default_factory=dict)


def stats(run: RunDir) -> LiveStats:
    found = LiveStats()
    found.add(run.records)
    found.sample = Sample(at_ns=START, waiting=3, kv_used=0.42)
    return found


def test_live_figures_are_those_of_the_records(run):
    found = stats(run)
    good = [record for record in run.records if record.outcome is Outcome.OK]
    assert len(found.ttft) == len(found.tpot) == len(good)
    assert found.last_error is not None
    assert 0.8 < found.tokens_per_read < 1.1  # one token an event, a few events together, and a head a request


def test_a_warm_up_does_not_count(run):
    found = LiveStats()
    found.add([msgspec.structs.replace(record, phase=Phase.WARMUP) for record in run.records])
    assert (found.tokens_per_read, list(found.ttft), list(found.lag)) == (0, [], [])


def test_the_pace_is_known_by_the_second():
    pace = Pace()
    for tick in range(23):  # five reads a fifth of a second
        pace.add(tick / 5, tick * 5)
    assert pace.rates() == pytest.approx([25] * 4)
    pace.add(0.1, 3)  # the next phase
    assert pace.rates() == []


def test_percentiles_of_little():
    assert percentile([], 50) is None
    assert percentile([7.0], 99) == 7
    assert percentile([1.0, 2.0, 3.0], 50) == 2


def test_plain_lines_come_now_and_then(run):
    out, now = io.StringIO(), [0.0]
    view = PlainView("8 concurrent", out, total=120, duration_s=60, clock=lambda: now[0])
    for second in range(12):
        now[0] = float(second)
        phase = Phase.WARMUP if second < 6 else Phase.MEASURED
        view.update(Counted(second * 10, second * 9, second * 50, now[0], phase=phase, failed={"503": 2}), stats(run))
    view.close()
    first, *lines = out.getvalue().splitlines()
    assert first == "8 concurrent, 60 s"
    assert [line.split(" s")[0].strip() for line in lines] == ["5", "10"]
    assert "warm-up  sent 50  done 45  failed 2 x 503" in lines[0]
    assert re.search(
        r"  sent 100  done 90/120  failed 2 x 503  [\d.]+ tokens/s  TTFT [\d.]+, p99 [\d.]+ ms  TPOT", lines[1]
    )


def test_without_a_terminal_lines_are_plain():
    out = io.StringIO()
    view = open_view("load", out=out)
    view.update(Counted(), LiveStats())
    view.close()
    assert out.getvalue() == "load\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_is_drawn_on_and_left_clean(run, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    view = open_view("8 concurrent", total=120, out=out)
    assert isinstance(view, LiveView)
    view.update(Counted(120, 110), stats(run))
    view.close()
    assert "\x1b[" in out.getvalue()


@pytest.mark.parametrize("width", [60, 100])
@pytest.mark.parametrize(("total", "duration"), [(120, None), (None, 20.0), (None, None)])
def test_the_live_view_shows_all_there_is(run, width, total, duration):
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    view = LiveView("8 concurrent", total=total, duration_s=duration, console=console)
    view.close()
    view.render(Counted(60, 50, 400, 1.0), stats(run))
    out = io.StringIO()
    Console(file=out, width=width).print(
        view.render(Counted(120, 110, 900, 2.0, failed={"503": 2, "cut": 1}), stats(run))
    )
    text = out.getvalue()
    for part in ("8 concurrent", "110", "TTFT ms", "TPOT ms", "42 %", "client lag p99", "tokens/s", "2 x 503, 1 x cut"):
        assert part in text
    assert max(map(len, text.splitlines())) <= width
    out.truncate(0)
    Console(file=out, width=width).print(view.render(Counted(), LiveStats()))
    assert "failed" not in out.getvalue()


def test_sparklines():
    assert sparkline([0.0, 1.0, 2.0]) == "▁▅█"
    assert sparkline([0.0, 0.0]) == "▁▁"


def test_the_live_views_count_events_where_nobody_counts_tokens(run):
    found = LiveStats()
    found.add([msgspec.structs.replace(record, token_source=TokenSource.EVENTS) for record in run.records])
    out = io.StringIO()
    view = LiveView("load", console=Console(file=out, width=100, force_terminal=False))
    view.close()
    view.render(Counted(60, 50, 400, 1.0), found)
    Console(file=out, width=100).print(view.render(Counted(120, 110, 900, 2.0), found))
    assert "events/s" in out.getvalue()
    assert "tokens/s" not in out.getvalue()


def test_tokens_that_nobody_counted_are_called_an_estimate():
    summary = {"token_sources": {"tgi_token": 3, "events": 1}, "output_throughput": 5.0, "mean_tpot_ms": 4.0}
    notes = {one.name: one.note for one in headline(summary)}
    assert notes["Output"] == ONE_PER_EVENT
    assert notes["TPOT p50"].endswith(ONE_PER_EVENT)
    assert [name for name, _, _ in latency_rows(summary)] == ["TPOT, estimated"]
    assert token_note({"token_sources": {"usage_spread": 1}, "token_source_estimated": True}) == "estimated"
    assert token_note({"token_sources": {"tgi_token": 1}, "token_source_estimated": False}) == ""
