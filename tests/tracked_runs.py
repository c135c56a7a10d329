"""Recipes and outputs for tests of what MLflow is told, and what a run then holds."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gpt_core.artifact import Artifact, Manifest, list_files, open_artifact, utc_now, write_json, write_manifest
from gpt_core.fingerprint import Json, fingerprint
from gpt_core.recipe import Recipe
from gpt_core.recipe_file import parse_recipe
from jobs.pipeline_run import PipelineRun, open_pipeline_run
from jobs.tracking import RUN_ID

if TYPE_CHECKING:
    from jobs.mlflow_store import Store

INPUT_DIGEST = "ab" * 32
FILE_DIGEST = "cd" * 32
VARIABLES = ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_REGISTRY_URI", RUN_ID, "RANK")


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


def history(store: "Store", run_id: str, key: str) -> list[tuple[int, float]]:
    return sorted((metric.step, metric.value) for metric in store.client.get_metric_history(run_id, key))


def start_watched(recipe: Recipe, stage: str, monkeypatch: pytest.MonkeyPatch) -> tuple[PipelineRun, str]:
    run = open_pipeline_run(recipe)
    run_id = run.start_stage(stage, identity=identity_of(stage), inputs={}, command=[])
    assert run_id is not None
    for name, value in run.environment(run_id).items():
        monkeypatch.setenv(name, value)
    return run, run_id
