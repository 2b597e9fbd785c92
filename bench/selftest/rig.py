"""Puts a load on the mock and lays what the client saw beside what the mock did."""

import random
import resource
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.api.decode import decode
from bench.api.encode import RequestOptions, encode
from bench.api.target import Target
from bench.client.address import Address
from bench.client.pool import run_load
from bench.load.arrivals import Load
from bench.load.plan import schedule
from bench.mock import Behaviour, MockServer, Truth, TruthStream
from bench.mock.truth import stream_number
from bench.types import Api, BenchError, Item, Outcome, PlannedRequest, RawStream, Record


class Pair(NamedTuple):
    """One request as both sides saw it."""

    raw: RawStream
    record: Record
    truth: TruthStream


class Exchange(NamedTuple):
    pairs: list[Pair]
    truth: Truth
    receiving_s: float  # processor time of the workers, and of this process while it collected from them
    parsing_s: float

    @property
    def events(self) -> int:
        return sum(len(pair.record.events) for pair in self.pairs)

    def stamp_errors(self) -> NDArray[np.float64]:
        """Seconds between the mock's stamp of each event and the client's, without regard to sign."""
        ours = np.array([event.at_ns for pair in self.pairs for event in pair.record.events])
        theirs = np.array([at for pair in self.pairs for at in pair.truth.sent_ns])
        return np.asarray(np.abs(ours - theirs) / 1e9)


def target_of(mock: MockServer, api: Api) -> Target:
    """What `detect` would find, without the questions, which would be in the truth."""
    address = Address.parse(mock.url)
    return Target(
        url=mock.url,
        address=address,
        api=api,
        model="mock-model",
        kind="mock",
        can_ignore_eos=True,
        can_token_ids=True,
        tokenize_path="/tokenize",
    )


def exchange(
    behaviour: Behaviour, load: Load, *, requests: int, output_tokens: int, api: Api = Api.COMPLETIONS
) -> Exchange:
    """Run a load of so many requests on a new mock, from one worker. Raises BenchError unless every one is OK."""
    with MockServer.start(behaviour) as mock:
        target = target_of(mock, api)
        items = [Item(index=i, prompt=f"request number {i}", output_tokens=output_tokens) for i in range(requests)]
        options = RequestOptions()
        planned = [PlannedRequest(index=item.index, payload=encode(target, item, options)) for item in items]
        timed = schedule(planned, load.times(random.Random(0)))  # noqa: S311 - of arrivals, not of secrets
        start = _cpu_seconds()
        result = run_load(target.address, timed, load, workers=1)
        received = _cpu_seconds()
        records = [decode(raw, target, items[raw.index]) for raw in result.streams]
        parsed = _cpu_seconds()
        truth = mock.truth()
    return Exchange(list(_matched(result.streams, records, truth)), truth, received - start, parsed - received)


def _matched(streams: Sequence[RawStream], records: Sequence[Record], truth: Truth) -> Iterator[Pair]:
    by_number = truth.by_number()
    for raw, record in zip(streams, records, strict=True):
        if record.outcome is not Outcome.OK:
            raise BenchError(f"request {raw.index} to the mock ended with {record.outcome}: {record.error}")
        number = stream_number(b"".join(read.data for read in raw.reads))
        if number is None or len(by_number[number].sent_ns) != len(record.events):
            raise BenchError(f"request {raw.index} does not have the events that the mock sent for it")
        yield Pair(raw, record, by_number[number])


def _cpu_seconds() -> float:
    """Of this process, and of its children that have ended: workers have, the mock has not."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime
