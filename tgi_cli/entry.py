"""The console scripts. Ctrl-C also ends them quietly while the program is still being loaded."""

import sys


def main() -> None:
    """The console script `tgi`."""
    try:
        from tgi_cli import app

        app.main()
    except KeyboardInterrupt:
        sys.exit(130)


def launcher() -> None:
    """The console script `text-generation-launcher`."""
    try:
        from tgi_cli import app

        app.launcher()
    except KeyboardInterrupt:
        sys.exit(130)
