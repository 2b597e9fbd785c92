"""A real `tgi serve` of the built-in model with an encoder beside it, for clients that know nothing of tests."""

from collections.abc import Iterator

import pytest
from live_server import LiveServer
from tiny_models import make_checkpoint


@pytest.fixture(scope="session")
def live_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its URL. Vectors have 32 numbers."""
    encoder = make_checkpoint(tmp_path_factory.mktemp("encoder"), "BertModel", tokenizer=True)
    with LiveServer.start("--embedding-model-id", str(encoder)) as server:
        yield server.url
