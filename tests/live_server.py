"""Starts `tgi serve` as a user does, in processes of its own, and stops it again."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue

from tgi_cli.options import FLAGS

START_SECONDS = 60.0  # a bound for a broken server, not a measure of a good one
STOP_SECONDS = 30.0
READY = re.compile(r"ready at (http://\S+)")


class LiveServer:
    """A running server: its `url`, and in `log` what it has written so far."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.log: list[str] = []
        self._ready: SimpleQueue[str | None] = SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        url = self._ready.get(timeout=START_SECONDS)
        assert url is not None, "tgi serve ended before it was ready:\n" + "".join(self.log)
        self.url = url

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            if found := READY.search(line):
                self._ready.put(found[1])
        self._ready.put(None)

    @classmethod
    @contextmanager
    def start(cls, *arguments: str) -> Iterator["LiveServer"]:
        """Run `tgi serve --port 0 *arguments` until the block ends. Raises AssertionError if it does not start."""
        settings = {flag.env for flag in FLAGS}
        environment = {name: value for name, value in os.environ.items() if name not in settings}
        process = subprocess.Popen(
            [sys.executable, "-m", "tgi_cli", "serve", "--port", "0", *arguments],
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        try:
            yield cls(process)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise
            finally:
                assert process.stderr is not None
                process.stderr.close()
