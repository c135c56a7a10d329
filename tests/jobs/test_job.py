"""The contract of jobs, run as real processes: manifest last, errors told, one attempt at a time."""

import importlib.metadata
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpt_core.artifact import open_artifact
from gpt_core.fingerprint import fingerprint
from gpt_core.recipe_file import load_recipe
from jobs.job import CANCEL, ERROR, IDENTITY, PROGRESS, RECIPE, RUNNER_PID, own_version
from jobs.launch.spec import HANDLE

DEMO = Path(__file__).parents[2] / "recipes" / "demo.yaml"
PRELUDE = """
import sys, time
from gpt_core.errors import InputError, PreemptedError, StageError, TransientError
from jobs.job import Job, Outcome, run_job
def make(job):
    table = job.output / "table"
    table.mkdir()
    (table / "part").write_text("rows")
"""


def prepare(output: Path) -> Path:
    output.mkdir()
    (output / RECIPE).write_text(load_recipe(DEMO).model_dump_json())
    (output / IDENTITY).write_text(json.dumps({"stage": "test"}))
    return output


def start(output: Path, body: str, *extra: str, **environment: str) -> "subprocess.Popen[str]":
    indented = "".join(f"    {line}\n" for line in body.splitlines())
    script = f"{PRELUDE}{indented}run_job('test', make, keeps=('kept',))\n"
    command = [sys.executable, "-c", script, "--recipe", str(output / RECIPE), "--output", str(output), *extra]
    return subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(path: Path, *, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.02)


def test_a_job_that_ends_well_leaves_a_manifest_of_what_it_made(tmp_path: Path) -> None:
    output = prepare(tmp_path / "out")
    body = 'return Outcome([table], counts={"rows": 1}, figures={"loss": 2.5}, schemas={"t": {"a": "string"}})'
    job = start(output, body)
    assert job.wait() == 0
    artifact = open_artifact(output)
    assert artifact is not None
    manifest = artifact.manifest
    assert [entry.path for entry in manifest.files] == ["table/part"]
    assert (manifest.counts, manifest.figures) == ({"rows": 1}, {"loss": 2.5})
    assert manifest.fingerprint == fingerprint({"stage": "test"})
    assert manifest.recipe_name == "demo"
    assert manifest.cpu_seconds > 0
    assert manifest.wall_seconds < 60


@pytest.mark.parametrize(
    ("error", "code", "kind"),
    [
        ("InputError", 2, "user"),
        ("StageError", 3, "stage"),
        ("TransientError", 3, "transient"),
        ("PreemptedError", 5, "preempted"),
    ],
)
def test_an_error_is_told_without_traceback_and_without_manifest(
    tmp_path: Path, error: str, code: int, kind: str
) -> None:
    output = prepare(tmp_path / "out")
    job = start(output, f'raise {error}("the file x is gone")')
    _, stderr = job.communicate()
    assert job.returncode == code
    assert "error: the file x is gone" in stderr
    assert "Traceback" not in stderr
    assert json.loads((output / ERROR).read_text()) == {"kind": kind, "message": "the file x is gone"}
    assert open_artifact(output) is None


def test_a_bug_shows_its_traceback(tmp_path: Path) -> None:
    job = start(prepare(tmp_path / "out"), "1 / 0")
    _, stderr = job.communicate()
    assert job.returncode == 1
    assert "ZeroDivisionError" in stderr


def test_a_killed_attempt_leaves_rubbish_that_the_next_one_clears(tmp_path: Path) -> None:
    output = prepare(tmp_path / "out")
    killed = start(output, '(job.output / "half").write_text("x"); time.sleep(60)')
    wait_for(output / "half")
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert open_artifact(output) is None
    assert start(output, "return Outcome([table])").wait() == 0
    assert not (output / "half").exists()


def test_what_a_job_keeps_outlives_an_attempt_and_scratch_goes_with_the_manifest(tmp_path: Path) -> None:
    output = prepare(tmp_path / "out")
    for folder in ("kept", "other"):
        (output / folder).mkdir()
        (output / folder / "step-1").write_text("of a former attempt")
    assert start(output, 'return Outcome([job.output / "kept"])').wait() == 0
    artifact = open_artifact(output)
    assert artifact is not None
    assert [entry.path for entry in artifact.manifest.files] == ["kept/step-1"]
    assert not (output / "other").exists()
    assert start(output, 'return Outcome([table], scratch=[job.output / "kept"])').wait() == 0
    assert not (output / "kept").exists()


def test_a_second_attempt_waits_until_the_first_is_gone(tmp_path: Path) -> None:
    output = prepare(tmp_path / "out")
    first = start(output, '(job.output / "mine").touch(); time.sleep(60)')
    wait_for(output / "mine")
    second = start(output, "return Outcome([table])")
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(2)
    assert (output / "mine").exists()
    first.kill()
    first.wait()
    assert second.wait() == 0
    assert not (output / "mine").exists()


def test_a_job_ends_with_the_runner_that_started_it(tmp_path: Path) -> None:
    output = prepare(tmp_path / "out")
    runner = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    job = start(output, '(job.output / "up").touch(); time.sleep(60)', **{RUNNER_PID: str(runner.pid)})
    wait_for(output / "up")
    runner.kill()
    runner.wait()
    assert job.wait(20) == 5


def test_progress_is_written_for_others_to_read(tmp_path: Path) -> None:
    output = prepare(tmp_path / "out")
    assert start(output, 'job.report(3, 3, "rows", loss=1.5); return Outcome([table])').wait() == 0
    told = json.loads((output / PROGRESS).read_text())
    assert told == {"done": 3, "total": 3, "unit": "rows", "measures": {"loss": 1.5}}


def test_an_input_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    output = prepare(tmp_path / "out")
    job = start(output, "return Outcome([table])", "--inputs", f"clean={tmp_path / 'none'}")
    _, stderr = job.communicate()
    assert job.returncode == 3
    assert "no manifest.json there; run the stage clean first" in stderr


def test_an_unprepared_output_is_refused(tmp_path: Path) -> None:
    output = prepare(tmp_path / "out")
    (output / IDENTITY).unlink()
    job = start(output, "return Outcome([table])")
    _, stderr = job.communicate()
    assert job.returncode == 3
    assert "let `gptmill run` prepare the output folder" in stderr


def test_an_uninstalled_checkout_knows_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def not_installed(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    installed = own_version()
    monkeypatch.setattr(importlib.metadata, "version", not_installed)
    assert own_version() == installed


@pytest.mark.parametrize(
    ("raised", "code", "kind", "message"),
    [
        (
            'RuntimeError("[pair.cc:538] Connection closed by peer [10.0.0.2]")',
            3,
            "transient",
            "lost another machine",
        ),
        ('ValueError("a bug")', 1, "stage", "failed: ValueError: a bug"),
    ],
)
def test_a_rank_that_lost_another_machine_is_told_apart_from_one_that_failed(
    tmp_path: Path, raised: str, code: int, kind: str, message: str
) -> None:
    output = prepare(tmp_path / "out")
    ranks = {"TORCHELASTIC_RUN_ID": "it", "RANK": "0", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}
    assert start(output, f"raise {raised}", **ranks).wait() == code
    told = json.loads((output / ERROR).read_text())
    assert told["kind"] == kind
    assert f"rank 0 on {socket.gethostname()} {message}" in told["message"]
    own = {"kind": "user", "message": "the other's own words"}
    body = f"(job.output / 'error.json').write_text({json.dumps(json.dumps(own))}); raise {raised}"
    assert start(output, body, **ranks).wait() == 1
    assert json.loads((output / ERROR).read_text()) == own


def test_what_others_left_for_the_runner_outlives_the_start_of_an_attempt(tmp_path: Path) -> None:
    output = prepare(tmp_path / "out")
    for name in (HANDLE, CANCEL):
        (output / name).write_text("{}")
    assert start(output, "return Outcome([table])").wait() == 0
    assert [(output / name).exists() for name in (HANDLE, CANCEL)] == [True, True]
