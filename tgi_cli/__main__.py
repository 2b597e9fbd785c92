"""`python -m tgi_cli` is `tgi`."""

from tgi_cli.entry import main

main()
