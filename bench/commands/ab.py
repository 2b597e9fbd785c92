"""`tgi bench ab A B`: which of two servers is better, and how sure that is."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.commands.options import Options

if TYPE_CHECKING:
    from bench.commands.session import Session
    from bench.report.rundir import RunDir
    from bench.runner import Subject
    from bench.stats.paired import Judgement, Samples

PAIRS = 5
JUDGED = {  # key of the summary -> whether more is better
    "output_throughput": True,
    "mean_ttft_ms": False,
    "p99_ttft_ms": False,
    "mean_tpot_ms": False,
    "p99_itl_ms": False,
    "mean_e2el_ms": False,
}


def ab(
    a: Annotated[
        str, typer.Argument(metavar="A", help="A URL, or a serve command with {port} that is started for each run.")
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="The other.")],
    *,
    margin: Annotated[float, typer.Option("--margin", metavar="SHARE", help="A change within it is none")] = 0.02,
    options: Options,
) -> None:
    """Compare two servers in interleaved pairs of runs, A B B A ..., and say which is better, with intervals."""
    from bench.commands import setup
    from bench.commands.session import Session
    from bench.stats.paired import judge, order
    from bench.types import UsageError

    if not 0 < margin < 1:
        raise UsageError(f"--margin {margin:g} must lie between 0 and 1")
    pairs = setup.runs(options, PAIRS)
    first = setup.scenario(options)
    session = Session(options)
    runs: dict[str, list[RunDir]] = {"A": [], "B": []}
    sides = {"A": a, "B": b}
    for side in sides.values():
        _check(side)
    place = setup.output(options)
    for i, name in enumerate(order(pairs)):
        if session.interrupted:
            break
        scenario = first.with_seed(first.seed + i // 2)  # the same for both runs of a pair
        folder = place / name.lower() / f"run-{len(runs[name]) + 1:02}"
        with _subject(sides[name], options) as subject:
            runs[name].append(
                session.measure(subject, scenario, folder, name=f"{name} {len(runs[name]) + 1}", same_seed=True)
            )
    complete = min(len(runs["A"]), len(runs["B"]))
    before, after = runs["A"][:complete], runs["B"][:complete]
    judgements = judge(_samples(before, after), margin) if complete else {}
    _finish(session, place, (a, b), before, after, judgements)


def _check(side: str) -> None:
    """Refuses a command without a port, before anything is measured. Raises UsageError."""
    from bench.commands import setup
    from bench.server.launch import Server

    if not setup.is_url(side):
        Server(side)


@contextmanager
def _subject(side: str, options: Options) -> Iterator["Subject"]:
    """A server that is there, or one that is started for the block."""
    from bench.commands import setup
    from bench.server.launch import Server

    if setup.is_url(side):
        yield setup.subject(options, side)
        return
    with Server(side) as server:
        yield setup.subject(options, server.url, command=tuple(server.command), own=True)


def _samples(before: Sequence["RunDir"], after: Sequence["RunDir"]) -> dict[str, "Samples"]:
    """What both sides measured in every run; a ratio needs numbers above 0."""
    from bench.stats.paired import Samples

    found = {}
    for key, more_is_better in JUDGED.items():
        old, new = ([run.summary.get(key) or 0.0 for run in runs] for runs in (before, after))
        if min(*old, *new) > 0:
            found[key] = Samples(old, new, more_is_better)
    return found


def _finish(
    session: "Session",
    place: Path,
    names: tuple[str, str],
    before: Sequence["RunDir"],
    after: Sequence["RunDir"],
    judgements: dict[str, "Judgement"],
) -> None:
    """Write both series and the comparison, print the verdicts, and end as the runs deserve."""
    import json
    import sys
    from dataclasses import asdict

    import msgspec

    from bench.commands.session import INTERRUPTED, doubts_text, say
    from bench.report.html import comparison_page
    from bench.report.markdown import comparison_report
    from bench.report.rundir import HTML, MARKDOWN, SUMMARY, write_atomically, write_json, write_series
    from bench.runner import check

    if not before:
        sys.exit(INTERRUPTED)
    for folder, name, runs in (("a", names[0], before), ("b", names[1], after)):
        write_series(place / folder, msgspec.structs.replace(runs[0].manifest, title=f"{folder.upper()}: {name}"), runs)
    title = f"B ({names[1]}) against A ({names[0]})"
    notes = in_words(judgements, before, after)
    write_atomically(place / HTML, comparison_page(title, before, after, judgements, notes).encode())
    write_atomically(place / MARKDOWN, comparison_report(title, before, after, judgements, notes).encode())
    doubts = doubts_text([*before, *after], [f"{side} {i}" for side in "AB" for i in range(1, len(before) + 1)])
    result = {"a": names[0], "b": names[1], "judgements": {key: asdict(each) for key, each in judgements.items()}}
    write_json(place / SUMMARY, result)
    print(json.dumps(msgspec.to_builtins(result)) if session.options.json else _text(judgements, notes, doubts))
    say(session.options, f"results in {place}")
    for run in (*before, *after):
        check(run)
    if session.interrupted:
        sys.exit(INTERRUPTED)


def in_words(judgements: dict[str, "Judgement"], before: Sequence["RunDir"], after: Sequence["RunDir"]) -> str:
    """The verdict in a line: what is better or worse, how many more pairs it would take, and whether texts differ."""
    from bench.report.loads import token_words
    from bench.types import ONE_PER_EVENT

    groups: dict[str, list[str]] = {}
    for key, each in judgements.items():
        groups.setdefault(each.verdict.value, []).append(key)
    said = [f"{verdict}: {', '.join(keys)}" for verdict, keys in groups.items()]
    more = max((each.more_pairs for each in judgements.values()), default=0)
    if more:
        said.append(f"about {more} more pairs would settle the rest")
    differ, compared = differing_texts(before, after)
    if differ:
        said.append(f"{differ} of {compared} answers to the same prompts differ")
    by_event = [name for name, runs in (("A", before), ("B", after)) if token_words(runs)]
    if by_event:
        said.append(f"the tokens of {' and '.join(by_event)} are {ONE_PER_EVENT}")
    return "B is " + "; ".join(said) if judgements else "nothing was measured on both sides"


def differing_texts(before: Sequence["RunDir"], after: Sequence["RunDir"]) -> tuple[int, int]:
    """How many complete answers to the same prompts differ, and how many there are."""
    from bench.types import Outcome

    differ = compared = 0
    for one, other in zip(before, after, strict=True):
        texts = {record.index: record.text for record in one.records if record.outcome is Outcome.OK}
        for record in other.records:
            if record.outcome is Outcome.OK and record.index in texts:
                compared += 1
                differ += record.text != texts[record.index]
    return differ, compared


def _text(judgements: dict[str, "Judgement"], notes: str, doubts: str) -> str:
    from bench.tables import table

    rows = [
        (key, each.verdict.value, f"{each.change:+.1%}", _percent(each.low), _percent(each.high), each.p_adjusted)
        for key, each in judgements.items()
    ]
    found = table(("metric", "B is", "change", "95 % from", "to", "p"), rows, left=2)
    return "\n\n".join(filter(None, (found, notes, doubts)))


def _percent(value: float) -> str:
    return f"{value:+.1%}" if -1 < value < 1e3 else "n/a"
