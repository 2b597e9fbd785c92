"""How many threads numpy's BLAS uses. It asks the environment once, when numpy is first imported."""

import logging
import os
import sys
from pathlib import Path

from engine.config import ModelOptions

SMALL_MODEL = 200 << 20  # bytes of weights; below, threads wait for each other longer than they compute
VARIABLE = "OPENBLAS_NUM_THREADS"

log = logging.getLogger(__name__)


def limit_threads(options: ModelOptions) -> None:
    """Set the number that was asked for; one for a small model; otherwise leave it to the environment."""
    threads = options.threads
    if threads is None and VARIABLE not in os.environ and _weight_bytes(options.path) < SMALL_MODEL:
        threads = 1
    if threads is None:
        return
    if "numpy" not in sys.modules:
        os.environ[VARIABLE] = str(threads)
    elif options.threads is not None:
        log.warning("--threads %d has no effect, numpy is already loaded; set %s instead", threads, VARIABLE)


def _weight_bytes(path: str) -> int:
    return sum(file.stat().st_size for file in Path(path).glob("*.safetensors"))
