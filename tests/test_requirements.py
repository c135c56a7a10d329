"""One list of requirements: pyproject.toml names them, requirements.lock pins them, conda.yaml takes the lock."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def name_of(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found
    return re.sub(r"[-_.]+", "-", found.group()).lower()


def pinned() -> dict[str, set[str]]:
    pins: dict[str, set[str]] = {}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        requirement, _, _ = line.partition(";")
        name, equals, version = requirement.strip().partition("==")
        assert equals, f"not pinned: {line}"
        pins.setdefault(name_of(name), set()).add(version)
    return pins


def test_the_lock_pins_every_requirement_and_extra() -> None:
    wanted = [
        *PROJECT["dependencies"],
        *(name for extra in PROJECT["optional-dependencies"].values() for name in extra),
    ]
    assert {name_of(requirement) for requirement in wanted} <= pinned().keys()


def test_the_lock_agrees_with_the_exact_pins_of_the_project() -> None:
    for requirement in PROJECT["dependencies"]:
        name, equals, version = requirement.partition("==")
        if equals:
            assert pinned()[name_of(name)] == {version}


def test_the_lock_leaves_cuda_to_torch() -> None:
    assert [name for name in pinned() if name.startswith(("nvidia-", "cuda-", "triton"))] == []


def test_conda_brings_python_java_and_the_lock() -> None:
    dependencies = yaml.safe_load((ROOT / "conda.yaml").read_text())["dependencies"]
    named = [entry for entry in dependencies if isinstance(entry, str)]
    (pip,) = [entry["pip"] for entry in dependencies if isinstance(entry, dict)]
    assert any(re.fullmatch(r"python[=>]+3\.1[123](\.\d+)?", entry) for entry in named)
    assert any(entry.startswith("openjdk") for entry in named)
    assert pip == ["-r requirements.lock"]


def test_pytest_and_xdist_agree_on_groups(request: pytest.FixtureRequest) -> None:
    if not getattr(request.config.option, "loadgroup", False):
        pytest.skip("one process: no groups")
    assert request.node.nodeid.endswith(f"@{request.path}")
