"""`python -m bench.peers`."""

from bench.peers.commands import peers

peers()
