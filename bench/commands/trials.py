"""The trials of `tgi bench tune`: measured one by one, kept in a file after each, and put into words at the end."""

import hashlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import msgspec

from bench.commands import setup
from bench.commands.session import Session
from bench.report.loads import token_words
from bench.report.rundir import MARKDOWN, RunDir, make_folder, write_atomically, write_json
from bench.runner import Scenario, Subject, check
from bench.server.launch import Server
from bench.tables import table
from bench.tuning import AXES, Job, Search, Trial, main_effects, medians, pareto, preset
from bench.types import BenchError, Outcome, Phase, UsageError

STATE, PRESET, CONFIG = "tune.json", "recommended.toml", "knobs.toml"
SEEDS_OF_ROUND = 1000  # rounds have other prompts than each other, the configurations of a round the same


class State(msgspec.Struct):
    """What the file holds: which search it is, and what has been measured."""

    search: dict[str, Any]
    seed: int
    trials: list[Trial] = []


class Trials:
    """`words` is the serve command with its places, empty where knobs are changed live at `url` + `live`."""

    def __init__(
        self,
        session: Session,
        place: Path,
        configurations: Sequence[Mapping[str, str]],
        search: Search,
        scenario: Scenario,
        words: Sequence[str],
        url: str | None,
        live: str | None,
    ) -> None:
        self._session, self._place, self._configurations = session, place, configurations
        self._search, self._scenario = search, scenario
        self._words, self._url, self._live = words, url, live
        self._state = State(self._identity(), scenario.seed)

    @property
    def done(self) -> list[Trial]:
        return self._state.trials

    def resume(self) -> None:
        """Go on from the file of an earlier search. Raises UsageError if it was another one."""
        path = self._place / STATE
        if not path.is_file():
            return
        try:
            state = msgspec.json.decode(path.read_bytes(), type=State)
        except (OSError, msgspec.DecodeError) as error:
            raise BenchError(f"{path} cannot be read: {error}; delete it to begin anew") from None
        if state.search != self._identity():
            raise UsageError(f"{path} belongs to another search; give another --output, or delete it")
        self._state = state

    def _identity(self) -> dict[str, Any]:
        workload = replace(self._scenario.workload, seed=None)
        found = {
            "configurations": list(self._configurations),
            "search": asdict(self._search),
            "command": list(self._words),
            "url": self._url,
            "live": self._live,
            "load": asdict(self._scenario.load),
            "workload": asdict(workload),
            "slo": None if self._scenario.slo is None else str(self._scenario.slo),
        }
        plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(found, enc_hook=str))
        return plain

    def measure(self, job: Job) -> str:
        """Take one measurement, keep it, and say in a line what it was."""
        knobs = self._configurations[job.configuration]
        try:
            trial = self._trial(job, knobs)
        except UsageError:
            raise
        except BenchError as error:
            trial = Trial(job, error=str(error))
        if self._session.interrupted:
            return "not finished"
        self._state.trials.append(trial)
        write_json(self._place / STATE, self._state)
        shown = ", ".join(f"{name}={value}" for name, value in knobs.items())
        if trial.error is not None:
            return f"{shown}: {trial.error.splitlines()[0]}"
        return f"{shown}: {self._search.objective} {trial.numbers.get(self._search.objective, float('nan')):.4g}"

    def _trial(self, job: Job, knobs: Mapping[str, str]) -> Trial:
        folder = self._place / "trials" / f"{job.round}-{job.configuration:03}-{job.repeat}"
        seed = self._state.seed + SEEDS_OF_ROUND * job.round + job.repeat
        load, scale = self._scenario.load, self._search.scale(job.round)
        if load.requests is not None:
            load = replace(load, requests=load.requests * scale)
        if load.duration_s is not None:
            load = replace(load, duration_s=load.duration_s * scale)
        scenario = replace(self._scenario, load=load).with_seed(seed)
        with self._server(knobs) as subject:
            run = self._session.measure(subject, scenario, folder, same_seed=True)
        if not self._session.interrupted and not run.summary["completed"]:
            check(run)  # says why
        return Trial(
            job,
            numbers=_numbers(run.summary),
            token_note=token_words([run]),
            text_hash=_text_hash(run) if scenario.request.temperature == 0 else None,
            meets_slo=run.summary.get("slo_met") is not False,
        )

    @contextmanager
    def _server(self, knobs: Mapping[str, str]) -> Iterator[Subject]:
        options = self._session.options
        if self._live is not None:
            assert self._url is not None
            _change(self._url, self._live, knobs, options.key)
            yield setup.subject(options, self._url)
            return
        config = self._place / CONFIG
        make_folder(self._place)
        write_atomically(config, preset((), knobs, ()).encode())
        with Server(self._words, {**knobs, "config": str(config)}, url=self._url) as server:
            yield setup.subject(options, server.url, command=tuple(server.command), own=True)

    def report(self) -> str:
        """The outcome in words and tables; also written, with the recommended settings. Raises BenchError if nothing
        worked."""
        final = self._search.final(self.done)
        found = {each: medians(trials) for each, trials in final.items()}
        worked = {each: numbers for each, numbers in found.items() if numbers}
        if not worked:
            raise BenchError(f"no configuration worked; the first said: {self.done[0].error}")
        best = next(each for each in final if each in worked)
        front = set(pareto(worked))
        changed = self._changed_texts()
        rows = []
        for each in worked:
            trials, marks = final[each], []
            marks += ["recommended"] if each == best else []
            marks += ["Pareto"] if each in front else []
            marks += ["other texts"] if each in changed else []
            marks += ["misses the SLO"] if not self._search.score(trials)[0] else []
            values = [worked[each].get(key) for key, _ in AXES]
            rows.append((*self._configurations[each].values(), *values, len(trials), ", ".join(marks)))
        names = list(self._configurations[0])
        head = (*names, *(key for key, _ in AXES), "runs", "")
        failed = [trial for trial in self.done if trial.error is not None]
        parts = [
            table(head, rows, left=len(names)),
            next((trial.token_note for trial in self.done if trial.token_note), ""),
            self._effects(),
            *(f"failed: {_named(self._configurations[t.job.configuration])}: {t.error}" for t in failed),
            f"Recommended, in {self._place / PRESET}:\n\n{self._recommended(best, worked[best])}".rstrip(),
        ]
        text = "\n\n".join(part for part in parts if part)
        write_atomically(self._place / MARKDOWN, f"# Tuning\n\n```text\n{text}\n```\n".encode())
        return text

    def _effects(self) -> str:
        """What each value of each knob did, over all configurations that have it."""
        effects = main_effects(self._configurations, self.done, self._search.objective)
        rows = [(name, value, number) for name, values in effects.items() for value, number in values.items()]
        return table(("knob", "value", f"median {self._search.objective}"), rows, left=2) if rows else ""

    def _recommended(self, best: int, numbers: Mapping[str, float]) -> str:
        measured = ", ".join(f"{key} {numbers[key]:.4g}" for key, _ in AXES if key in numbers)
        reasons = [f"Found by tgi bench tune over {self._search.count} configurations: {measured}."]
        if self._words:
            reasons.append(f"Measured with: {shlex.join(self._words)}")
        text = preset(self._words, self._configurations[best], reasons)
        write_atomically(self._place / PRESET, text.encode())
        return text

    def _changed_texts(self) -> set[int]:
        """Configurations that answered the prompts of the first round otherwise than the first one did."""
        first = {t.job.configuration: t.text_hash for t in self.done if t.job.round == 0 and t.job.repeat == 0}
        known = [each for each in first.values() if each is not None]
        return {each for each, seen in first.items() if seen is not None and known and seen != known[0]}


def _named(knobs: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in knobs.items())


def _numbers(summary: Mapping[str, Any]) -> dict[str, float]:
    return {
        key: float(value)
        for key, value in summary.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _text_hash(run: RunDir) -> str | None:
    """Of all answers in the order of their requests; None where not all came."""
    measured = [record for record in run.records if record.phase is Phase.MEASURED]
    if any(record.outcome is not Outcome.OK for record in measured):
        return None
    texts = [record.text for record in sorted(measured, key=lambda record: record.index)]
    return hashlib.sha256(msgspec.json.encode(texts)).hexdigest()


def _change(url: str, path: str, knobs: Mapping[str, str], key: str | None) -> None:
    """Set knobs of a running server. Raises BenchError if it refuses."""
    import httpx

    target = f"{url.rstrip('/')}/{path.lstrip('/')}"
    values = {name: _plain(value) for name, value in knobs.items()}
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        answer = httpx.post(target, json=values, headers=headers, timeout=60, trust_env=False)
    except httpx.HTTPError as error:
        raise BenchError(f"cannot change the knobs at {target}: {error}") from None
    if not answer.is_success:
        raise BenchError(f"{target} refuses {values}: HTTP {answer.status_code}: {answer.text[:200]}")


def _plain(value: str) -> Any:
    """A number or a truth value as JSON has it; other words stay words."""
    try:
        return msgspec.json.decode(value)
    except msgspec.DecodeError:
        return value
