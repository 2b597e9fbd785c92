"""`python -m bench.mock`: the process behind `MockServer`. The behaviour comes as JSON on the first line of input."""

from bench.mock.server import run_child

run_child()
