"""`mlflow run --backend gptmill`: the recipe runs where cluster.json says, in MLflow's run, which ends as it does."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import mlflow
import pytest
from mlflow.entities import Run
from test_killed import UPSTREAM, wait_until

from tiny_project import ROOT, Project, environment

pytestmark = [pytest.mark.mlflow, pytest.mark.pipeline]


@pytest.fixture(autouse=True)
def _plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow finds the backend that pyproject.toml names, as if that had just been installed; the store is empty."""
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["mlflow.project_backend"]
    lines = [f"{name} = {target}" for name, target in points.items()]
    installed = tmp_path / "installed" / "gptmill-0.1.0.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: gptmill\nVersion: 0.1.0\n")
    (installed / "entry_points.txt").write_text("\n".join(["[mlflow.project_backend]", *lines, ""]))
    monkeypatch.syspath_prepend(str(installed.parent))
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "GPTMILL_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(installed.parent), environment()["PYTHONPATH"]]))
