"""The client's view of itself, and the verdict on a measurement."""

import pytest

from bench.client.health import SECOND, Watch, verdict
from bench.types import Health, Outcome, OutputEvent, Phase, Record, TokenSource, Verdict

MS = 1_000_000


def record(index: int = 0, **changes) -> Record:
    made = {
        "index": index,
        "phase": Phase.MEASURED,
        "outcome": Outcome.OK,
        "scheduled_ns": 1,
        "sent_ns": 1,
        "ended_ns": 9,
        "events": [OutputEvent(at_ns=2, tokens=1)] * 10,
        "output_tokens": 10,
        "wanted_tokens": 10,
        "token_source": TokenSource.TGI_TOKEN,
    }
    return Record(**(made | changes))


def health(**changes) -> Health:
    made = {"at_ns": 1, "worker": 0, "events": 100, "sends": 10, "lag_p99_ns": MS, "late_p99_ns": MS, "cpu": 0.2}
    return Health(**(made | changes))


GOOD = [record(index) for index in range(200)]


def test_a_good_run_is_valid_and_needs_no_reasons():
    assert verdict([health()] * 3, GOOD) == (Verdict.VALID, [])


@pytest.mark.parametrize(
    ("changes", "expected", "reason"),
    [
        ({"lag_p99_ns": 30 * MS}, Verdict.DEGRADED, "the client read 30.0 ms late"),
        ({"lag_p99_ns": 300 * MS}, Verdict.INVALID, "the client read 300.0 ms late"),
        ({"late_p99_ns": 8 * MS}, Verdict.DEGRADED, "the client sent 8.0 ms late"),
        ({"late_p99_ns": 500 * MS}, Verdict.INVALID, "the client sent 500.0 ms late"),
        ({"cpu": 0.99}, Verdict.DEGRADED, "workers were 99% busy"),
    ],
)
def test_a_client_that_is_too_slow_says_so(changes, expected, reason):
    found, reasons = verdict([health(**changes)] * 3, GOOD)
    assert found is expected
    assert len(reasons) == 1
    assert reason in reasons[0]


def test_one_bad_second_and_idle_seconds_do_not_spoil_a_run():
    seconds = [health()] * 3 + [health(lag_p99_ns=900 * MS), health(events=0, sends=0, lag_p99_ns=0)]
    assert verdict(seconds, GOOD)[0] is Verdict.VALID


@pytest.mark.parametrize(
    ("moved_ns", "expected"),
    [(0, Verdict.VALID), (-80_000, Verdict.DEGRADED), (3 * MS, Verdict.INVALID)],
)
def test_a_clock_that_was_set_spoils_the_stamps(moved_ns, expected):
    found, reasons = verdict([health()], GOOD, clock_offset_moved_ns=moved_ns)
    assert found is expected
    assert bool(reasons) == (moved_ns != 0)


@pytest.mark.parametrize(
    ("bad", "changes", "expected", "reason"),
    [
        (2, {"outcome": Outcome.CUT}, Verdict.VALID, ""),
        (3, {"outcome": Outcome.CUT}, Verdict.DEGRADED, "3 of 200 requests did not succeed"),
        (101, {"outcome": Outcome.HTTP_ERROR}, Verdict.INVALID, "101 of 200 requests did not succeed"),
        (200, {"outcome": Outcome.CONNECT}, Verdict.INVALID, "no request succeeded"),
        (2, {"output_tokens": 9}, Verdict.VALID, ""),
        (3, {"output_tokens": 9}, Verdict.DEGRADED, "3 of 200 answers were not as long as asked for"),
        (200, {"output_tokens": 9, "wanted_tokens": None}, Verdict.VALID, ""),
        (1, {"token_source": TokenSource.USAGE_SPREAD}, Verdict.DEGRADED, "1 of 200 answers are estimated"),
        (
            1,
            {"token_source": TokenSource.EVENTS},
            Verdict.DEGRADED,
            "1 of 200 answers are estimated: one token per event",
        ),
        (100, {"coalesced": 1}, Verdict.VALID, ""),
        (200, {"coalesced": 1}, Verdict.DEGRADED, "10% of the events came together"),
    ],
)
def test_what_went_wrong_with_requests_is_counted(bad, changes, expected, reason):
    records = [record(index, **(changes if index < bad else {})) for index in range(200)]
    found, reasons = verdict([health()], records)
    assert found is expected
    assert any(reason in said for said in reasons) == bool(reason)


def test_answers_that_nobody_counted_are_not_called_too_short():
    uncounted = [record(index, token_source=TokenSource.EVENTS, output_tokens=3) for index in range(200)]
    reason = "the tokens of 200 of 200 answers are estimated: one token per event; --tokenizer counts them"
    assert verdict([health()] * 3, uncounted) == (Verdict.DEGRADED, [reason])


def test_the_warm_up_does_not_count_and_nothing_measured_is_invalid():
    warm = [record(phase=Phase.WARMUP, outcome=Outcome.CUT)]
    assert verdict([health()], GOOD + warm * 50)[0] is Verdict.VALID
    assert verdict([health()], warm) == (Verdict.INVALID, ["no request succeeded"])


def test_the_worst_reason_comes_first():
    found, reasons = verdict([health(late_p99_ns=8 * MS)], [record(outcome=Outcome.CUT)])
    assert found is Verdict.INVALID
    assert reasons[0] == "no request succeeded"
    assert len(reasons) == 2


def test_a_watch_reports_each_second_by_itself():
    watch = Watch(3, 0)
    watch.lags += range(100_000)
    watch.lates += [5, 1, 900]
    watch.reads, watch.sends = 100_000, 3
    first = watch.report(SECOND, open_streams=7, connections=9)
    assert (first.worker, first.at_ns, first.events, first.sends, first.open_streams) == (3, SECOND, 100_000, 3, 7)
    assert first.lag_p50_ns == pytest.approx(50_000, rel=0.01)
    assert first.lag_p99_ns == pytest.approx(99_000, rel=0.01)
    assert first.late_p99_ns == 900
    assert first.open_files > 9
    assert first.memory_bytes > 1e6
    watch.reads += 1
    second = watch.report(2 * SECOND, open_streams=0, connections=0)
    assert (second.events, second.sends, second.lag_p99_ns, second.late_p99_ns) == (1, 0, 0, 0)
    assert watch.next_ns == 3 * SECOND
