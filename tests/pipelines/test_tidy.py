"""What nobody needs goes from a workspace, and nothing else: not what is made, named, registered, or outside of it."""

import fcntl
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from made_workspace import make_outputs, write_project
from mlflow import MlflowClient
from process_cluster import ProcessCluster
from stage_output import write_output
from typer.testing import CliRunner, Result

from gpt_core.artifact import MANIFEST, Artifact, open_artifact, write_atomically
from gpt_core.recipe import Recipe
from jobs.launch.follow import attach_or_submit
from jobs.pipeline_run import open_pipeline_run
from jobs.tracking import known_stores
from pipelines import tidy
from pipelines.cli import app
from pipelines.lease import Lease
from pipelines.tidy import Findings, Item, find_rubbish, remove

HOUR = 3_600.0
DAY = 24 * HOUR


@pytest.fixture(autouse=True)
def _no_tracking_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_REGISTRY_URI"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a store in it, that knows of no model."""
    folder = tmp_path_factory.mktemp("store")
    MlflowClient(f"sqlite:///{folder}/mlflow.db").search_registered_models()
    return folder / "mlflow.db"


class Workspace:
    """The whole results of the recipe `tiny` in a workspace, as old as a week."""

    def __init__(self, folder: Path, store: Path) -> None:
        self.path = write_project(folder)
        self.recipe, self.made = make_outputs(self.path)
        self.root = Path(self.recipe.workspace)
        shutil.copyfile(store, self.root / "mlflow.db")
        self.age(7 * DAY)

    def age(self, seconds: float) -> None:
        moment = time.time() - seconds
        for folder, folders, files in os.walk(self.root):
            for path in (folder, *(Path(folder, name) for name in (*folders, *files))):
                os.utime(path, (moment, moment), follow_symlinks=False)

    def attempt(self, name: str, stage: str = "pretrain", age: float = 2 * HOUR) -> Path:
        """A killed attempt: no manifest."""
        root = self.root / stage / name
        write_atomically(root / "model" / "model.safetensors", "half")
        write_atomically(root / "recipe.json", self.recipe.model_dump_json())
        for path in (root / "model" / "model.safetensors", root / "model", root / "recipe.json", root):
            os.utime(path, (time.time() - age,) * 2)
        return root

    def forgotten(self, *overrides: str) -> tuple[Recipe, dict[str, Artifact]]:
        """Whole results that no run names."""
        recipe, made = make_outputs(self.path, "name=other", *overrides)
        shutil.rmtree(self.root / "runs" / "other")
        self.age(7 * DAY)
        return recipe, made

    def look(self, keep_days: float | None = None) -> Findings:
        return find_rubbish(self.root, keep_days=keep_days)

    def going(self, keep_days: float | None = None) -> list[Path]:
        return sorted(item.path for item in self.look(keep_days).items)

    def gc(self, *arguments: str) -> Result:
        return CliRunner().invoke(app, ["gc", "--workspace", str(self.root), *arguments])


@pytest.fixture
def workspace(tmp_path: Path, store: Path) -> Workspace:
    return Workspace(tmp_path, store)


# ------------------------------------------------------------------------------------------- killed attempts


def test_what_a_recipes_last_run_names_stays(workspace: Workspace) -> None:
    assert workspace.look() == Findings()


def test_a_killed_attempt_goes_once_it_is_an_hour_old(workspace: Workspace) -> None:
    old, young = workspace.attempt("0" * 12), workspace.attempt("1" * 12, age=HOUR / 2)
    assert workspace.going() == [old]
    assert workspace.going(keep_days=1) == []
    assert workspace.look().notes == [f"left alone: pretrain/{young.name}: changed not long ago"]


def test_an_attempt_that_somebody_makes_stays_however_quiet_it_is(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leased, locked, submitted = (workspace.attempt(digit * 12) for digit in "012")
    (locked / ".attempt").touch()
    cluster = ProcessCluster(tmp_path / "cluster")
    monkeypatch.setattr("pipelines.status.open_target", lambda *_: cluster)
    attach_or_submit(cluster, "slurm", ["sleep", "60"], submitted)
    workspace.age(2 * DAY)
    with Lease(leased), (locked / ".attempt").open() as lock:
        os.utime(leased, (1, 1))
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = workspace.look()
        assert found.items == []
        assert [note.partition(": ")[2].partition(" on ")[0][:42] for note in found.notes] == [
            f"pretrain/{'0' * 12}: process {os.getpid()}",
            f"pretrain/{'1' * 12}: a job runs in it",
            f"pretrain/{'2' * 12}: the slurm job gptmi",
        ]
    cluster.cut()
    workspace.age(2 * DAY)
    assert workspace.going() == [leased, locked]
    cluster.mend()
    cluster.close()
    assert workspace.going() == [leased, locked, submitted]


def test_a_training_that_can_go_on_from_a_checkpoint_stays_for_a_week(workspace: Workspace) -> None:
    root = workspace.attempt("0" * 12)
    write_atomically(root / "checkpoints" / "latest", "step-3")
    workspace.age(6 * DAY)
    assert workspace.going() == []
    assert workspace.look().notes == [f"left alone: pretrain/{'0' * 12}: goes on from its checkpoint; kept for 7 days"]
    assert workspace.going(keep_days=1) == [root]
    workspace.age(8 * DAY)
    assert workspace.going() == [root]


def test_what_killed_processes_left_beside_whole_results_goes(workspace: Workspace) -> None:
    clean, shards = workspace.made["clean"].root, workspace.made["shards"].root
    rubbish = [
        clean / ".manifest.json.123",
        clean / ".lease",
        clean / "environment.json",
        clean / "spark-scratch",
        shards / "runs",
        workspace.root / "clean" / ".lease-abc",
        workspace.root / "runs" / "tiny" / ".outputs.json.77",
        workspace.root / ".digests.json.5",
    ]
    (clean / "spark-scratch").mkdir()
    (shards / "runs").mkdir()
    for path in rubbish:
        (path / "part" if path.is_dir() else path).write_text('{"host": "x", "pid": 1, "since": "2020-01-01"}')
    assert workspace.going() == []
    workspace.age(2 * HOUR)
    assert workspace.going() == sorted(rubbish)
    assert workspace.gc("--yes").exit_code == 0
    assert [path for path in rubbish if path.exists()] == []
    assert {stage: open_artifact(made.root) is not None for stage, made in workspace.made.items()} == dict.fromkeys(
        workspace.made, True
    )


# --------------------------------------------------------------------------------------------------- results


def test_results_that_no_run_names_go_and_those_they_share_with_named_ones_stay(workspace: Workspace) -> None:
    _, made = workspace.forgotten("shards.seed=5")
    shared = {"clean", "dedup", "tokenizer"}
    assert workspace.going() == sorted(artifact.root for stage, artifact in made.items() if stage not in shared)
    assert workspace.going(keep_days=8) == []
    done = workspace.gc("--yes")
    assert done.exit_code == 0
    assert "removed 4 of 4" in done.stdout
    assert all(artifact.root.exists() == (stage in shared) for stage, artifact in made.items())
    assert workspace.look() == Findings()


def test_what_a_kept_result_or_attempt_is_made_of_stays(workspace: Workspace) -> None:
    _, made = workspace.forgotten("dedup.seed=5")
    os.utime(made["pretrain"].root / MANIFEST)  # as if it had been made just now
    gone = {artifact.root for artifact in made.values()} & set(workspace.going())
    assert gone == {made["finetune"].root, made["evaluate"].root}
    workspace.age(7 * DAY)
    (made["pretrain"].root / MANIFEST).unlink()
    (made["pretrain"].root / "identity.json").write_text(json.dumps(made["pretrain"].manifest.identity))
    with Lease(made["pretrain"].root):
        gone = {artifact.root for artifact in made.values()} & set(workspace.going())
    assert gone == {made["finetune"].root, made["evaluate"].root}


def test_the_model_that_another_recipe_began_with_stays(workspace: Workspace, tmp_path: Path) -> None:
    _, made = workspace.forgotten("dedup.seed=5")
    model = made["pretrain"].root / "model"
    files = [(name, entry) for entry in made["pretrain"].manifest.files for name in [Path(entry.path).name]]
    weights = [{"name": name, "sha256": entry.sha256} for name, entry in files if name == "model.safetensors"]
    root = workspace.root / "finetune" / ("0" * 12)
    write_atomically(root / "model" / "x", "tuned")
    identity = {"stage": "finetune", "inputs": {}, "files": {"init": weights}}
    write_output(root, "finetune", identity=identity)  # type: ignore[arg-type]
    (workspace.root / "runs" / "tuned").mkdir()
    (workspace.root / "runs" / "tuned" / "finetune").symlink_to(f"../../finetune/{root.name}")
    workspace.age(7 * DAY)
    assert model.exists()
    kept = {"pretrain", "shards", "tokenizer", "dedup", "clean"}
    assert workspace.going() == sorted(artifact.root for stage, artifact in made.items() if stage not in kept)


def test_a_result_that_a_run_names_by_now_is_not_removed(workspace: Workspace) -> None:
    _, made = workspace.forgotten("shards.seed=5")
    item = next(item for item in workspace.look().items if item.path == made["shards"].root)
    (workspace.root / "runs" / "back").mkdir()
    (workspace.root / "runs" / "back" / "outputs.json").write_text(json.dumps({"shards": str(item.path)}))
    assert remove(item, workspace.root) == "a recipe's run names it by now"
    with Lease(item.path):
        assert "is in use by now" in str(remove(item, workspace.root))
    assert open_artifact(item.path) is not None


def test_a_half_removed_result_never_looks_whole(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    _, made = workspace.forgotten("shards.seed=5")
    item = next(item for item in workspace.look().items if item.path == made["pretrain"].root)

    def killed(path: Path) -> None:
        raise PermissionError(1, "not permitted", str(path))

    monkeypatch.setattr(tidy, "_delete", killed)
    assert str(remove(item, workspace.root)).startswith("cannot be removed: ")
    assert (item.path / "model" / "model.safetensors").exists()
    assert open_artifact(item.path) is None
    assert not (item.path / ".lease").exists()


# ------------------------------------------------------------------------------------------ registered models


@pytest.mark.mlflow
def test_what_registered_versions_descend_from_stays_even_past_an_output_that_is_gone(workspace: Workspace) -> None:
    recipe, made = workspace.forgotten("dedup.seed=5")
    run = open_pipeline_run(recipe)
    for stage in ("pretrain", "finetune"):
        inputs = {name: Path(root) for name, root in made[stage].manifest.inputs.items()}
        run_id = run.start_stage(stage, identity=made[stage].manifest.identity, inputs=inputs, command=[])
        run.finish_stage(run_id, made[stage])
    run.finish("FINISHED")
    client = run.store.client
    client.create_registered_model("tiny")
    tags = {"gptmill.fingerprint": made["finetune"].manifest.fingerprint}
    client.create_model_version("tiny", f"file://{recipe.workspace}/elsewhere", None, tags=tags)  # no alias, no run
    shutil.rmtree(made["finetune"].root)
    workspace.age(7 * DAY)

    assert workspace.going() == [made["evaluate"].root]
    (note,) = workspace.look().notes
    assert note == "4 results that no run names stay, for registered models need them: models:/tiny/1"

    shutil.rmtree(made["pretrain"].root)
    assert workspace.going() == [made["evaluate"].root]
    for run_id in [r.info.run_id for r in client.search_runs(["1"]) if "gptmill.stage" in r.data.tags]:
        client.delete_run(run_id)
    found = workspace.look()
    assert found.items == []
    (note,) = found.notes
    assert note.startswith("no result is removed: models:/tiny/1: is made of ")


@pytest.mark.mlflow
def test_a_model_that_was_registered_by_hand_is_known_by_its_run_or_its_place(workspace: Workspace) -> None:
    recipe, made = workspace.forgotten("dedup.seed=5")
    run = open_pipeline_run(recipe)
    run_id = run.start_stage("pretrain", identity=made["pretrain"].manifest.identity, inputs={}, command=[])
    run.finish_stage(run_id, made["pretrain"])
    client = run.store.client
    client.create_registered_model("mine")
    client.create_model_version("mine", "file:///tmp/x", run_id)
    client.create_model_version("mine", str(made["evaluate"].root / "part.parquet"))
    workspace.age(7 * DAY)
    assert workspace.going() == []


@pytest.mark.mlflow
def test_where_a_store_cannot_be_asked_rubbish_goes_and_no_result(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.forgotten("dedup.seed=5")
    killed = workspace.attempt("0" * 12)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{nobody.getsockname()[1]}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    found = workspace.look()
    assert [item.path for item in found.items] == [killed]
    (note,) = found.notes
    assert note.startswith(f"no result is removed: MLflow's store {uri} cannot be asked: ")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    (workspace.root / "mlflow.db").unlink()
    assert workspace.look().notes == [
        "no result is removed: no MLflow store of this workspace is known; name it in MLFLOW_TRACKING_URI"
    ]


@pytest.mark.mlflow
def test_a_store_outside_the_workspace_is_remembered_without_its_password(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, _ = workspace.forgotten("dedup.seed=5")
    shutil.copyfile(workspace.root / "mlflow.db", tmp_path / "other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    open_pipeline_run(recipe)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert known_stores(workspace.root) == [f"sqlite:///{tmp_path}/other.db"]
    assert len(workspace.going()) == 6
    (tmp_path / "other.db").unlink()
    assert workspace.going() == []
    (workspace.root / ".stores.json").write_text('["postgresql://***@db/mlflow"]')
    assert workspace.look().notes == [
        "no result is removed: MLflow's store postgresql://***@db/mlflow holds models of this workspace; put its URI "
        "into MLFLOW_TRACKING_URI"
    ]


# ---------------------------------------------------------------------------------------------------- borders


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "outside"
    for name in ("a", "0" * 12):
        write_atomically(folder / name / "precious", "of somebody else")
        for path in (folder / name / "precious", folder / name):
            os.utime(path, (1, 1))
    yield folder
    assert [(folder / name / "precious").read_text() for name in ("a", "0" * 12)] == ["of somebody else"] * 2


def test_no_link_leads_out_of_the_workspace(workspace: Workspace, outside: Path) -> None:
    killed = workspace.attempt("1" * 12)
    (killed / "model" / "link").symlink_to(outside / "a")
    (killed / "link").symlink_to(outside / "a")
    (workspace.root / "pretrain" / ("2" * 12)).symlink_to(outside / ("0" * 12))
    shutil.rmtree(workspace.root / "evaluate")
    (workspace.root / "evaluate").symlink_to(outside)
    (workspace.root / "runs" / "out").symlink_to(outside)
    workspace.age(2 * DAY)
    assert workspace.going() == [killed]
    assert workspace.gc("--yes").exit_code == 0
    assert not killed.exists()
    told = remove(Item(workspace.root / "evaluate" / ("0" * 12), "attempt", "", 0, 0), workspace.root)
    assert told == "leads out of the workspace"


def test_names_in_runs_lead_nowhere_but_to_outputs_of_the_workspace(workspace: Workspace, outside: Path) -> None:
    folder = workspace.root / "runs" / "odd"
    folder.mkdir()
    (folder / "outputs.json").write_text(json.dumps({"clean": f"../../../outside/{'0' * 12}", "dedup": "/etc"}))
    (folder / "clean").symlink_to(outside / ("0" * 12))
    _, made = workspace.forgotten("shards.seed=5")
    (folder / "shards").symlink_to(f"/moved/away/shards/{made['shards'].root.name}")  # of a workspace that was moved
    assert made["shards"].root not in workspace.going()
    assert made["pretrain"].root in workspace.going()


def test_an_index_that_cannot_be_read_stops_everything(workspace: Workspace) -> None:
    workspace.forgotten("shards.seed=5")
    (workspace.root / "runs" / "tiny" / "outputs.json").write_text("[]")
    done = workspace.gc("--yes")
    assert "outputs.json: is no list of outputs; delete it and run the recipe again" in str(done.exception)


def test_a_damaged_result_is_left_alone_and_named(workspace: Workspace) -> None:
    _, made = workspace.forgotten("shards.seed=5")
    (made["evaluate"].root / MANIFEST).write_text("cut")
    workspace.age(7 * DAY)
    assert made["evaluate"].root not in workspace.going()
    assert any("manifest.json cannot be used" in note for note in workspace.look().notes)


# ---------------------------------------------------------------------------------------------- command line


def test_without_a_terminal_what_can_go_is_shown_and_nothing_goes(workspace: Workspace) -> None:
    killed = workspace.attempt("0" * 12)
    done = workspace.gc()
    assert "nothing is removed: this is no terminal to ask at; give --yes" in str(done.exception)
    lines = [" ".join(line.split()) for line in done.stdout.splitlines() if line.strip()]
    size = sum(path.lstat().st_size for path in (killed, *killed.rglob("*")))
    assert lines[0] == "path why size age"
    row = f"pretrain/{killed.name} killed attempt: no manifest, and nobody makes it {size / 1e3:.3g} kB 2 h"
    assert lines[2] == row
    assert lines[-1].startswith("1 in all")
    assert killed.exists()


@pytest.mark.parametrize(("answer", "stays"), [("n\n", True), ("y\n", False)])
def test_at_a_terminal_it_asks(workspace: Workspace, monkeypatch: pytest.MonkeyPatch, answer: str, stays: bool) -> None:
    killed = workspace.attempt("0" * 12)
    monkeypatch.setattr("pipelines.tidy_cli.at_terminal", lambda: True)
    done = CliRunner().invoke(app, ["gc", "--workspace", str(workspace.root)], input=answer)
    assert "remove all of these?" in done.stdout
    assert done.exit_code == 0
    assert killed.exists() is stays


def test_a_folder_that_is_no_workspace_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["gc", "--workspace", str(tmp_path)])
    assert "is no workspace; give the folder that a recipe names as `workspace`" in str(done.exception)
