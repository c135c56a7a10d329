"""A real training beside a real MLflow server with accounts that is killed and comes back.

All points arrive, each once, and nothing that it leaves holds a password.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow_server import ADMIN, PATIENCE_SECONDS, MlflowServer
from planted_secrets import EVERY, SECRETS, holders

from gpt_core.artifact import Artifact
from gpt_core.training.curves import STEPS, read_steps
from jobs.mlflow_store import Store
from jobs.pipeline_run import open_pipeline_run
from jobs.tracking import RUN_ID
from tiny_training import finish_telling, make_recipe, make_shards, make_tokenizer, start_training

STEPS_IN_ALL = 80
CPU = "system/cpu_utilization_percentage"


def metrics_of(store: Store, run_id: str) -> dict[str, float]:
    return dict(store.client.get_run(run_id).data.metrics)


def wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.train
@pytest.mark.mlflow
def test_a_server_that_goes_away_while_it_trains_has_every_point_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", RUN_ID, "RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, secret in SECRETS.items():
        monkeypatch.setenv(name, secret)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", ADMIN)
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "1")
    tokenizer = make_tokenizer(tmp_path / "tokenizer")
    inputs = {"shards": make_shards(tmp_path / "shards", tokenizer.root), "tokenizer": tokenizer}
    out = tmp_path / "out"
    with MlflowServer(tmp_path, admin_password=SECRETS["MLFLOW_TRACKING_PASSWORD"]) as server:
        settings = {"tokens": 32 * 32 * STEPS_IN_ALL, "batch_sequences": 32, "validate_every_steps": 40}
        slow = {"processes": 1, "micro_batch_sequences": 1}
        recipe = make_recipe(tmp_path, pretrain=settings, train=slow, tracking={"uri": server.uri})
        run = open_pipeline_run(recipe)
        identity = {"stage": "pretrain", "recipe": {}}
        stage = run.start_stage("pretrain", identity=identity, inputs={}, command=[])
        assert stage is not None
        for name, value in run.environment(stage).items():
            monkeypatch.setenv(name, value)
        job = start_training("pretrain", out, recipe, inputs, processes=1)
        wait(lambda: CPU in metrics_of(run.store, stage) or job.poll() is not None)
        wait(lambda: run.store.last_step(stage) > 0 or job.poll() is not None)
        seen = run.store.last_step(stage)
        server.kill()
        missed = len(list(read_steps(out / STEPS)))
        wait(lambda: len(list(read_steps(out / STEPS))) > missed or job.poll() is not None)  # it trains on
        server.start()
        artifact, told = finish_telling(job, out)
        run.finish_stage(stage, artifact)
        assert 0 < seen < STEPS_IN_ALL
        assert_every_point_once(run.store.client, stage, artifact)
        names = {entry.path for entry in run.store.client.list_artifacts(stage, "samples")}
        assert names == {f"samples/step-{step:06d}.txt" for step in (40, 80)}
        assert metrics_of(run.store, stage)[CPU] >= 0
        assert "of 1 ranks" in run.store.client.get_run(stage).data.tags["gptmill.mfu"]
        run.finish("FINISHED")
    assert not holders(tmp_path)
    assert EVERY not in told


def assert_every_point_once(client: object, run_id: str, artifact: Artifact) -> None:
    curves = json.loads(artifact.file("curves.json").read_text())
    assert {"train_loss", "validation_bits_per_byte", "mfu", "memory_bytes", "data_wait", "seconds_left"} <= set(curves)
    for name, points in curves.items():
        history = client.get_metric_history(run_id, name)  # type: ignore[attr-defined]
        assert sorted([metric.step, metric.value] for metric in history) == points, name
