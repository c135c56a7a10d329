"""`gptmill run` as programs see it: what it starts, what it tells, and how it ends; on a stage that needs no engine."""

import json
import re
import subprocess
import sys
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from stage_output import write_output

from gpt_core.artifact import open_artifact
from pipelines.gpt import STAGES
from tiny_project import Project, environment

pytestmark = pytest.mark.mlflow


@pytest.fixture
def tokenizing(tmp_path: Path) -> Project:
    """A recipe whose documents stand in its workspace; the tokenizer is to be made of them."""
    texts = [f"document number {i} tells of the {word}" for i in range(40) for word in ("sea", "land")]
    (tmp_path / "corpus.jsonl").write_text(json.dumps({"text": texts[0]}) + "\n")
    (tmp_path / "it.yaml").write_text(
        f"name: it\nworkspace: {tmp_path / 'w'}\ncorpus: {{inputs: [{{path: {tmp_path / 'corpus.jsonl'}}}]}}\n"
        "tokenizer: {vocab_size: 300, sample_bytes: 2000}\n"
    )
    project = Project(tmp_path / "it.yaml")
    dedup = project.plan(tmp_path / "w")["dedup"].output
    (dedup / "documents").mkdir(parents=True)
    ids = [str(number) for number in range(len(texts))]
    table = pa.table({"id": ids, "text": texts, "source": ["test"] * len(texts)})
    pq.write_table(table, dedup / "documents" / "part-0.parquet")
    size = sum(len(text.encode()) for text in texts)
    counts = {"documents_kept": len(texts), "text_bytes_kept": size, "duplicates_exact": 0, "duplicates_fuzzy": 0}
    write_output(dedup, "dedup", counts)
    return project


def events_of(out: str) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in out.splitlines()]
    assert all(datetime.fromisoformat(event["time"]).tzinfo is not None for event in events)
    return events


def job_below(runner: "subprocess.Popen[str]") -> list[str]:
    """The command of the process that the runner started for the stage, as the system knows it."""
    deadline = time.monotonic() + 60
    while runner.poll() is None and time.monotonic() < deadline:
        for child in psutil.Process(runner.pid).children():
            with suppress(OSError):  # another child, which has ended
                command = Path(f"/proc/{child.pid}/cmdline").read_bytes().decode().split("\0")[:-1]
                if "jobs.train_tokenizer" in command:
                    return command
        time.sleep(0.002)
    raise AssertionError(runner.communicate())


def test_what_plan_tells_is_what_run_starts_and_its_events_say_so(tokenizing: Project) -> None:
    workspace = tokenizing.recipe.parent / "w"
    plan = subprocess.run(
        tokenizing.command("plan", workspace, "--only", "tokenizer", "--json"),
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    (planned,) = [stage for stage in json.loads(plan.stdout) if stage["stage"] == "tokenizer"]
    runner = tokenizing.start(workspace, "--only", "tokenizer", "--json")
    assert job_below(runner) == planned["command"]
    out, err = runner.communicate()
    assert runner.returncode == 0, err
    events = [event for event in events_of(out) if event["event"] != "progress"]
    assert [(event["event"], event.get("stage")) for event in events] == [
        ("plan", None),
        ("tracking", None),
        ("start", "tokenizer"),
        ("made", "tokenizer"),
        ("done", None),
    ]
    told, tracking, start, made, done = events
    assert tracking["run_id"]
    assert [(stage["stage"], stage["action"]) for stage in told["stages"]] == [
        (stage.name, "run" if stage.name == "tokenizer" else "left out") for stage in STAGES if stage.name != "finetune"
    ]
    assert (start["command"], start["output"], start["attempt"]) == (planned["command"], planned["output"], 1)
    artifact = open_artifact(Path(planned["output"]))
    assert artifact is not None
    assert made["fingerprint"] == artifact.manifest.fingerprint
    assert (made["counts"], made["figures"]) == (artifact.manifest.counts, artifact.manifest.figures)
    assert (done["exit_code"], done["error"], done["made"]) == (0, None, ["tokenizer"])
    assert Path(done["report"]).is_file()

    again = events_of(tokenizing.run(workspace, "--only", "tokenizer", "--json"))
    assert [event["event"] for event in again] == ["plan", "skip", "done"]
    assert again[-1]["made"] == []


def test_a_refused_recipe_is_told_by_the_last_event_alone(tokenizing: Project) -> None:
    runner = tokenizing.start(tokenizing.recipe.parent / "w", "--json", "--set", "tokenizer.vocab_sise=1")
    out, err = runner.communicate()
    (done,) = events_of(out)
    assert (runner.returncode, done["event"], done["exit_code"]) == (2, "done", 2)
    assert err == f"error: {done['error']}\n"


def test_first_runs_at_once_make_stage_and_store_once_and_all_end_well(tokenizing: Project) -> None:
    workspace = tokenizing.recipe.parent / "w"
    runners = [tokenizing.start(workspace, "--only", "tokenizer", "--wait") for _ in range(3)]
    told = [runner.communicate() for runner in runners]
    assert [runner.returncode for runner in runners] == 3 * [0], told
    assert sum("made now   tokenizer;" in out for out, _ in told) == 1
    assert sum("made now   nothing to do;" in out for out, _ in told) == 2


def test_where_another_is_at_it_a_run_leaves_with_4_before_it_is_tracked(tokenizing: Project) -> None:
    workspace = tokenizing.recipe.parent / "w"
    output = tokenizing.plan(workspace)["tokenizer"].output
    hold = "import sys, time; from pathlib import Path; from pipelines.lease import Lease\n"
    hold += "with Lease(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    output.mkdir(parents=True)
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, str(output)], env=environment(), stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        runner = tokenizing.start(workspace, "--only", "tokenizer")
        _, err = runner.communicate()
    finally:
        holder.kill()
        holder.communicate()
    assert runner.returncode == 4
    assert re.fullmatch(rf"error: {output}: process {holder.pid} on \S+ has been making this stage since .*\n", err)
    assert not (workspace / "mlflow.db").exists()


def test_no_two_stages_of_a_recipe_could_run_at_once() -> None:
    """Else the runner's one loop over them would leave machines idle."""
    before = {}
    for stage in STAGES:
        before[stage.name] = {*stage.reads}.union(*(before[name] for name in stage.reads))
        assert before[stage.name] == {*before} - {stage.name}
