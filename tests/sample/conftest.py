"""Every law of sampling holds for each sampler."""

import pytest

from engine.sample import Sampler


@pytest.fixture(scope="session", params=["reference", "native"])
def sampler_type(request: pytest.FixtureRequest) -> type[Sampler]:
    if request.param == "reference":
        return Sampler
    return pytest.importorskip("engine.runtimes.native._native", exc_type=ImportError).Sampler
