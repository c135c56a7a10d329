import http.server
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
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

from gpt_core.errors import SetupError, UserError
from gpt_core.fingerprint import Json
from jobs import tracking
from jobs.node_metrics import NodeWatch, watch_node
from jobs.pipeline_run import open_pipeline_run
from jobs.registry import register_models
from jobs.run_records import datasets_of, flatten_parameters, metrics_of
from jobs.tracking import (
    RUN_ID,
    metric_logger,
    page_command,
    tracking_uri,
)
from jobs.tracking_check import check_tracking

ROOT = Path(tracking.__file__).parents[1]


pytestmark = pytest.mark.usefixtures("no_tracking_in_the_environment")


# ------------------------------------------------------------------------------------- what the store is told


def test_parameters_are_leaves_by_their_path_and_lists_are_one_leaf() -> None:
    tree: dict[str, Json] = {"a": {"b": 0.002, "c": {"d": None, "e": True}}, "f": ["x", "y"], "g": "text", "h": {}}
    assert flatten_parameters(tree, whole="recipe.json") == {
        "a.b": "0.002", "a.c.d": "null", "a.c.e": "true", "f": '["x", "y"]', "g": "text", "h": "{}",
    }  # fmt: skip


def test_a_parameter_beyond_the_stores_limit_is_cut_to_it_and_names_the_artifact_that_has_it_whole() -> None:
    end = " ... (whole in recipe.json)"
    assert flatten_parameters({"a": "x" * 6_000}, whole="recipe.json")["a"] == "x" * 6_000
    assert flatten_parameters({"a": "x" * 6_001}, whole="recipe.json")["a"] == "x" * (6_000 - len(end)) + end


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
from jobs.registry import register_models
from jobs.tracking import metric_logger, page_command
recipe = Recipe.model_validate_json({recipe!r})
log = metric_logger(recipe)
log(1, {{"loss": 2.0}})
log.close()
register_models(recipe, task_folder=Path("nowhere"), language_folder=Path("nowhere"), figures={{}})
page_command(recipe)
print(sorted({{"mlflow", "matplotlib", "torch", "pandas"}} & set(sys.modules)))
"""
    environment = {name: value for name, value in os.environ.items() if name != RUN_ID}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_only_rank_0_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv(RUN_ID, "0" * 32)
    monkeypatch.setenv("RANK", "1")
    metric_logger(recipe_in(tmp_path, uri="http://127.0.0.1:9"))(0, {"loss": 1.0})
    register_models(recipe_in(tmp_path), task_folder=tmp_path, language_folder=None, figures={})
    assert not caplog.records


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


def test_a_password_for_a_server_in_the_environments_uri_is_refused_and_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:planted@host")
    with pytest.raises(UserError, match=r"^MLFLOW_TRACKING_URI in the environment holds more .* MLFLOW_TRACKING_PASS"):
        check_tracking(recipe_in(tmp_path))
    assert page_command(recipe_in(tmp_path)) == "https://***@host"


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
    with pytest.raises(SetupError, match=f"{refusing_server} forbids us to use it: .*403"):
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
