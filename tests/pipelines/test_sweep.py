"""A sweep: combinations are checked before the first starts, share what they can, and are judged by validation."""

import io
import json
import shutil
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import pytest
from made_workspace import make_outputs, write_project
from rich.console import Console
from stage_output import write_output
from typer.testing import CliRunner

from gpt_core.artifact import Artifact
from gpt_core.errors import UserError
from gpt_core.fingerprint import fingerprint
from pipelines.cli import app
from pipelines.grid import Combination, read_grid
from pipelines.plan import make_plan
from pipelines.sweep import Judge, Sweep, Tried, check_combinations, describe_work, find_judge
from pipelines.sweep_cli import sweep_json, sweep_table
from tiny_project import Project, environment


def grid(folder: Path, *overrides: str) -> list[Combination]:
    return read_grid(write_project(folder), overrides)[1]


def test_what_combinations_have_in_common_is_made_once(tmp_path: Path) -> None:
    plans = [make_plan(c.recipe) for c in grid(tmp_path, "tokenizer.vocab_size=300,400", "finetune.epochs=1,2,3")]
    assert describe_work(plans) == (
        "6 combinations; outputs to make: clean 1, dedup 1, tokenizer 2, shards 2, pretrain 2, finetune 6, evaluate 6"
    )


@pytest.mark.parametrize(
    ("override", "until"),
    [
        ("finetune.learning_rate=1e-4,0.0001", None),
        ("finetune.learning_rate=1e-4,3e-4", "pretrain"),
        ("cluster.train.zero_stage=1,2", None),
        ("name=one,two", None),
        ("tracking.experiment=one,two", None),
    ],
)
def test_combinations_that_would_make_the_same_are_refused(tmp_path: Path, override: str, until: str | None) -> None:
    combinations = grid(tmp_path, override)
    make_outputs(tmp_path / "tiny.yaml")
    with pytest.raises(
        UserError, match=r" and .* make the same; sweep a field that the chosen stages \(clean, dedup, "
    ):
        check_combinations(combinations, only=None, until=until)


def test_a_combination_that_cannot_start_is_named_before_any_has(tmp_path: Path) -> None:
    combinations = grid(tmp_path, f"finetune.test={tmp_path}/test.jsonl,{tmp_path}/gone.jsonl")
    make_outputs(tmp_path / "tiny.yaml")
    with pytest.raises(UserError, match=r"finetune\.test: .*gone\.jsonl: no such file"):
        check_combinations(combinations, only=None, until=None)


@pytest.mark.parametrize(
    ("overrides", "until", "judge"),
    [
        (["finetune.epochs=1,2"], None, Judge("finetune", "validation_accuracy", 1, "test_accuracy")),
        (["finetune.epochs=1,2"], "finetune", Judge("finetune", "validation_accuracy", 1, None)),
        (
            ["finetune.epochs=1,2", "finetune.task=completion"],
            None,
            Judge("finetune", "validation_loss", -1, "test_loss"),
        ),
        (["pretrain.seed=1,2"], "pretrain", Judge("pretrain", "validation_bits_per_byte", -1, None)),
        (["pretrain.seed=1,2", "finetune=null"], None, Judge("pretrain", "validation_bits_per_byte", -1, None)),
        (["dedup.bands=16,32"], "dedup", None),
    ],
)
def test_combinations_are_judged_by_validation_never_by_test(
    tmp_path: Path, overrides: list[str], until: str | None, judge: Judge | None
) -> None:
    first = grid(tmp_path, *overrides)[0].recipe
    assert find_judge(first, make_plan(first, until=until))[0] == judge


def tried(folder: Path, label: str, validation: float | None, test: float = 0.5) -> Tried:
    combination = grid(folder, "finetune.epochs=1,2")[0]
    made: dict[str, Artifact] = {}
    for stage, figures in (("finetune", {"validation_accuracy": validation}), ("evaluate", {"test_accuracy": test})):
        if validation is not None:
            root = folder / label / stage
            root.mkdir(parents=True)
            known = {name: value for name, value in figures.items() if value is not None}
            made[stage] = write_output(root, stage, figures=known)
    error = None if made else "finetune: it failed\nand this is why"
    return Tried(Combination({"finetune.epochs": label}, combination.recipe), error=error, artifacts=made)


def sweep_of(folder: Path, *validations: float | None, sign: Any = 1) -> Sweep:
    judge = Judge("finetune", "validation_accuracy", sign, "test_accuracy")
    tests = [0.9 - 0.1 * n for n in range(len(validations))]  # the first is the best on the test split
    members = [tried(folder, str(n), value, tests[n]) for n, value in enumerate(validations)]
    return Sweep(judge, "evaluate", "run", "mlflow ui", members)


@pytest.mark.parametrize(
    ("validations", "sign", "best"),
    [
        ([0.5, 0.7, 0.6], 1, 1),
        ([0.5, 0.7, 0.6], -1, 0),
        ([0.5, None, 0.6], 1, 2),
        ([0.5, 0.7, 0.7], 1, 1),
        ([None, 0.2], 1, 1),
        ([0.5, 0.5], 1, None),
        ([None, None], 1, None),
    ],
)
def test_the_best_is_the_one_with_the_best_validation_figure(
    tmp_path: Path, validations: list[float | None], sign: int, best: int | None
) -> None:
    made = sweep_of(tmp_path, *validations, sign=sign)
    assert made.best is (None if best is None else made.tried[best])


def test_the_table_and_the_json_tell_values_figures_failures_and_the_best(tmp_path: Path) -> None:
    made = sweep_of(tmp_path, 0.5, None, 0.75)
    stream = io.StringIO()
    Console(file=stream, width=120).print(sweep_table(made))
    lines = [" ".join(line.split()) for line in stream.getvalue().splitlines()]
    assert lines[0] == "epochs validation accuracy test accuracy made now"
    assert lines[2:] == ["0 0.5 0.9", "1 failed: finetune: it failed", "2 0.75 0.7 best"]
    tree = sweep_json(made)
    assert json.loads(json.dumps(tree)) == tree
    assert tree["judged_by"] == {"stage": "finetune", "figure": "validation_accuracy", "more_is_better": True}
    assert [entry["figures"] for entry in tree["combinations"]] == [
        {"validation_accuracy": 0.5, "test_accuracy": 0.9},
        {},
        {"validation_accuracy": 0.75, "test_accuracy": 0.7},
    ]


def test_a_sweep_without_anything_to_try_says_how_it_is_written(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["sweep", str(write_project(tmp_path)), "--set", "dedup.bands=16"])
    assert "no field has several values; list them, section.field=VALUE,VALUE, or use `gptmill run`" in str(
        done.exception
    )


# ------------------------------------------------------------------------------------------- with real stages


def sweep(project: Project, workspace: Path, values: str, until: str) -> "subprocess.CompletedProcess[str]":
    command = project.command("sweep", workspace, "--set", values, "--until", until, "--json")
    return subprocess.run(command, cwd=workspace, env=environment(), capture_output=True, text=True, check=False)


def runs_in(workspace: Path) -> list[dict[str, Any]]:
    """Every run of the workspace's store, oldest first: its name, status, parent and tags."""
    with sqlite3.connect(workspace / "mlflow.db") as store:
        found = store.execute("select run_uuid, name, status from runs order by start_time").fetchall()
        tags: dict[str, dict[str, str]] = {run_id: {} for run_id, _, _ in found}
        for run_id, key, value in store.execute("select run_uuid, key, value from tags"):
            tags[run_id][key] = value
    return [{"id": i, "name": name, "status": status, "tags": tags[i]} for i, name, status in found]


@pytest.mark.pipeline
def test_a_stage_that_failed_for_one_combination_is_not_tried_for_the_next(tmp_path: Path) -> None:
    path = write_project(tmp_path)
    recipe, made = make_outputs(path)  # its documents are no Parquet, so the tokenizer's job really fails
    shutil.rmtree(made["tokenizer"].root)
    done = sweep(Project(path), Path(recipe.workspace), "shards.validation_fraction=0.1,0.2", "shards")
    assert done.returncode == 3, done.stderr
    first, second = json.loads(done.stdout)["combinations"]
    assert first["error"].startswith("tokenizer: the job exited 1")
    assert second["error"] == "tokenizer: failed already, for validation_fraction=0.1"
    runs = runs_in(Path(recipe.workspace))
    assert [(run["name"], run["status"]) for run in runs] == [
        ("tiny sweep", "FAILED"),
        ("tiny validation_fraction=0.1", "FAILED"),
        ("tokenizer", "FAILED"),
        ("tiny validation_fraction=0.2", "FAILED"),
    ]
    assert runs[3]["tags"]["gptmill.error"] == second["error"]


@pytest.mark.pipeline
def test_two_combinations_share_their_first_stages_and_stand_below_one_run(
    project: Project, whole: Path, tmp_path: Path
) -> None:
    shutil.copytree(whole / "clean", tmp_path / "clean")
    done = sweep(project, tmp_path, "tokenizer.vocab_size=300,400", "tokenizer")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [entry["made"] for entry in told["combinations"]] == [["dedup", "tokenizer"], ["tokenizer"]]
    assert len(list(tmp_path.glob("dedup/*/manifest.json"))) == 1
    assert len(list(tmp_path.glob("tokenizer/*/manifest.json"))) == 2
    for entry in told["combinations"]:
        assert (tmp_path / "runs" / entry["name"] / "tokenizer").resolve() == Path(entry["outputs"]["tokenizer"])
    runs = runs_in(tmp_path)
    names = [run["name"] for run in runs]
    assert names == ["tiny sweep", "tiny vocab_size=300", "dedup", "tokenizer", "tiny vocab_size=400", "tokenizer"]
    parent, first, dedup, _, second, _ = runs
    assert {run["status"] for run in runs} == {"FINISHED"}
    for member in (first, second):
        assert member["tags"]["mlflow.parentRunId"] == member["tags"]["gptmill.sweep"] == parent["id"]
        assert f"(#/experiments/1/runs/{member['id']})" in parent["tags"]["mlflow.note.content"]
    assert (
        f"[dedup](#/experiments/1/runs/{dedup['id']}) &emsp; | was&nbsp;there" in second["tags"]["mlflow.note.content"]
    )
    assert (
        fingerprint(dict(project.artifact(whole, "clean").manifest.identity))
        == first["tags"]["gptmill.clean.fingerprint"]
    )
