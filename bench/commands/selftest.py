"""`tgi bench selftest`: what the load tester claims of itself, measured on this machine."""

import sys
from typing import Annotated

import typer


def selftest(
    quick: Annotated[bool, typer.Option("--quick", help="Every check, for a shorter time")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on standard output")] = False,
) -> None:
    """Certify the client on this machine against a server with known times; exit code 1 where a check fails."""
    from bench.selftest import run_selftest

    checks = run_selftest(quick, sys.stderr if as_json else sys.stdout)
    if as_json:
        import json

        rows = [
            {"name": c.name, "figure": c.figure if c.figure == c.figure else None, "unit": c.unit, "passed": c.passed}
            for c in checks
        ]
        print(json.dumps(rows))
    if not all(check.passed for check in checks):
        raise typer.Exit(1)
