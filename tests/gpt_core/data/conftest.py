"""Shards and a store to copy them to."""

from collections.abc import Iterator

import pytest
from object_store import ObjectStore, client, make_shards

from gpt_core.artifact import Artifact


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """An S3 server with the empty bucket `bucket`, which every client in this process and its children finds."""
    with ObjectStore() as store:
        for name, value in store.environment().items():
            monkeypatch.setenv(name, value)
        client().mkdir("s3://bucket")
        store.requests.clear()
        yield store


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Eight train shards and one for validation; read-only."""
    return make_shards(tmp_path_factory.mktemp("shards"))
