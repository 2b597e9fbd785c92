"""`python -m tgi_cli` is `tgi`."""

from tgi_cli.app import main

main()
