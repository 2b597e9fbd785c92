"""A server whose latencies are known: the ground truth that the load tester is tested against.

It speaks the streaming APIs of TGI and OpenAI, sends made-up tokens at set times, and writes down when it sent each
of them, on the clock that the load tester uses too. Nothing in it computes anything, so it is cheap enough to share
a core with the client it tests.
"""

from bench.mock.behaviour import Behaviour, Fault, Stall
from bench.mock.server import MockServer, serve
from bench.mock.truth import Truth, TruthStream

__all__ = ["Behaviour", "Fault", "MockServer", "Stall", "Truth", "TruthStream", "serve"]
