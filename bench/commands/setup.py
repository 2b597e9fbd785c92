"""From options to what is measured: the server, the load, the workload."""

import json
import math
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bench.commands.options import Options
from bench.types import UsageError

if TYPE_CHECKING:
    from bench.load.arrivals import Load
    from bench.runner import Scenario, Subject
    from bench.workload.items import Workload

OWN_URL = "http://127.0.0.1:3000"
DEFAULT_CONCURRENCY = 16
ROUNDS = 4  # requests for each place of a closed loop, where no end is given
LEAST_REQUESTS = 32
LEAST_SECONDS = 10  # of an open loop, likewise
MOST_WARMUP = 64
OWN_LIMIT = 128  # requests that our own server takes at once unless told otherwise
MOONCAKE = "timestamp"  # the field of a trace's line, in milliseconds
SCALED = re.compile(r"(?P<file>.+)x(?P<scale>\d+(?:\.\d+)?)")


def is_url(text: str) -> bool:
    return re.fullmatch(r"\w+://\S+|[\w.-]+:\d+(/\S*)?", text) is not None


def check_url(url: str | None, commands: tuple[str, ...] = ()) -> None:
    """Raises UsageError for an argument that is no URL, a mistyped command most likely."""
    if url is None or is_url(url):
        return
    from difflib import get_close_matches

    close = get_close_matches(url, commands, n=1)
    hint = f"; did you mean `tgi bench {close[0]}`?" if close else "; write http://HOST:PORT"
    raise UsageError(f"{url!r} is neither a URL nor a command{hint}")


@contextmanager
def server(options: Options, url: str | None, *, most: int = OWN_LIMIT) -> Iterator["Subject"]:
    """The server at `url`; without one, that of port 3000, or else our own with the built-in model, for the block.

    `most` is how many requests our own will have to take at once. Raises BenchError.
    """
    from bench.server.launch import Server, listens, own_command

    if url is None and not listens(OWN_URL):
        flags = ["--max-concurrent-requests", str(2 * most)] if most >= OWN_LIMIT else []
        command = own_command(*([options.model] if options.model else []), *flags)
        with Server(command) as started:
            yield subject(options, started.url, command=tuple(started.command), own=True)
        return
    yield subject(options, url or OWN_URL)


def subject(options: Options, url: str, *, command: tuple[str, ...] = (), own: bool = False) -> "Subject":
    """Find out what listens at `url`. Raises BenchError."""
    from bench.api.detect import detect
    from bench.runner import Subject

    model = None if own else options.model
    return Subject(target=detect(url, api=options.api, model=model, key=options.key), command=command)


def number(text: str, what: str) -> float:
    """One number where others allow a range. Raises UsageError."""
    from bench.ranges import numbers

    if text == "inf" and what == "--rate":
        return math.inf
    found = numbers(text, what)
    if len(found) != 1:
        raise UsageError(f"{what} {text}: a single run has one; use `tgi bench sweep` for several")
    return found[0]


def whole(value: float, what: str) -> int:
    if value != int(value):
        raise UsageError(f"{what} {value:g}: a whole number is needed")
    return int(value)


def load(options: Options, *, concurrency: float | None = None, rate: float | None = None) -> "Load":
    """The load of the options, or one with another concurrency or rate. Raises UsageError."""
    from bench.load.arrivals import Load

    if concurrency is None and rate is None and options.replay is None:
        if options.rate is not None and options.concurrency is not None:
            raise UsageError("--concurrency and --rate exclude each other; --max-concurrency limits a rate")
        if options.rate is not None:
            rate = number(options.rate, "--rate")
        else:
            text = options.concurrency or str(DEFAULT_CONCURRENCY)
            concurrency = number(text, "--concurrency")
    places = None if concurrency is None else whole(concurrency, "--concurrency")
    trace, scale = read_trace(options.replay) if options.replay and places is None and rate is None else (None, 1.0)
    requests = options.requests
    if requests is None and options.duration is None and trace is None:
        requests = _requests(places, rate)
    return Load(
        concurrency=places,
        rate=rate,
        arrival=options.arrival,
        ramp=_ramp(options.ramp),
        duration_s=options.duration,
        requests=requests,
        trace=trace,
        trace_scale=scale,
        max_concurrency=options.max_concurrency,
    )


def _requests(concurrency: int | None, rate: float | None) -> int:
    if concurrency is not None:
        return max(LEAST_REQUESTS, ROUNDS * concurrency)
    assert rate is not None
    return LEAST_REQUESTS if math.isinf(rate) else max(LEAST_REQUESTS, math.ceil(rate * LEAST_SECONDS))


def _ramp(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        start, seconds = (float(part) for part in text.split(":"))
    except ValueError:
        raise UsageError(f"--ramp {text!r}: write RATE:SECONDS, such as 1:30") from None
    return start, seconds


def read_trace(text: str) -> tuple[list[float], float]:
    """Seconds after the start from a file of numbers, or of JSON lines with a `timestamp` in milliseconds (Mooncake);
    and what to multiply them with. `FILEx2` is twice as fast. Raises UsageError.
    """
    scale, path = 1.0, Path(text).expanduser()
    if not path.is_file() and (match := SCALED.fullmatch(text)) and float(match["scale"]) > 0:
        scale, path = 1 / float(match["scale"]), Path(match["file"]).expanduser()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"--replay: cannot read {path}: {reason}") from None
    times = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                times.append(_moment(line))
            except (ValueError, KeyError, TypeError):
                raise UsageError(
                    f"--replay: {path}, line {number}: neither a number of seconds nor JSON with a {MOONCAKE!r}"
                ) from None
    first = min(times, default=0.0)
    return [moment - first for moment in times], scale


def _moment(line: str) -> float:
    if line.lstrip().startswith("{"):
        return float(json.loads(line)[MOONCAKE]) / 1000
    return float(line.split(",")[0])


def workload(options: Options) -> "Workload":
    """Raises UsageError."""
    from bench.workload.items import Workload, seeded

    prefix = _prefix(options.prefix)
    # Out of the file where it says, unless a length is asked for.
    out = None if options.data is not None and options.out_tokens == Options.out_tokens else _length(options.out_tokens)
    return seeded(
        Workload(
            in_tokens=_length(options.in_tokens),
            out_tokens=out,
            data=None if options.data is None else Path(options.data).expanduser(),
            prefix_groups=int(prefix.get("groups", 0)),
            prefix_tokens=int(prefix.get("len", 0)),
            prefix_zipf=prefix.get("zipf", 0.0),
            turns=options.turns,
            think_s=options.think,
            seed=options.seed,
            token_ids=options.token_ids,
        )
    )


def _length(text: str) -> int | str:
    from bench.ranges import number as parse

    return whole(parse(text, "--in and --out"), "--in and --out") if re.fullmatch(r"\d+k?", text) else text


def _prefix(text: str | None) -> Mapping[str, float]:
    from bench.ranges import number as parse

    if text is None:
        return {}
    found = {}
    for part in text.split(","):
        name, equals, value = part.strip().partition("=")
        if not equals or name not in ("groups", "len", "zipf"):
            raise UsageError(f"--prefix {text!r}: write groups=16,len=2k,zipf=1.1")
        found[name] = parse(value, f"--prefix {name}")
    return found


def scenario(
    options: Options, *, concurrency: float | None = None, rate: float | None = None, title: str = ""
) -> "Scenario":
    """Everything about a run but the server. Raises UsageError."""
    from bench.api.encode import RequestOptions
    from bench.metrics import Slo
    from bench.runner import Scenario

    made = load(options, concurrency=concurrency, rate=rate)
    if options.warmup is not None and options.warmup < 0:
        raise UsageError(f"--warmup {options.warmup}: it must be 0 or more")
    if options.timeout <= 0:
        raise UsageError(f"--timeout {options.timeout:g}: it must be above 0")
    places = made.concurrency or min(DEFAULT_CONCURRENCY, made.max_concurrency or DEFAULT_CONCURRENCY)
    return Scenario(
        workload=workload(options),
        load=made,
        warmup=min(MOST_WARMUP, places) if options.warmup is None else options.warmup,
        request=RequestOptions(temperature=options.temperature, ignore_eos=options.ignore_eos),
        slo=Slo.parse(options.slo) if options.slo else None,
        goodput=Slo.parse(options.goodput) if options.goodput else None,
        workers=options.workers,
        timeout_s=options.timeout,
        scrape=options.scrape,
        tokenizer=None if options.tokenizer is None else Path(options.tokenizer).expanduser(),
        title=title,
    )


def runs(options: Options, default: int) -> int:
    """How many runs of each load. Raises UsageError."""
    count = default if options.runs is None else options.runs
    if count < 1:
        raise UsageError(f"--runs {count}: it must be 1 or more")
    return count


def output(options: Options) -> Path:
    """The folder of the results, made before the first run, so that none ends at a place that cannot be written to."""
    from bench.report.rundir import make_folder

    place = Path(options.output or f"bench-results/{time.strftime('%Y%m%d-%H%M%S')}").expanduser()
    make_folder(place)
    return place
