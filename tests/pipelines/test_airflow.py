"""A real Airflow makes what the exported DAG says: by its schedule, by hand, and after its tasks were killed.

`make test-airflow` makes Airflow's environment, which has no gptmill. `-s` shows where Airflow runs, and
GPTMILL_SCREENSHOT=FILE.png keeps its page of a run.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
import psutil
import pytest
from airflow_instance import COMMAND, Airflow
from mlflow.entities import Run
from mlflow_server import MlflowServer
from slurm_cluster import slurm_cluster
from typer.testing import CliRunner

from pipelines.cli import app
from tiny_project import ROOT, Project, environment

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.timeout(3000),
    pytest.mark.skipif(COMMAND not in os.environ, reason=f"{COMMAND} names no airflow: make test-airflow"),
]

STAGES = ["clean", "dedup", "tokenizer", "shards", "pretrain", "finetune", "evaluate"]
SCREENSHOT = "GPTMILL_SCREENSHOT"


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    with MlflowServer(tmp_path_factory.mktemp("mlflow")) as server:
        yield server


@pytest.fixture(scope="module")
def airflow(tracking: MlflowServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    folder = tmp_path_factory.mktemp("airflow")
    with Airflow(folder, environment={"MLFLOW_TRACKING_URI": tracking.uri}) as running:
        print(f"\nAirflow on {running.uri}, its home is {folder}")
        yield running


@pytest.fixture(params=["tiny", "demo"])
def scheduled(request: pytest.FixtureRequest, project: Project) -> Project:
    """Its recipe's name is the DAG's."""
    return project if request.param == "tiny" else Project(ROOT / "recipes" / "demo.yaml")


@contextmanager
def exported(project: Project, airflow: Airflow, workspace: Path, *words: str, **variables: str) -> Iterator[str]:
    """Name of the DAG, which waits for less than a minute; its gptmill is this checkout's, with these variables set.

    No less than 20 seconds before a look again: while Airflow has not yet noted that a task gave its slot back, it
    takes the next look for a task that has vanished, and counts a try.
    """
    launcher = workspace.parent / "gptmill"
    variables["PYTHONPATH"] = environment()["PYTHONPATH"]
    own = " ".join(f"{key}={shlex.quote(value)}" for key, value in variables.items())
    launcher.write_text(f'#!/bin/sh\n{own} exec {shlex.quote(sys.executable)} -m pipelines "$@"\n')
    launcher.chmod(0o755)
    command = ["export", "airflow", str(project.recipe), "--set", f"workspace={workspace}", *words]
    done = CliRunner().invoke(app, [*command, "--gptmill", str(launcher)])
    assert done.exit_code == 0, done.output
    impatient = done.output.replace("DELAY = timedelta(minutes=1)", "DELAY = timedelta(seconds=2)")
    impatient = impatient.replace("WAIT = timedelta(minutes=1)", "WAIT = timedelta(seconds=20)")
    found = re.search('^NAME = "(.*)"$', impatient, re.MULTILINE)
    assert found, impatient
    name = found[1]
    (airflow.dags / f"{name}.py").write_text(impatient)
    airflow.wait_for(lambda: name in airflow.names() or airflow.get("importErrors")["total_entries"])
    assert airflow.get("importErrors")["import_errors"] == []
    airflow.send("PATCH", f"dags/{name}", {"is_paused": False})
    try:
        yield name
    finally:
        airflow.send("PATCH", f"dags/{name}", {"is_paused": True})


def finish(airflow: Airflow, name: str, number: int) -> tuple[str, str]:
    """(id, state) of the DAG's run with that number, from 0, once it has ended."""
    for _ in range(8):  # times the patience
        try:
            airflow.wait_for(
                lambda: len(runs := airflow.runs(name)) > number and runs[number]["state"] in ("success", "failed")
            )
        except AssertionError:
            continue
        break
    run = airflow.runs(name)[number]
    return run["dag_run_id"], run["state"]


def runners(workspace: Path, stage: str) -> list[psutil.Process]:
    """The processes `gptmill run --only STAGE`."""
    words = {f"workspace={workspace}", "--only", stage}
    return [process for process in psutil.process_iter(["cmdline"]) if words <= set(process.info["cmdline"] or ())]


def pipeline_runs(tracking: MlflowServer, name: str) -> list[Run]:
    client = mlflow.MlflowClient(tracking.uri)
    experiment = client.get_experiment_by_name("gptmill")
    found = client.search_runs([experiment.experiment_id]) if experiment else []
    return [run for run in found if "mlflow.parentRunId" not in run.data.tags and run.info.run_name == name]


def test_on_a_schedule_it_makes_all_once_and_a_killed_task_starts_nothing_twice(
    scheduled: Project, airflow: Airflow, tracking: MlflowServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    workspace = tmp_path_factory.mktemp("scheduled") / "workspace"
    words = ["--schedule", "* * * * *", "--param", "evaluate.sample_tokens"]
    with exported(scheduled, airflow, workspace, *words) as name:
        # The task's process is killed while the stage trains; its gptmill goes on, and the next try waits for that.
        airflow.wait_for(lambda: airflow.runs(name))
        first = airflow.runs(name)[0]["dag_run_id"]
        airflow.wait_for(lambda: any(workspace.glob("pretrain/*/checkpoints/latest")))
        (runner,) = runners(workspace, "pretrain")
        training = [runner, *runner.children(recursive=True)]
        for process in training:
            process.suspend()  # so that the next try finds it, however short it is
        os.kill(runner.ppid(), signal.SIGKILL)
        airflow.wait_for(lambda: "gives its slot back" in airflow.log(name, first, "pretrain"))
        for process in training:
            process.resume()

        assert finish(airflow, name, 0) == (first, "success")
        tasks = airflow.tasks(name, first)
        assert sorted(tasks, key=lambda stage: tasks[stage]["start_date"]) == STAGES
        assert tasks["pretrain"]["try_number"] == 2
        assert "resumed behind step" not in (scheduled.plan(workspace)["pretrain"].output / "log.txt").read_text()

        # One run of MLflow, which the last task leads to.
        (run,) = pipeline_runs(tracking, name)
        links = airflow.get(f"dags/{name}/dagRuns/{first}/taskInstances/evaluate/links")
        page = links["extra_links"]["MLflow"]
        assert page.startswith(tracking.uri)
        assert page.endswith(run.info.run_id)
        assert run.info.status == "FINISHED"

        # The next scheduled run has nothing to do.
        made = {stage: scheduled.artifact(workspace, stage).manifest.created_at for stage in STAGES}
        _, state = finish(airflow, name, 1)
        assert state == "success"
        assert {stage: scheduled.artifact(workspace, stage).manifest.created_at for stage in STAGES} == made
        assert len(pipeline_runs(tracking, name)) == 1
        if SCREENSHOT in os.environ:
            take_screenshot(f"{airflow.uri}/dags/{name}/runs/{first}", Path(os.environ[SCREENSHOT]))


def test_a_clusters_job_outlives_its_worker_and_its_task_and_the_next_try_attaches_to_it(
    project: Project, airflow: Airflow, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("slurm")
    workspace = folder / "workspace"
    changes = ["name=slurm", "cluster.train.launcher=slurm", "pretrain.tokens=200_000", "finetune.epochs=20"]
    words = [word for change in changes for word in ("--set", change)]
    with (
        slurm_cluster(folder / "slurm") as slurm,
        exported(project, airflow, workspace, *words, **slurm.environment) as name,
    ):
        run = airflow.send("POST", f"dags/{name}/dagRuns", {"logical_date": None})["dag_run_id"]

        # The worker dies with all that runs on it; Airflow tries again by itself.
        airflow.wait_for(lambda: any(workspace.glob("pretrain/*/handle.json")))
        (runner,) = runners(workspace, "pretrain")
        for process in [psutil.Process(runner.ppid()), *runner.children(recursive=True), runner]:
            process.kill()

        # Somebody ends the next task, which stops its runner, and has it made after all.
        airflow.wait_for(lambda: any(workspace.glob("finetune/*/handle.json")))
        airflow.send("PATCH", f"dags/{name}/dagRuns/{run}/taskInstances/finetune", {"new_state": "failed"})
        assert finish(airflow, name, 0) == (run, "failed")
        airflow.wait_for(lambda: not runners(workspace, "finetune"))
        clearing = {"dry_run": False, "dag_run_id": run, "task_ids": ["finetune"], "include_downstream": True}
        airflow.send("POST", f"dags/{name}/clearTaskInstances", {**clearing, "only_failed": False})

        assert finish(airflow, name, 0) == (run, "success")
        for stage in ("pretrain", "finetune"):
            assert airflow.tasks(name, run)[stage]["try_number"] == 2
            (log,) = workspace.glob(f"{stage}/*/log.txt")
            assert log.read_text().startswith(f"attached to the slurm job gptmill-{stage}-")
        told = slurm.ask("squeue", "--states=all", "--noheader", "--format=%j").splitlines()
        assert sorted(job.split("-")[1] for job in told) == ["finetune", "pretrain"]


def take_screenshot(page: str, path: Path) -> None:
    command = ["chromium", "--headless", "--no-sandbox", "--window-size=1400,900", "--virtual-time-budget=20000"]
    subprocess.run([*command, f"--screenshot={path}", page], check=True, capture_output=True)
