"""The main job, with every engine, on real text."""

import shutil
import sqlite3
import subprocess
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tiny_project import Project, environment

pytestmark = pytest.mark.pipeline

STAGES = ["clean", "dedup", "tokenizer", "shards", "pretrain", "finetune", "evaluate"]


def test_every_stage_is_whole_and_linked_by_name(project: Project, whole: Path) -> None:
    for stage in STAGES:
        artifact = project.artifact(whole, stage)
        artifact.verify()
        assert (whole / "runs" / "tiny" / stage).resolve() == artifact.root


def test_documents_balance(project: Project, whole: Path) -> None:
    clean, dedup = (project.artifact(whole, stage).manifest.counts for stage in ("clean", "dedup"))
    rejected = sum(n for name, n in clean.items() if name.startswith("rejected."))
    assert clean["documents_in"] == 563
    assert clean["documents_in"] == clean["documents_kept"] + rejected
    assert clean["documents_kept"] == dedup["documents_in"]
    assert dedup["documents_in"] == dedup["documents_kept"] + dedup["duplicates_exact"] + dedup["duplicates_fuzzy"]
    shards = project.artifact(whole, "shards").manifest.counts
    assert shards["train_documents"] + shards["validation_documents"] == dedup["documents_kept"]


def test_malformed_lines_are_rejected_with_file_and_line(project: Project, whole: Path) -> None:
    rejected = pq.read_table(project.artifact(whole, "clean").files("rejected")).to_pylist()
    details = sorted(row["detail"] for row in rejected if row["reason"] == "malformed")
    assert len(details) == 2
    assert [detail.split("corpus.jsonl:")[1].split(":")[0] for detail in details] == ["11", "12"]


def test_french_and_the_copy_are_gone(project: Project, whole: Path) -> None:
    assert project.artifact(whole, "clean").manifest.counts["rejected.language"] >= 55
    assert project.artifact(whole, "dedup").manifest.counts["duplicates_exact"] >= 1


def test_the_table_and_the_report_tell_what_came_out(project: Project, whole: Path) -> None:
    told = (whole / "output.txt").read_text()
    figures = project.artifact(whole, "evaluate").manifest.figures
    for words in (
        f"{figures['test_accuracy']:.1%}",
        f"{figures['validation_bits_per_byte']:.3f}",
        "bag of words",
        "majority",
        f"{100 * figures['lift']:+.1f} points of accuracy",
        "same model from scratch",
        "report.html",
        "mlflow",
    ):
        assert words in told
    assert "<svg" in (whole / "runs" / "tiny" / "report.html").read_text()


def test_every_stage_is_a_nested_run_with_its_parameters_and_datasets(whole: Path) -> None:
    with sqlite3.connect(whole / "mlflow.db") as store:
        runs = dict(store.execute("select name, run_uuid from runs where status = 'FINISHED'").fetchall())
        assert set(runs) == {"tiny", *STAGES}
        for stage in STAGES:
            (parent,) = store.execute(
                "select value from tags where run_uuid = ? and key = 'mlflow.parentRunId'", [runs[stage]]
            ).fetchone()
            assert parent == runs["tiny"]
            assert (
                store.execute("select count(*) from inputs where destination_id = ?", [runs[stage]]).fetchone()[0] > 0
            )
        steps = store.execute(
            "select count(distinct step) from metrics where run_uuid = ? and key like '%loss%'", [runs["pretrain"]]
        ).fetchone()[0]
        assert steps > 50
        (aliases,) = store.execute("select group_concat(alias) from registered_model_aliases").fetchone()
        assert "candidate" in aliases


def test_a_second_run_starts_no_job(project: Project, whole: Path) -> None:
    stamps = {path: path.stat().st_mtime_ns for path in whole.glob("*/*/manifest.json")}
    logs = {path: path.stat().st_mtime_ns for path in whole.glob("*/*/log.txt")}
    assert "nothing to do" in project.run(whole)
    assert {path: path.stat().st_mtime_ns for path in whole.glob("*/*/manifest.json")} == stamps
    assert {path: path.stat().st_mtime_ns for path in whole.glob("*/*/log.txt")} == logs


def test_the_same_recipe_elsewhere_gives_the_same_models(project: Project, whole: Path, tmp_path: Path) -> None:
    for name in ("clean", "dedup", "tokenizer", "shards"):
        shutil.copytree(whole / name, tmp_path / name)
    project.run(tmp_path)
    for stage in ("pretrain", "finetune"):
        here, there = (project.artifact(workspace, stage).manifest.files for workspace in (tmp_path, whole))
        weights = {entry.path: entry.sha256 for entry in here if entry.path.endswith(".safetensors")}
        assert weights == {entry.path: entry.sha256 for entry in there if entry.path.endswith(".safetensors")}


def test_generate_continues_a_prompt(project: Project, whole: Path) -> None:
    model = whole / "runs" / "tiny" / "pretrain"
    command = [
        *project.command("run", whole)[:3],
        "generate",
        str(model),
        "--prompt",
        "The city",
        "--max-new-tokens",
        "12",
    ]
    texts = {
        subprocess.run(command, env=environment(), cwd=whole, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    (text,) = texts
    assert text.startswith("The city")
    assert len(text) > len("The city\n")


def test_status_names_every_whole_stage(project: Project, whole: Path) -> None:
    command = project.command("status", whole)
    told = subprocess.run(command, env=environment(), cwd=whole, capture_output=True, text=True, check=True).stdout
    assert [line.split()[:2] for line in told.splitlines()] == [[stage, "made"] for stage in STAGES]


def test_a_failing_stage_says_why_and_the_workspace_stays_usable(project: Project, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole / "clean", tmp_path / "clean")
    shutil.copytree(whole / "dedup", tmp_path / "dedup")
    shutil.copytree(whole / "tokenizer", tmp_path / "tokenizer")
    process = project.start(tmp_path, "--until", "shards", "--set", "shards.validation_fraction=1e-9")
    _, err = process.communicate()
    assert process.returncode == 2
    assert "shards.validation_fraction" in err
    assert "Traceback" not in err
    project.run(tmp_path, "--until", "shards")


def test_an_interrupted_run_stops_its_job_and_gives_the_lease_back(project: Project, tmp_path: Path) -> None:
    process = project.start(tmp_path, "--until", "clean")
    output = project.plan(tmp_path)["clean"].output
    deadline = time.monotonic() + 60
    while not (output / ".attempt").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.terminate()
    _, told = process.communicate()
    assert (process.returncode, told) == (5, "interrupted: the same command goes on from here\n")
    assert not (output / ".lease").exists()
    assert not (output / "manifest.json").exists()
