"""Settings of all tests."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import hypothesis
import pytest
from kubernetes_api import KubernetesApi

# The first call of a kernel compiles it: no example's seconds say anything. CI draws the same examples every time.
hypothesis.settings.register_profile("gptmill", deadline=None, derandomize=bool(os.environ.get("CI")))
hypothesis.settings.load_profile("gptmill")


@pytest.hookimpl(tryfirst=True)  # before xdist looks at the groups
def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """With `-n 2 --dist loadgroup` a file's tests stay together, and so do those that share a run or a cluster."""
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        shared = "whole" if {"project", "whole"} & fixtures else "ray nodes" if "ray_nodes" in fixtures else None
        item.add_marker(pytest.mark.xdist_group(shared or str(item.path)))


@pytest.fixture
def kubernetes_api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubernetesApi]:
    """An API server, which kubectl and spark-submit find by the environment."""
    running = KubernetesApi(tmp_path)
    for name, value in running.environment.items():
        monkeypatch.setenv(name, value)
    yield running
    running.close()
