"""What the runner tells MLflow of a pipeline and its stages; nothing of it is lost where the store goes away."""

import json
import os
from pathlib import Path

import pytest
from tracked_runs import (
    FILE_DIGEST,
    INPUT_DIGEST,
    history,
    identity_of,
    make_output,
    recipe_in,
    start_watched,
)

from gpt_core.artifact import Artifact
from gpt_core.errors import UserError
from gpt_core.fingerprint import Json
from jobs.pipeline_run import open_pipeline_run, record_late
from jobs.tracking import metric_logger, tracking_uri

pytestmark = pytest.mark.usefixtures("no_tracking_in_the_environment")


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
    link = f"[evaluate](#/experiments/{first.experiment_id}/runs/{made})"
    for run, how in ((first, "made"), (second, "was&nbsp;there")):
        note = run.store.client.get_run(run.run_id).data.tags["mlflow.note.content"]
        assert f"| {link} &emsp; | {how} &emsp; | `{artifact.manifest.fingerprint[:12]}` &emsp; |" in note


@pytest.mark.mlflow
def test_a_value_too_long_for_a_parameter_is_whole_in_the_artifact_that_it_names(store_of_module: Path) -> None:
    run = open_pipeline_run(recipe_in(store_of_module))
    identity = {**identity_of("clean"), "recipe": {"clean": {"files": ["x" * 7_000], "seed": 0}}}
    run_id = run.start_stage("clean", identity=identity, inputs={}, command=[])
    short = run.start_stage("dedup", identity=identity_of("dedup"), inputs={}, command=[])
    assert run_id is not None
    assert short is not None
    client = run.store.client
    parameters = client.get_run(run_id).data.params
    assert parameters["clean.files"].endswith("xxx ... (whole in identity.json)")
    assert json.loads(Path(client.download_artifacts(run_id, "identity.json")).read_text()) == identity
    assert client.list_artifacts(short) == []


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
    assert (retries[0], set(retries[1:])) == (None, {"1"})  # waited for once


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
    note = parent.data.tags["mlflow.note.content"]
    assert all(f"runs/{run_id}) &emsp; | made" in note for run_id in (started, late.info.run_id))
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
