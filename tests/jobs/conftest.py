"""What several files of tests share: a Ray cluster of three nodes, started once, and a place for MLflow's runs."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from ray_cluster import RayCluster, ray_cluster
from ray_jobs import end_all
from tracked_runs import VARIABLES

NODES = 3


@pytest.fixture(scope="session")
def ray_nodes() -> Iterator[RayCluster]:
    with ray_cluster(nodes=NODES) as running:
        yield running


@pytest.fixture
def cluster(ray_nodes: RayCluster) -> Iterator[RayCluster]:
    """All nodes are up, whatever a test has done to them; no process that a test started outlives it."""
    ray_nodes.start(NODES)
    yield ray_nodes
    end_all()


@pytest.fixture
def no_tracking_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def store_of_module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One workspace with a store for all tests of a file: making the database takes two seconds."""
    return tmp_path_factory.mktemp("workspace")
