import http.server
import json
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gpt_core.artifact import Artifact, Manifest, list_files, open_artifact, utc_now, write_json, write_manifest
from gpt_core.errors import SetupError, UserError
from gpt_core.fingerprint import Json, fingerprint
from gpt_core.recipe import Recipe
from gpt_core.recipe_file import parse_recipe
from jobs import tracking
from jobs.node_metrics import NodeWatch, watch_node
from jobs.pipeline_run import PipelineRun, open_pipeline_run, record_late
from jobs.run_records import datasets_of, flatten_parameters, metrics_of
from jobs.tracking import (
    RUN_ID,
    check_tracking,
    metric_logger,
    page_command,
    register_classifier,
    tracking_uri,
)

if TYPE_CHECKING:
    from jobs.mlflow_store import Store

ROOT = Path(tracking.__file__).parents[1]
INPUT_DIGEST = "ab" * 32
FILE_DIGEST = "cd" * 32


@pytest.fixture(autouse=True)
def _no_tracking_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_REGISTRY_URI", RUN_ID, "RANK"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def store_of_module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One workspace with a store for all tests: making the database takes two seconds."""
    return tmp_path_factory.mktemp("workspace")


def recipe_in(workspace: Path, **tracking: Json) -> Recipe:
    tree: dict[str, Json] = {
        "name": "tiny",
        "workspace": str(workspace),
        "corpus": {"inputs": [{"path": "a.jsonl"}]},
        "finetune": {"train": "t.jsonl", "validation": "v.jsonl", "test": "e.jsonl"},
        "tracking": dict(tracking),
    }
    return parse_recipe(tree, origin="test")


def make_output(
    root: Path, stage: str, files: dict[str, Json], *, written: Sequence[str] = (), **facts: dict[str, float]
) -> Artifact:
    identity = identity_of(stage)
    for name, tree in files.items():
        assert isinstance(tree, dict)
        write_json(root / name, tree)
    write_manifest(
        root,
        Manifest(
            stage=stage,
            fingerprint=fingerprint(identity),
            identity=identity,
            recipe_name="tiny",
            created_at=utc_now(),
            inputs={},
            files=list_files(root, [root / name for name in (*files, *written)]),
            counts={"steps": 40, "rejected.too short": 3},
            figures=facts.get("figures", {}),
            schemas={},
            versions={},
            command=["python"],
            host="here",
            git_commit=None,
            wall_seconds=1.5,
            cpu_seconds=2.5,
            peak_memory_bytes=10,
        ),
    )
    artifact = open_artifact(root)
    assert artifact is not None
    return artifact


def identity_of(stage: str) -> dict[str, Json]:
    return {
        "stage": stage,
        "revision": 1,
        "recipe": {stage: {"learning_rate": 0.002, "languages": ["en"], "seed": 0, "warmup": None}},
        "files": {"train": [{"name": "t.jsonl", "sha256": FILE_DIGEST}]},
        "inputs": {"shards": INPUT_DIGEST},
    }


# ------------------------------------------------------------------------------------- what the store is told


def test_parameters_are_leaves_by_their_path_and_lists_are_one_leaf() -> None:
    tree: dict[str, Json] = {"a": {"b": 0.002, "c": {"d": None, "e": True}}, "f": ["x", "y"], "g": "text", "h": {}}
    assert flatten_parameters(tree) == {
        "a.b": "0.002", "a.c.d": "null", "a.c.e": "true", "f": '["x", "y"]', "g": "text", "h": "{}",
    }  # fmt: skip


def test_a_parameter_beyond_the_stores_limit_is_cut_to_it() -> None:
    assert flatten_parameters({"a": "x" * 7_000})["a"] == "x" * 5_997 + "..."


def test_datasets_are_the_raw_files_and_the_inputs_with_digests_that_fit() -> None:
    file, output = datasets_of(identity_of("pretrain"), {"shards": Path("/w/shards/ab")})
    assert (file.name, file.role, file.sha256, file.digest) == ("t.jsonl", "train", FILE_DIGEST, FILE_DIGEST[:36])
    assert (output.name, output.sha256, output.location) == ("shards", INPUT_DIGEST, "/w/shards/ab")


def test_metric_names_are_what_mlflow_accepts(tmp_path: Path) -> None:
    artifact = make_output(tmp_path, "clean", {}, figures={"loss (nats)": 2.0})
    assert metrics_of(artifact) == {
        "steps": 40, "rejected.too short": 3, "loss _nats_": 2.0,
        "wall_seconds": 1.5, "cpu_seconds": 2.5, "peak_memory_bytes": 10,
    }  # fmt: skip


# ------------------------------------------------------------------------------------------ which store, at what cost


def test_without_a_run_to_report_to_a_job_never_imports_mlflow(tmp_path: Path) -> None:
    recipe = recipe_in(tmp_path).model_dump_json()
    code = f"""
import sys
from pathlib import Path
from gpt_core.recipe import Recipe
from jobs.tracking import metric_logger, page_command, register_classifier
recipe = Recipe.model_validate_json({recipe!r})
log = metric_logger(recipe)
log(1, {{"loss": 2.0}})
log.close()
assert register_classifier(recipe, Path("nowhere"), ["text"]) is None
page_command(recipe)
print(sorted({{"mlflow", "matplotlib", "torch", "pandas"}} & set(sys.modules)))
"""
    environment = {name: value for name, value in os.environ.items() if name != RUN_ID}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_only_rank_0_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUN_ID, "0" * 32)
    monkeypatch.setenv("RANK", "1")
    metric_logger(recipe_in(tmp_path, uri="http://127.0.0.1:9"))(0, {"loss": 1.0})
    assert register_classifier(recipe_in(tmp_path), tmp_path, ["text"]) is None


def test_the_recipes_uri_wins_over_the_environment_and_that_over_the_workspace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tracking_uri(recipe_in(tmp_path)) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    assert tracking_uri(recipe_in(tmp_path)) == f"sqlite:///{Path.cwd()}/mlflow.db"
    assert tracking_uri(recipe_in(tmp_path, uri="http://host:5000")) == "http://host:5000"


def test_the_page_of_a_server_is_its_address_and_that_of_a_database_a_command(tmp_path: Path) -> None:
    assert page_command(recipe_in(tmp_path, uri="http://host:5000")) == "http://host:5000"
    command = page_command(recipe_in(tmp_path))
    assert command.endswith(f" ui --backend-store-uri sqlite:///{tmp_path}/mlflow.db")


@pytest.mark.parametrize("alias", ["v9", "latest", "a.b"])
def test_an_alias_that_mlflow_would_refuse_after_the_training_is_refused_before(tmp_path: Path, alias: str) -> None:
    with pytest.raises(UserError, match=r"tracking\.alias: '.*' is no alias for MLflow"):
        check_tracking(recipe_in(tmp_path, alias=alias))


@pytest.mark.mlflow
def test_a_server_that_is_away_is_named_with_the_reason_and_the_way_out(tmp_path: Path) -> None:
    expected = r"^tracking\.uri: MLflow's store http://127\.0\.0\.1:9 cannot be used: connection refused; start it"
    with pytest.raises(SetupError, match=expected):
        check_tracking(recipe_in(tmp_path, uri="http://127.0.0.1:9"))


@pytest.mark.mlflow
def test_a_server_that_refuses_is_named_with_its_answer(tmp_path: Path, refusing_server: str) -> None:
    with pytest.raises(SetupError, match=f"{refusing_server} cannot be used: .*403"):
        check_tracking(recipe_in(tmp_path, uri=refusing_server))


@pytest.mark.mlflow
def test_a_deleted_experiment_is_refused_with_the_command_that_restores_it(store_of_module: Path) -> None:
    from mlflow import MlflowClient

    recipe = recipe_in(store_of_module, experiment="gone")
    check_tracking(recipe)
    client = MlflowClient(tracking_uri(recipe))
    experiment = client.get_experiment_by_name("gone")
    assert experiment is not None
    client.delete_experiment(experiment.experiment_id)
    with pytest.raises(UserError, match=rf"'gone' was deleted; .* experiments restore -x {experiment.experiment_id}"):
        check_tracking(recipe)


# ---------------------------------------------------------------------------------------------- a pipeline run


@pytest.mark.mlflow
def test_a_run_of_the_pipeline_holds_its_recipe_stages_lineage_and_result(
    store_of_module: Path, tmp_path: Path
) -> None:
    recipe = recipe_in(store_of_module)
    curves: dict[str, Json] = {"train_loss": [[0, 5.0], [40, 3.0]], "validation_loss": [[40, 3.1]], "learning_rate": []}
    artifact = make_output(tmp_path / "out", "pretrain", {"curves.json": curves}, figures={"train_loss": 3.0})
    report = tmp_path / "report.html"
    report.write_text("<html>")

    run = open_pipeline_run(recipe, command=["gptmill", "run"])
    stage_run = run.start_stage(
        "pretrain", identity=identity_of("pretrain"), inputs={"shards": tmp_path / "shards"}, command=["python", "-m"]
    )
    assert stage_run is not None
    run.finish_stage(stage_run, artifact)
    run.finish("FINISHED", report=report, metrics={"test_accuracy": 0.75})

    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri(recipe))
    parent, child = client.get_run(run.run_id), client.get_run(stage_run)
    assert (parent.info.status, parent.info.run_name) == ("FINISHED", "tiny")
    assert parent.info.artifact_uri.startswith((store_of_module / "mlartifacts").as_uri())
    assert parent.data.params["finetune.learning_rate"] == "6.25e-05"
    assert parent.data.metrics == {"test_accuracy": 0.75}
    assert parent.data.tags["gptmill.command"] == "gptmill run"
    assert parent.data.tags["gptmill.pretrain.run_id"] == stage_run
    assert {entry.path for entry in client.list_artifacts(run.run_id)} == {"recipe.json", "report.html"}
    saved = json.loads(Path(client.download_artifacts(run.run_id, "recipe.json")).read_text())
    assert saved == recipe.model_dump(mode="json")

    assert (child.info.status, child.info.run_name) == ("FINISHED", "pretrain")
    assert child.data.tags["mlflow.parentRunId"] == run.run_id
    assert child.data.tags["gptmill.fingerprint"] == artifact.manifest.fingerprint
    assert child.data.params["pretrain.learning_rate"] == "0.002"
    assert [(m.step, m.value) for m in client.get_metric_history(stage_run, "train_loss")] == [(40, 3.0)]
    files = {entry.path for folder in (None, "plots") for entry in client.list_artifacts(stage_run, folder)}
    assert files == {"manifest.json", "curves.json", "plots", "plots/training.png"}
    read = {item.dataset.name: item for item in child.inputs.dataset_inputs}
    assert read["shards"].dataset.digest == INPUT_DIGEST[:36]
    assert {tag.key: tag.value for tag in read["shards"].tags}["gptmill.sha256"] == INPUT_DIGEST
    assert read["t.jsonl"].dataset.digest == FILE_DIGEST[:36]


@pytest.mark.mlflow
def test_a_stage_that_was_whole_already_is_traced_to_the_run_that_made_it(
    store_of_module: Path, tmp_path: Path
) -> None:
    recipe = recipe_in(store_of_module, experiment="skips")
    artifact = make_output(tmp_path, "evaluate", {})
    first = open_pipeline_run(recipe)
    made = first.start_stage("evaluate", identity=identity_of("evaluate"), inputs={}, command=[])
    first.finish_stage(made, artifact)
    first.finish("FINISHED")
    second = open_pipeline_run(recipe)
    second.skip_stage("evaluate", artifact)
    tags = second.store.client.get_run(second.run_id).data.tags
    assert tags["gptmill.evaluate.run_id"] == made
    assert tags["gptmill.evaluate.fingerprint"] == artifact.manifest.fingerprint


@pytest.mark.mlflow
def test_a_failed_stage_holds_its_message_and_log_and_an_interrupted_one_ends_with_the_pipeline(
    store_of_module: Path, tmp_path: Path
) -> None:
    (tmp_path / "log.txt").write_text("the last words\n")
    run = open_pipeline_run(recipe_in(store_of_module))
    failed = run.start_stage("clean", identity=identity_of("clean"), inputs={}, command=[])
    run.fail_stage(failed, "clean: no space left", log=tmp_path / "log.txt")
    interrupted = run.start_stage("dedup", identity=identity_of("dedup"), inputs={}, command=[])
    run.finish("KILLED")
    assert failed is not None
    assert interrupted is not None
    runs = {name: run.store.client.get_run(run_id) for name, run_id in (("clean", failed), ("dedup", interrupted))}
    assert runs["clean"].info.status == "FAILED"
    assert runs["clean"].data.tags["gptmill.error"] == "clean: no space left"
    assert [entry.path for entry in run.store.client.list_artifacts(failed)] == ["log.txt"]
    assert runs["dedup"].info.status == "KILLED"
    assert run.store.client.get_run(run.run_id).info.status == "KILLED"


@pytest.mark.mlflow
def test_the_run_of_mlflow_run_is_continued_in_its_own_experiment(
    store_of_module: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_in(store_of_module)
    client = open_pipeline_run(recipe).store.client
    given = client.create_run(client.create_experiment("elsewhere", store_of_module.as_uri())).info
    client.log_param(given.run_id, "pretrain.learning_rate", "6e-4")  # as `mlflow run -P` logs what was typed
    monkeypatch.setenv("MLFLOW_RUN_ID", given.run_id)
    run = open_pipeline_run(recipe)
    assert (run.run_id, run.experiment_id) == (given.run_id, given.experiment_id)
    parameters = client.get_run(run.run_id).data.params
    assert (parameters["pretrain.learning_rate"], parameters["pretrain.beta2"]) == ("6e-4", "0.95")


@pytest.mark.mlflow
def test_a_run_id_that_the_store_does_not_have_is_refused_with_the_way_out(
    store_of_module: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    with pytest.raises(UserError, match=r"MLFLOW_RUN_ID: sqlite:.* has no run 0+; unset MLFLOW_RUN_ID, or"):
        open_pipeline_run(recipe_in(store_of_module))


@pytest.mark.mlflow
def test_a_store_that_goes_away_costs_a_warning_and_never_the_pipeline(
    store_of_module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = open_pipeline_run(recipe_in(store_of_module))

    retries: list[str | None] = []

    def gone(*_: object, **__: object) -> None:
        retries.append(os.environ.get("MLFLOW_HTTP_REQUEST_MAX_RETRIES"))
        raise OSError("HTTPConnectionPool: ([Errno 111] Connection refused')")

    for name in ("create_run", "log_batch", "set_tag", "set_terminated", "search_runs", "log_artifact"):
        monkeypatch.setattr(run.store.client, name, gone)
    stage = run.start_stage("clean", identity=identity_of("clean"), inputs={}, command=[])
    assert stage is None
    assert run.environment(stage) == {}
    run.finish_stage(stage, make_output(tmp_path, "clean", {}))
    run.skip_stage("dedup", make_output(tmp_path, "dedup", {}))
    run.finish("FINISHED", metrics={"a": 1.0})
    assert "MLflow: the start of clean was not recorded: connection refused" in caplog.text
    assert "MLflow: the end of the pipeline was not recorded" in caplog.text
    assert (retries[0], set(retries[1:])) == (None, {"0"})  # waited for once


# -------------------------------------------------------------------------------------------- called by jobs


@pytest.mark.mlflow
def test_a_jobs_points_stand_in_the_stages_run_after_close(
    store_of_module: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = recipe_in(store_of_module)
    run = open_pipeline_run(recipe)
    stage = run.start_stage("pretrain", identity=identity_of("pretrain"), inputs={}, command=[])
    for name, value in run.environment(stage).items():
        monkeypatch.setenv(name, value)
    log = metric_logger(recipe)
    for step in range(1_500):
        log(step, {"train_loss": 1.0 / (step + 1), "learning_rate": 0.1})
    log.close()
    assert stage is not None
    history = run.store.client.get_metric_history(stage, "train_loss")
    assert {m.step: m.value for m in history} == {step: 1.0 / (step + 1) for step in range(1_500)}
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.mlflow
def test_points_for_a_run_that_does_not_exist_are_dropped_with_a_warning_not_tried_again(
    store_of_module: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(RUN_ID, "0" * 32)
    log = metric_logger(recipe_in(store_of_module))
    log(0, {"train_loss": 1.0})
    log.close()
    assert "1 points of the metrics were not sent" in caplog.text


@pytest.mark.mlflow
def test_a_model_that_cannot_be_registered_costs_a_warning_not_the_training(
    store_of_module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(RUN_ID, "0" * 32)
    assert register_classifier(recipe_in(store_of_module), tmp_path / "nothing", ["text"]) is None
    assert "was not recorded" in caplog.text


@pytest.fixture
def refusing_server() -> Iterator[str]:
    class Refuse(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(403)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Refuse)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


# ------------------------------------------------------------------- what is lost by none, and told twice by none


def history(store: "Store", run_id: str, key: str) -> list[tuple[int, float]]:
    return sorted((metric.step, metric.value) for metric in store.client.get_metric_history(run_id, key))


def start_watched(recipe: Recipe, stage: str, monkeypatch: pytest.MonkeyPatch) -> tuple[PipelineRun, str]:
    run = open_pipeline_run(recipe)
    run_id = run.start_stage(stage, identity=identity_of(stage), inputs={}, command=[])
    assert run_id is not None
    for name, value in run.environment(run_id).items():
        monkeypatch.setenv(name, value)
    return run, run_id


@pytest.mark.mlflow
def test_a_job_that_starts_again_in_its_run_repeats_no_step(
    store_of_module: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_in(store_of_module)
    run, run_id = start_watched(recipe, "pretrain", monkeypatch)
    for attempt, steps in ((0, range(1, 6)), (1, range(3, 9))):
        log = metric_logger(recipe)
        for step in steps:
            log(step, {"tokens_per_second": 100.0 * attempt + step})
        log(4 + 4 * attempt, {"validation_loss": 3.0})
        log.close()
    told = [1.0, 2.0, 3.0, 4.0, 5.0, 106.0, 107.0, 108.0]
    assert history(run.store, run_id, "tokens_per_second") == list(enumerate(told, start=1))
    assert history(run.store, run_id, "validation_loss") == [(4, 3.0), (8, 3.0)]


@pytest.mark.mlflow
def test_points_that_a_job_could_not_send_are_sent_when_its_stage_ends(
    store_of_module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_in(store_of_module)
    run, run_id = start_watched(recipe, "pretrain", monkeypatch)
    log = metric_logger(recipe)
    log(1, {"train_loss": 5.0})
    log.close()
    run.finish_stage(run_id, make_steps(tmp_path, {1: 4.9, 2: 4.0, 40: 3.0}))
    assert history(run.store, run_id, "train_loss") == [(1, 5.0), (2, 4.0), (40, 3.0)]  # not the manifest's mean, too
    (metric,) = [m for m in run.store.client.get_metric_history(run_id, "train_loss") if m.step == 2]
    assert metric.timestamp == 1_700_000_000_002
    assert run.store.client.get_run(run_id).data.metrics["wall_seconds"] == 1.5


def make_steps(root: Path, losses: dict[int, float]) -> Artifact:
    lines = [{"step": n, "unix_ms": 1_700_000_000_000 + n, "train_loss": loss} for n, loss in losses.items()]
    root.mkdir(exist_ok=True)
    (root / "steps.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return make_output(root, "pretrain", {}, written=["steps.jsonl"], figures={"train_loss": 3.5})


@pytest.mark.mlflow
def test_a_fine_tunings_points_are_completed_from_its_curves(store_of_module: Path, tmp_path: Path) -> None:
    run = open_pipeline_run(recipe_in(store_of_module))
    run_id = run.start_stage("finetune", identity=identity_of("finetune"), inputs={}, command=[])
    assert run_id is not None
    curves: dict[str, Json] = {
        "pretrained": {"train_loss": [[1, 2.0], [2, 1.0]]},
        "scratch": {"train_loss": [[1, 2.5]]},
    }
    run.finish_stage(run_id, make_output(tmp_path, "finetune", {"curves.json": curves}))
    assert history(run.store, run_id, "pretrained_train_loss") == [(1, 2.0), (2, 1.0)]
    assert history(run.store, run_id, "scratch_train_loss") == [(1, 2.5)]


@pytest.mark.mlflow
def test_what_a_store_misses_until_the_end_is_recorded_by_the_next_run(
    store_of_module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = recipe_in(store_of_module)
    unrecorded = tmp_path / "unrecorded.json"
    run = open_pipeline_run(recipe, unrecorded=unrecorded)
    started = run.start_stage("pretrain", identity=identity_of("pretrain"), inputs={}, command=[])
    with monkeypatch.context() as away:

        def gone(*_: object, **__: object) -> None:
            raise OSError("HTTPConnectionPool: ([Errno 111] Connection refused')")

        for name in ("create_run", "log_batch", "set_tag", "set_terminated", "get_metric_history", "log_artifact"):
            away.setattr(run.store.client, name, gone)
        never_started = run.start_stage("evaluate", identity=identity_of("evaluate"), inputs={}, command=[])
        run.finish_stage(started, make_steps(tmp_path / "pretrain", {1: 5.0, 40: 3.0}))
        run.finish_stage(never_started, make_output(tmp_path / "evaluate", "evaluate", {}))
        run.finish("FINISHED", metrics={"test_accuracy": 0.75})
    assert "unrecorded.json names what was not recorded; the next `gptmill run` sends it" in caplog.text
    client = run.store.client
    assert started is not None
    assert client.get_run(run.run_id).info.status == "RUNNING"

    record_late(recipe, unrecorded)
    assert not unrecorded.exists()
    assert history(run.store, started, "train_loss") == [(1, 5.0), (40, 3.0)]
    parent = client.get_run(run.run_id)
    late = client.get_run(parent.data.tags["gptmill.evaluate.run_id"])
    assert [parent.info.status, client.get_run(started).info.status, late.info.status] == ["FINISHED"] * 3
    assert parent.data.metrics == {"test_accuracy": 0.75}
    assert late.data.metrics["wall_seconds"] == 1.5
    assert late.data.tags["mlflow.parentRunId"] == run.run_id
    record_late(recipe, unrecorded)  # nothing left


@pytest.mark.mlflow
def test_a_store_that_is_back_before_the_pipeline_ends_leaves_nothing_for_later(
    store_of_module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unrecorded = tmp_path / "unrecorded.json"
    run = open_pipeline_run(recipe_in(store_of_module), unrecorded=unrecorded)
    run_id = run.start_stage("pretrain", identity=identity_of("pretrain"), inputs={}, command=[])
    assert run_id is not None
    with monkeypatch.context() as away:
        away.setattr(run.store.client, "log_batch", lambda *_, **__: 1 / 0)
        run.finish_stage(run_id, make_steps(tmp_path / "out", {1: 5.0}))
    assert history(run.store, run_id, "train_loss") == []
    run.finish("FINISHED")
    assert history(run.store, run_id, "train_loss") == [(1, 5.0)]
    assert not unrecorded.exists()


# ------------------------------------------------------------------------------------------ every node's machine


@pytest.mark.mlflow
@pytest.mark.parametrize("nodes", [1, 2])
def test_a_machines_figures_stand_in_the_run_under_its_name_where_there_are_several(
    nodes: int, store_of_module: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_in(store_of_module)
    if nodes > 1:
        train = recipe.cluster.train.model_copy(update={"nodes": nodes, "rendezvous": "a:1"})
        recipe = recipe.model_copy(update={"cluster": recipe.cluster.model_copy(update={"train": train})})
        monkeypatch.setenv("RANK", "3")  # the first of its machine all the same
    run, run_id = start_watched(recipe, "pretrain", monkeypatch)
    with watch_node(recipe):
        pass
    figures = run.store.client.get_run(run_id).data.metrics
    prefix = "system/" if nodes == 1 else f"system/{socket.gethostname()}/"
    assert {f"{prefix}{name}" for name in ("cpu_utilization_percentage", "system_memory_usage_megabytes")} <= set(
        figures
    )
    assert all(name.startswith(prefix) for name in figures)
    assert run.store.last_step(run_id) == -1  # no step of a training
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert not isinstance(watch_node(recipe), NodeWatch)


def test_nobody_watches_a_machine_where_the_recipe_does_not_want_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(RUN_ID, "0" * 32)
    assert isinstance(watch_node(recipe_in(tmp_path)), NodeWatch)
    assert not isinstance(watch_node(recipe_in(tmp_path, system_metrics=False)), NodeWatch)
