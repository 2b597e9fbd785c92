"""How long the commands take to start: `tgi --help` until it ends, `tgi serve` until it is ready.

    python -m bench.startup --runs 10

The commands are launched as a user launches them; nothing of ours is imported. Each is run once before it is
measured, so that files are in the page cache. The median and the extremes of wall time are shown: on a busy machine
the fastest run says most about the program, and the spread says how busy the machine was.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable


def launch(*arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tgi_cli", *arguments]
    return subprocess.Popen(  # noqa: S603  # this very interpreter, and arguments from this file
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def time_to_end(*arguments: str) -> float:
    """Seconds until a command has ended. Raises RuntimeError if it fails."""
    start = time.perf_counter()
    with launch(*arguments) as process:
        _, errors = process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"tgi {' '.join(arguments)} failed: {errors}")
    return time.perf_counter() - start


def time_to_ready(*arguments: str) -> float:
    """Seconds until a server says that it is ready. Raises RuntimeError if it ends before."""
    start = time.perf_counter()
    with launch(*arguments) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "ready at" in line:
                seconds = time.perf_counter() - start
                process.terminate()
                process.stderr.read()
                return seconds
    raise RuntimeError(f"tgi {' '.join(arguments)} ended before it was ready")


MEASURED: dict[str, Callable[[], float]] = {
    "tgi --help": lambda: time_to_end("--help"),
    "tgi generate, one token": lambda: time_to_end("generate", "A", "--max-new-tokens", "1"),
    "tgi serve, ready": lambda: time_to_ready("serve", "--port", "0"),
}


def measure(run: Callable[[], float], runs: int) -> list[float]:
    run()
    return sorted(run() for _ in range(runs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10, help="measured runs of each command")
    parser.add_argument("--json", action="store_true", help="print one JSON object with every run")
    args = parser.parse_args()
    if args.runs < 1:
        parser.error("--runs must be 1 or more")
    seconds = {name: measure(run, args.runs) for name, run in MEASURED.items()}
    machine = {"python": platform.python_version(), "machine": platform.machine(), "cores": os.cpu_count()}
    if args.json:
        print(json.dumps({"machine": machine, "seconds": seconds}))
        return
    print(", ".join(f"{key} {value}" for key, value in machine.items()), f"- {args.runs} runs each, seconds")
    print(f"{'':26}{'median':>8}{'min':>8}{'max':>8}")
    for name, times in seconds.items():
        print(f"{name:26}{statistics.median(times):8.3f}{times[0]:8.3f}{times[-1]:8.3f}")


if __name__ == "__main__":
    main()
