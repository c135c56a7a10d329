"""`mlflow run --backend gptmill`: the recipe runs where cluster.json says, in MLflow's run, which ends as it does."""

import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest
from mlflow.entities import Run

from gpt_core.errors import UserError
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


PATIENCE_SECONDS = 90


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, "never came"
        time.sleep(0.1)


def pipeline_runs() -> list[Run]:
    """MLflow's runs that no other holds."""
    runs = mlflow.MlflowClient().search_runs(["0"])
    return [run for run in runs if "mlflow.parentRunId" not in run.data.tags]


def mlflow_run(project: Project, workspace: Path, cluster: object, *words: str) -> "subprocess.CompletedProcess[str]":
    (workspace / "cluster.json").write_text(json.dumps(cluster))
    command = [sys.executable, "-m", "mlflow", "run", str(ROOT), "--backend", "gptmill", *words]
    settings = ["--backend-config", str(workspace / "cluster.json"), "-P", f"recipe={project.recipe}"]
    return subprocess.run(
        [*command, *settings, "-P", f"workspace={workspace}"], cwd=workspace, capture_output=True, text=True
    )


def upstream_of_pretrain(whole: Path, workspace: Path) -> None:
    for name in ("clean", "dedup", "tokenizer", "shards"):
        shutil.copytree(whole / name, workspace / name)


def test_the_stage_runs_where_the_file_says_and_the_command_line_does_not_wait(
    project: Project, whole: Path, tmp_path: Path
) -> None:
    upstream_of_pretrain(whole, tmp_path)
    done = mlflow_run(project, tmp_path, {"train": {"processes": 1}}, "-e", "pretrain")
    assert done.returncode == 0, done.stderr
    assert f"goes on by itself; it logs to {tmp_path}/runs/tiny/mlflow-run.log" in done.stderr
    wait_until(lambda: pipeline_runs()[0].info.status != "RUNNING")
    (run,) = pipeline_runs()
    assert run.info.status == "FINISHED", (tmp_path / "runs" / "tiny" / "mlflow-run.log").read_text()
    assert run.data.tags["mlflow.project.backend"] == "gptmill"
    assert run.data.params["cluster.train.processes"] == "1"
    output = project.artifact(tmp_path, "pretrain").root
    assert json.loads((output / "recipe.json").read_text())["cluster"]["train"]["processes"] == 1
    assert output.name == project.artifact(whole, "pretrain").root.name
    assert not (tmp_path / "finetune").exists()


def test_what_the_file_says_wrong_is_told_in_words_with_exit_code_2_and_leaves_no_run(
    project: Project, tmp_path: Path
) -> None:
    done = mlflow_run(project, tmp_path, {"train": {"processes": 2, "zero_stag": 1}})
    assert done.returncode == 2
    words = (
        "Error: --backend-config: 1 problem(s)\n  cluster.train.zero_stag: unknown field; did you mean 'zero_stage'?"
    )
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert pipeline_runs() == []


@pytest.mark.parametrize(
    ("cluster", "manager", "parameters", "message"),
    [
        ({"train.x=1": 2}, None, {}, "cluster: 'train.x=1' is no field's name"),
        ({}, "uv", {}, "--env-manager uv is refused: the stages run in gptmill's environment"),
        (
            {},
            None,
            {"pretrain.token": "1"},
            r"tiny.yaml: 1 problem\(s\)\n  pretrain.token: unknown field; did you mean",
        ),
    ],
)
def test_nothing_starts_where_something_is_refused(
    project: Project, cluster: dict[str, object], manager: str | None, parameters: dict[str, str], message: str
) -> None:
    parameters = {"recipe": str(project.recipe), **parameters}
    with pytest.raises(UserError, match=message):
        mlflow.projects.run(
            str(ROOT),
            parameters=parameters,
            backend="gptmill",
            backend_config=cluster,
            env_manager=manager,
            experiment_id="0",
        )


def test_a_cancelled_run_stops_and_one_that_fails_before_it_starts_ends_mlflows_run(
    project: Project, whole: Path, tmp_path: Path
) -> None:
    upstream_of_pretrain(whole, tmp_path)
    parameters = {"recipe": str(project.recipe), "workspace": str(tmp_path), "pretrain.tokens": "4000000"}
    run = mlflow.projects.run(
        str(ROOT), "pretrain", parameters=parameters, backend="gptmill", backend_config={}, synchronous=False
    )
    assert run.get_status() == "RUNNING"
    wait_until(lambda: any(tmp_path.glob("pretrain/*/progress.json")))
    run.cancel()
    assert run.get_status() == "KILLED"
    assert not run.wait()
    assert mlflow.MlflowClient().get_run(run.run_id).info.status in ("KILLED", "FAILED")
    assert not any(tmp_path.glob("pretrain/*/.lease"))
    assert any(tmp_path.glob("pretrain/*/checkpoints/latest"))

    with pytest.raises(mlflow.exceptions.ExecutionException, match="failed"):
        mlflow.projects.run(
            str(ROOT),
            parameters={**parameters, "finetune.test": "gone.jsonl"},
            backend="gptmill",
            backend_config={},
        )
    assert pipeline_runs()[0].info.status == "FAILED"  # the latest
