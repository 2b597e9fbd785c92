"""The run directory: everything a run measured, in files that other programs can read.

    manifest.json    what was run, where, with what                         bench.report.manifest
    requests.jsonl   a line for each request: its Record, `events` being how many it has
    events.bin       the output events of all requests, stamped, see below
    samples.jsonl    the server's metrics over time: a Sample a line
    health.jsonl     what the client saw of itself: a Health a line
    summary.json     the figures; vLLM's names at the top level             bench.summary
    report.md        for a pull request
    report.html      one page with plots that needs no network

`events.bin` begins with one line of JSON that describes it: `dtype` is numpy's, `count` the number of rows, `kinds`
what the numbers of the field `kind` stand for. Rows of fixed size follow, in the order of `requests.jsonl`; their field
`request` is the number of the line there, from 0. To read it:

    with open("events.bin", "rb") as file:
        header = json.loads(file.readline())
        events = np.frombuffer(file.read(), [tuple(field) for field in header["dtype"]])

Several runs, such as those of a sweep, are a series: a folder whose manifest names the folders of its runs.
Every file is written whole or not at all.
"""

import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from bench.report.manifest import FORMAT, Manifest
from bench.types import BenchError, Health, OutputEvent, Record, Sample, UsageError

EVENT = [("request", "<u4"), ("at_ns", "<i8"), ("tokens", "<f8"), ("kind", "u1"), ("coalesced", "u1")]
MANIFEST, REQUESTS, EVENTS, SAMPLES = "manifest.json", "requests.jsonl", "events.bin", "samples.jsonl"
HEALTH, SUMMARY, MARKDOWN, HTML = "health.jsonl", "summary.json", "report.md", "report.html"
Line = TypeVar("Line")


@dataclass(kw_only=True, eq=False)
class RunDir:
    """One run, in memory and at its place."""

    path: Path
    manifest: Manifest
    records: Sequence[Record]
    summary: dict[str, Any]
    samples: Sequence[Sample] = field(default_factory=list)
    health: Sequence[Health] = field(default_factory=list)

    def write(self) -> None:
        """Write every file, the reports too. Raises UsageError if the place cannot be written to."""
        from bench.report.html import run_page
        from bench.report.markdown import run_report

        self.write_data()
        write_atomically(self.path / MARKDOWN, run_report(self).encode())
        write_atomically(self.path / HTML, run_page(self).encode())

    def write_data(self) -> None:
        """Write what was measured, without the reports. The manifest comes last: a folder with one is complete."""
        make_folder(self.path)
        encoder = msgspec.json.Encoder()
        rows = ({**msgspec.structs.asdict(record), "events": len(record.events)} for record in self.records)
        write_atomically(self.path / REQUESTS, encoder.encode_lines(rows))
        write_atomically(self.path / EVENTS, encode_events(self.records))
        write_atomically(self.path / SAMPLES, encoder.encode_lines(self.samples))
        write_atomically(self.path / HEALTH, encoder.encode_lines(self.health))
        write_json(self.path / SUMMARY, self.summary)
        write_json(self.path / MANIFEST, self.manifest)

    @classmethod
    def load(cls, path: Path) -> "RunDir":
        """Read a run back. Raises UsageError if there is none, BenchError if a file is damaged."""
        manifest = load_manifest(path)
        if manifest.kind != "run":
            raise UsageError(f"{path} is a series of {len(manifest.members)} runs, not one run")
        return cls(
            path=path,
            manifest=manifest,
            records=_load_records(path),
            summary=_decode(path / SUMMARY, msgspec.json.Decoder(dict[str, Any])),
            samples=_lines(path / SAMPLES, Sample),
            health=_lines(path / HEALTH, Health),
        )


def load_runs(path: Path) -> list[RunDir]:
    """The runs of a directory: one, or the members of a series. Raises as RunDir.load does."""
    manifest = load_manifest(path)
    if manifest.kind == "run":
        return [RunDir.load(path)]
    return [run for member in manifest.members for run in load_runs(path / member)]


def load_manifest(path: Path) -> Manifest:
    """Raises UsageError if `path` is no run directory, BenchError if it is damaged or of a newer format."""
    if not (path / MANIFEST).is_file():
        raise UsageError(f"{path} is not a run directory: it has no {MANIFEST}")
    manifest: Manifest = _decode(path / MANIFEST, msgspec.json.Decoder(Manifest))
    if manifest.format > FORMAT:
        raise BenchError(f"{path} has format {manifest.format}; this version reads up to {FORMAT}")
    return manifest


def write_series(path: Path, manifest: Manifest, runs: Sequence[RunDir]) -> None:
    """Write the manifest and the reports of several runs whose folders are inside `path`, and already written."""
    from bench.report.html import series_page
    from bench.report.markdown import series_report

    make_folder(path)
    members = [run.path.relative_to(path).as_posix() for run in runs]
    manifest = msgspec.structs.replace(manifest, kind="series", members=members)
    write_json(path / SUMMARY, {"runs": [run.summary for run in runs]})
    write_atomically(path / MARKDOWN, series_report(manifest, runs).encode())
    write_atomically(path / HTML, series_page(manifest, runs).encode())
    write_json(path / MANIFEST, manifest)


def encode_events(records: Iterable[Record]) -> bytes:
    """The content of `events.bin`. An event kind that is new gets the next number."""
    kinds: dict[str, int] = {}
    rows = [
        (row, event.at_ns, event.tokens, kinds.setdefault(event.kind, len(kinds)), event.coalesced)
        for row, record in enumerate(records)
        for event in record.events
    ]
    header = {"format": "tgi bench events", "version": 1, "count": len(rows), "kinds": list(kinds), "dtype": EVENT}
    return msgspec.json.encode(header) + b"\n" + np.array(rows, EVENT).tobytes()


def load_events(path: Path) -> tuple[npt.NDArray[np.void], list[str]]:
    """The rows of an `events.bin`, and the names of the kinds. Raises BenchError if it is damaged."""
    data = _read(path)
    line, _, body = data.partition(b"\n")
    try:
        header = msgspec.json.decode(line)
        events = np.frombuffer(body, [(name, kind) for name, kind in header["dtype"]])
        if len(events) != header["count"]:
            raise ValueError(f"{len(events)} events instead of {header['count']}")
    except (msgspec.DecodeError, KeyError, TypeError, ValueError) as error:
        raise BenchError(f"{path} is damaged: {error}") from error
    return events, header["kinds"]


def _load_records(path: Path) -> list[Record]:
    rows = _lines(path / REQUESTS, dict[str, Any])
    events, kinds = load_events(path / EVENTS)
    counts = [row.pop("events", 0) for row in rows]
    if sum(counts) != len(events):
        raise BenchError(f"{path}: {REQUESTS} speaks of {sum(counts)} events, {EVENTS} has {len(events)}")
    columns = [events[name].tolist() for name in ("at_ns", "tokens", "kind", "coalesced")]
    each = (OutputEvent(at, k, kinds[kind], bool(joined)) for at, k, kind, joined in zip(*columns, strict=True))
    records = []
    for row, count in zip(rows, counts, strict=True):
        record = _convert(path / REQUESTS, row)
        record.events = [next(each) for _ in range(count)]
        records.append(record)
    return records


def _convert(path: Path, row: dict[str, Any]) -> Record:
    try:
        return msgspec.convert(row, Record)
    except msgspec.ValidationError as error:
        raise BenchError(f"{path} is damaged: {error}") from error


def _lines(path: Path, kind: type[Line]) -> list[Line]:
    try:
        return msgspec.json.Decoder(kind).decode_lines(_read(path))
    except msgspec.DecodeError as error:
        raise BenchError(f"{path} is damaged: {error}") from error


def _decode(path: Path, decoder: "msgspec.json.Decoder[Line]") -> Line:
    try:
        return decoder.decode(_read(path))
    except msgspec.DecodeError as error:
        raise BenchError(f"{path} is damaged: {error}") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BenchError(f"cannot read {path}: {error.strerror}") from error


def make_folder(path: Path) -> None:
    """Raises UsageError if it cannot be made."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write to {path}: {error.strerror}") from error


def write_json(path: Path, content: object) -> None:
    write_atomically(path, msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n")


def write_atomically(path: Path, content: bytes) -> None:
    """A reader sees the old file or the new one, never a part. Raises UsageError if the place cannot be written to."""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise UsageError(f"cannot write {path}: {error.strerror}") from error
        raise
