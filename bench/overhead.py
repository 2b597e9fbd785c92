"""What the HTTP process costs: its processor time for each streamed token, and how long it holds a token up.

    python -m bench.overhead --streams 32,256 --route /generate_stream

An engine that computes nothing stands in for the model: every step it makes one token for each request, and sends the
frames of a real one. Each token's log probability is the time of its step, on the clock that all processes of a
machine share, so whoever reads the stream knows how long the token was under way. The HTTP process has one core to
itself, where the machine has more than one; engine and client share the others.

Two figures are measured at each number of streams: flat out, where the engine sends as fast as the HTTP process
reads, and paced, where steps come at a fixed rate and the delay of each token means something.
"""

import argparse
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass

import numpy as np

from bench.client.address import Address
from bench.client.http1 import went_well
from bench.client.pool import run_load
from bench.load.arrivals import Load
from bench.types import BenchError, PlannedRequest, Read

MODULE = "bench.overhead"
STAMP = re.compile(rb'"(?:logprob|token_logprobs)":\[?([0-9.]+)')
TOKEN = 290  # " is" in the built-in model's vocabulary
BODIES = {
    "/generate_stream": {"inputs": "A river", "parameters": {"max_new_tokens": 0}},
    "/v1/completions": {"prompt": "A river", "max_tokens": 0, "stream": True, "logprobs": 0},
    "/v1/chat/completions": {
        "messages": [{"role": "user", "content": "A river?"}],
        "max_tokens": 0,
        "stream": True,
    },
}


@dataclass(frozen=True)
class Result:
    route: str
    streams: int
    steps_a_second: float  # 0 = flat out
    tokens: int
    tokens_a_second: float
    cpu_us: float  # of the HTTP process, for each token
    delay_p50_ms: float | None  # from the step to the client; None where the events do not say when it was
    delay_p99_ms: float | None


def payload(route: str, tokens: int) -> bytes:
    """A whole HTTP request for so many tokens."""
    body = json.loads(json.dumps(BODIES[route]))
    if "parameters" in body:
        body["parameters"]["max_new_tokens"] = tokens
    else:
        body["max_tokens"] = tokens
    data = json.dumps(body).encode()
    head = f"POST {route} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(data)}"
    return head.encode() + b"\r\n\r\n" + data


def measure(route: str, streams: int, tokens: int, steps_a_second: float) -> Result:
    """Stream `tokens` tokens to each of so many clients at once, from a server of its own."""
    planned = [PlannedRequest(index=i, payload=payload(route, tokens)) for i in range(streams)]
    load = Load(concurrency=streams, requests=streams)
    with serving(steps_a_second) as (address, pid):
        run_load(address, planned[: max(1, streams // 4)], load, workers=1)  # warms it up
        before = cpu_seconds(pid)
        result = run_load(address, planned, load, workers=1)
        used = cpu_seconds(pid) - before
    if not all(went_well(stream) for stream in result.streams):
        raise BenchError(f"a stream of {route} failed")
    each = [list(token_arrivals(stream.reads)) for stream in result.streams]
    arrivals = [arrival for stream in each for arrival in stream]
    if len(arrivals) != streams * tokens:
        raise BenchError(f"{len(arrivals)} tokens of {streams * tokens} arrived on {route}")
    times = [at for at, _ in arrivals]
    settled = max(stream[0][1] or 0.0 for stream in each)  # every stream has begun
    delays = [at / 1e6 - made * 1e3 for at, made in arrivals if made is not None and made > settled]
    p50, p99 = np.percentile(delays, (50, 99)) if delays else (None, None)
    return Result(
        route=route,
        streams=streams,
        steps_a_second=steps_a_second,
        tokens=len(arrivals),
        tokens_a_second=len(arrivals) / ((max(times) - min(times)) / 1e9),
        cpu_us=used / len(arrivals) * 1e6,
        delay_p50_ms=p50,
        delay_p99_ms=p99,
    )


def token_arrivals(reads: Sequence[Read]) -> Iterator[tuple[int, float | None]]:
    """When each token arrived, in ns, and when its step was, in seconds, where the event says so."""
    rest = b""
    for read in reads:
        *events, rest = (rest + read.data).split(b"\n\n")
        for event in events:
            if b'"finish_reason"' in event or b'"token"' in event:
                found = STAMP.search(event)
                yield read.at_ns, float(found[1]) if found else None


@contextmanager
def serving(steps_a_second: float) -> Iterator[tuple[Address, int]]:
    """A server in a process of its own, alone on the first core. Gives its address and process id."""
    cores = sorted(os.sched_getaffinity(0))
    command = [sys.executable, "-m", MODULE, "serve", "--rate", str(steps_a_second)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own command
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        if not url:
            raise BenchError("the server did not start")
        os.sched_setaffinity(process.pid, cores[:1])
        os.sched_setaffinity(0, cores[1:] or cores)
        yield Address.parse(url), process.pid
    finally:
        os.sched_setaffinity(0, cores)
        process.terminate()
        process.wait()


def cpu_seconds(pid: int) -> float:
    """Processor time of all threads of a process so far, to the nanosecond, as the kernel's scheduler counts it."""
    total = 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/schedstat") as file:
            total += int(file.read().split()[0])
    return total / 1e9


def serve(rate: float) -> None:
    """The server's process: the real HTTP side on an engine of this module. Prints its URL."""
    from engine.client import ProcessClient
    from engine.config import EngineOptions, ModelOptions, ServerOptions
    from engine.hub import builtin_model_path
    from engine.server.run import serve as serve_http
    from engine.text.tokenizer import Tokenizer

    path = builtin_model_path()

    def spawn(options: EngineOptions) -> tuple["subprocess.Popen[bytes]", socket.socket]:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", MODULE, "engine", "--fd", str(theirs.fileno()), "--rate", str(rate)]
        with theirs:
            return subprocess.Popen(command, pass_fds=[theirs.fileno()]), ours  # noqa: S603 - our own command

    client = ProcessClient(EngineOptions(model=ModelOptions(path=str(path))), spawn=spawn)
    options = ServerOptions(model_id="overhead", port=0, max_concurrent_requests=4096)
    serve_http(client, Tokenizer.load(path), options, lambda url, info: print(url, flush=True))


def pretend(connection: socket.socket, rate: float) -> None:
    """The engine's process: a token for every request in every step, until the other end is closed."""
    from engine.types import EngineInfo, EngineStats, FinishReason, TokenEvent
    from engine.wire import Cancel, FrameReader, Ready, Step, Submit, decode_message, frame

    info = EngineInfo(
        architecture="none",
        runtime="native",
        dtype="float32",
        vocab_size=8192,
        eos_token_ids=(2,),
        max_total_tokens=1 << 20,
        block_size=16,
        num_blocks=1 << 20,
        max_batch_size=1 << 12,
        max_batch_prefill_tokens=4096,
        num_parameters=0,
        weight_bytes=0,
        kv_bytes=0,
    )
    connection.sendall(frame(Ready(info)))
    frames, left, due = FrameReader(), dict[int, int](), time.monotonic()
    while True:
        connection.setblocking(not left)
        try:
            if not (data := connection.recv(1 << 20)):
                return
        except BlockingIOError:
            data = b""
        connection.setblocking(True)
        for message in map(decode_message, frames.feed(data)):
            if isinstance(message, Submit):
                left[message.request_id] = message.request.params.max_new_tokens
            elif isinstance(message, Cancel):
                left.pop(message.request_id, None)
        if rate:
            due = max(due + 1 / rate, time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))
        now = (time.monotonic(),)
        events = [
            TokenEvent(
                request_id=request_id,
                tokens=(TOKEN,),
                logprobs=now,
                finish_reason=FinishReason.LENGTH if count == 1 else None,
                seed=0 if count == 1 else None,
            )
            for request_id, count in left.items()
        ]
        left = {request_id: count - 1 for request_id, count in left.items() if count > 1}
        connection.sendall(frame(Step(tuple(events), EngineStats(running=len(events), step_size=len(events)))))


def show(results: Sequence[Result]) -> str:
    lines = [f"{'route':24}{'streams':>8}{'steps/s':>9}{'tokens/s':>10}{'CPU us':>8}{'p50 ms':>8}{'p99 ms':>8}"]
    for each in results:
        delays = "".join(f"{'-' if d is None else f'{d:.2f}':>8}" for d in (each.delay_p50_ms, each.delay_p99_ms))
        pace = f"{each.steps_a_second:.0f}" if each.steps_a_second else "flat out"
        lines.append(
            f"{each.route:24}{each.streams:8d}{pace:>9}{each.tokens_a_second:10,.0f}{each.cpu_us:8.1f}{delays}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=("measure", "serve", "engine"), default="measure")
    parser.add_argument("--streams", default="32,256", help="how many at once, one run for each")
    parser.add_argument("--route", action="append", choices=tuple(BODIES), help="repeatable; unset: every one")
    parser.add_argument("--tokens", type=int, default=400, help="of each stream")
    parser.add_argument("--rate", type=float, default=20.0, help="steps a second of the paced runs")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--fd", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part == "serve":
        serve(args.rate)
    elif args.part == "engine":
        with suppress(ConnectionError):  # the server has ended
            pretend(socket.socket(fileno=args.fd), args.rate)
    else:
        cases = [
            (route, streams, rate)
            for route in args.route or BODIES
            for streams in map(int, args.streams.split(","))
            for rate in (0.0, args.rate)
        ]
        results = [measure(route, streams, args.tokens, rate) for route, streams, rate in cases]
        print(json.dumps([asdict(each) for each in results]) if args.json else show(results))


if __name__ == "__main__":
    main()
