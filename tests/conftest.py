"""What holds for every test: few threads, reproducible examples, and the guards."""

import os
from collections.abc import Iterator

import hypothesis
import pytest
from guards import only_this_machine, pytest_configure, pytest_make_collect_report, pytest_runtest_makereport
from live_server import LiveServer

__all__ = ["only_this_machine", "pytest_configure", "pytest_make_collect_report", "pytest_runtest_makereport"]

# Before a test module imports numpy: each of pytest's workers computes on one core.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
    os.environ.setdefault(name, "1")
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
# With it huggingface_hub's InferenceClient refuses even this machine's own address.
os.environ.pop("HF_HUB_OFFLINE", None)

hypothesis.settings.register_profile("tgi", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("tgi")


@pytest.fixture(scope="session")
def live_server() -> Iterator[LiveServer]:
    """A real `tgi serve` with the built-in model, in its own processes."""
    with LiveServer.start() as server:
        yield server
