"""What several files of tests share: a Ray cluster of three nodes, started once."""

from collections.abc import Iterator

import pytest
from ray_cluster import RayCluster, ray_cluster
from ray_jobs import end_all

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
