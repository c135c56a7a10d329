"""Stages as jobs of a real Slurm with two nodes: made once, found again, stopped, and told apart where they fail."""

import json
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from planted_secrets import SECRETS, holders
from slurm_cluster import SlurmCluster, slurm_cluster

from gpt_core.artifact import Artifact, open_artifact
from gpt_core.errors import SetupError
from gpt_core.recipe import Recipe
from gpt_core.recipe_file import parse_recipe
from jobs.job import ENVIRONMENT, ERROR, IDENTITY, RECIPE
from jobs.launch.command import job_command
from jobs.launch.slurm import SlurmTarget, check_slurm, sbatch_command
from jobs.launch.slurm_script import SCRIPT
from jobs.launch.spec import HANDLE, SLURM_LOGS, LaunchSpec, read_handle, submission_id
from jobs.launch.target import AlreadySubmittedError
from tiny_project import ROOT, environment
from tiny_training import finish, make_inputs, make_recipe, start_training

JOB = """
import os, time
from pathlib import Path
from gpt_core.errors import InputError
from jobs.job import Job, Outcome, run_job

def make(job: Job) -> Outcome:
    print("made on a node", flush=True)
    {body}
    (job.output / "made.txt").write_text(os.environ.get("MLFLOW_TRACKING_PASSWORD", "nothing"))
    return Outcome([job.output / "made.txt"])

run_job("tokenizer", make)
"""
PATIENCE_SECONDS = 240
WAIT = "while not (job.output.parent / 'go').exists(): time.sleep(0.05)"


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    with slurm_cluster(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture
def conf(slurm: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CONF", slurm.environment["SLURM_CONF"])


def recipe_of(folder: Path, **cluster: object) -> Recipe:
    tree = {
        "name": "tiny",
        "workspace": str(folder),
        "corpus": {"inputs": [{"path": "none.jsonl"}]},
        "cluster": {"process": {"launcher": "slurm"}, **cluster},
    }
    return parse_recipe(json.loads(json.dumps(tree)), origin="the test's recipe")


class Stage:
    """A prepared output, and the follower that the runner would start."""

    def __init__(self, folder: Path, recipe: Recipe | None = None, *, name: str = "tokenizer") -> None:
        self.output = folder / name / "0123456789ab"
        self.output.mkdir(parents=True)
        self.recipe = recipe or recipe_of(folder)
        (self.output / RECIPE).write_text(self.recipe.model_dump_json())
        (self.output / IDENTITY).write_text(json.dumps({"stage": name}))

    def job(self, body: str = "pass") -> list[str]:
        code = JOB.format(body=body)
        return [sys.executable, "-c", code, "--recipe", str(self.output / RECIPE), "--output", str(self.output)]

    def start(self, command: list[str], slurm: SlurmCluster, **variables: str) -> "subprocess.Popen[str]":
        follower = [sys.executable, "-m", "jobs.launch.follow", "--target", "slurm", "--output", str(self.output)]
        return subprocess.Popen(
            [*follower, *command],
            env={**environment(), **slurm.environment, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def follow(self, command: list[str], slurm: SlurmCluster, **variables: str) -> tuple[int, str]:
        return end_of(self.start(["--", *command], slurm, **variables))

    def go(self) -> None:
        """What waits goes on."""
        (self.output.parent / "go").touch()

    def log(self) -> str:
        return "".join(path.read_text() for path in self.output.glob(f"{SLURM_LOGS}/*.log"))

    def artifact(self) -> Artifact | None:
        return open_artifact(self.output)

    def told_error(self) -> dict[str, str]:
        told: dict[str, str] = json.loads((self.output / ERROR).read_text())
        return told


def end_of(process: "subprocess.Popen[str]") -> tuple[int, str]:
    told, _ = process.communicate(timeout=PATIENCE_SECONDS)
    return process.returncode, told


def wait_for(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def states(slurm: SlurmCluster, output: Path) -> dict[str, str]:
    """Name and id of every job of this output, and how it is."""
    told = slurm.ask("squeue", "--states=all", "--noheader", "--format=%j %i %T").splitlines()
    jobs = [line.rpartition(" ") for line in told if line.startswith(submission_id(output))]
    return {job: state for job, _, state in jobs}


@pytest.fixture(scope="module")
def too_long(slurm: SlurmCluster, tmp_path_factory: pytest.TempPathFactory) -> tuple[Stage, "subprocess.Popen[str]"]:
    """A job whose time is over; Slurm sees to that twice a minute, and other tests run meanwhile."""
    folder = tmp_path_factory.mktemp("too_long")
    stage = Stage(folder, recipe_of(folder, limits={"minutes": {"tokenizer": 0.5}}))
    follower = stage.start(["--", *stage.job(WAIT)], slurm)
    wait_for(lambda: "made on a node" in stage.log())
    handle = read_handle(stage.output)
    assert handle is not None
    slurm.ask("scontrol", "update", f"JobId={handle.native_id}", "EndTime=now")  # the least limit is a minute
    return stage, follower


def test_a_stage_is_made_on_a_node_and_no_file_has_its_secrets(
    slurm: SlurmCluster, too_long: object, tmp_path: Path
) -> None:
    stage = Stage(tmp_path)
    (stage.output / ENVIRONMENT).write_text("{}")  # as the runner leaves it
    follower = stage.start(["--", *stage.job(WAIT)], slurm, **SECRETS)
    wait_for(lambda: "made on a node" in stage.log())
    assert set(holders(slurm.folder, tmp_path)) == {stage.output / ENVIRONMENT}
    assert stat.S_IMODE((stage.output / ENVIRONMENT).stat().st_mode) == 0o600
    stage.go()
    code, told = end_of(follower)
    assert (code, "made on a node\n" in told) == (0, True), told
    artifact = stage.artifact()
    assert artifact is not None
    assert [entry.path for entry in artifact.manifest.files] == ["made.txt"]
    assert artifact.file("made.txt").read_text() == SECRETS["MLFLOW_TRACKING_PASSWORD"]
    handle = read_handle(stage.output)
    assert handle is not None
    assert states(slurm, stage.output) == {f"{handle.name} {handle.native_id}": "COMPLETED"}


def test_behind_a_killed_follower_the_next_attaches_to_the_one_job(slurm: SlurmCluster, tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    killed = stage.start(["--", *stage.job(WAIT)], slurm)
    wait_for((stage.output / HANDLE).exists)
    killed.kill()
    killed.communicate()
    follower = stage.start(["--", *stage.job(WAIT)], slurm)
    assert follower.stdout is not None
    assert follower.stdout.readline().startswith(f"attached to the slurm job {submission_id(stage.output)} (")
    stage.go()
    code, told = end_of(follower)
    assert code == 0, told
    assert list(states(slurm, stage.output).values()) == ["COMPLETED"]


@pytest.mark.usefixtures("conf")
def test_of_two_who_submit_at_once_the_later_withdraws(slurm: SlurmCluster, tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    target, name = SlurmTarget(stage.recipe.cluster), submission_id(stage.output)
    first = target.submit(name, stage.job(WAIT), stage.output)
    for attempt in (name, f"{name}-2"):  # the latter's submitter saw one that had ended
        with pytest.raises(AlreadySubmittedError):
            target.submit(attempt, stage.job(WAIT), stage.output)
    living = target.latest(name)
    assert living is not None
    assert (living.native_id, living.ended) == (first, False)
    follower = stage.start(["--", "true"], slurm)
    wait_for((stage.output / HANDLE).exists)
    stage.go()
    code, told = end_of(follower)
    assert (code, f"({first})" in told) == (0, True), told
    assert sorted(states(slurm, stage.output).values()) == ["CANCELLED", "CANCELLED", "COMPLETED"]


@pytest.mark.usefixtures("conf")
def test_a_job_that_starts_behind_the_manifest_leaves_it_alone(slurm: SlurmCluster, tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    (stage.output / SLURM_LOGS).mkdir()
    for _ in range(2):  # their submitters were killed before they looked for each other
        command = sbatch_command(submission_id(stage.output), stage.job(), stage.output, stage.recipe.cluster)
        subprocess.run(command, env={**environment(), **slurm.environment}, input=SCRIPT, text=True, check=True)
    wait_for(lambda: list(states(slurm, stage.output).values()) == ["COMPLETED", "COMPLETED"])
    logs = sorted((stage.output / SLURM_LOGS).iterdir(), key=lambda path: int(path.stem))
    manifest = stage.output / "manifest.json"
    assert [log.read_text() for log in logs] == ["made on a node\n", f"another job has made it: {manifest}\n"]


def test_what_fails_says_how(slurm: SlurmCluster, tmp_path: Path) -> None:
    empty, broken, wrong = (Stage(tmp_path / name) for name in ("empty", "broken", "wrong"))
    refused = Stage(tmp_path / "refused", recipe_of(tmp_path, slurm={"partition": "nowhere"}))
    followers = [
        empty.start(["--", "true"], slurm),
        broken.start(["--", "sh", "-c", "echo oh; exit 7"], slurm),
        wrong.start(["--", *wrong.job("raise InputError('corpus.jsonl: is not there')")], slurm),
        refused.start(["--", "true"], slurm),
    ]
    codes, told = zip(*map(end_of, followers), strict=True)
    assert codes == (3, 3, 2, 3), told
    assert empty.told_error()["message"].endswith(") ended well, but without a manifest: it has failed")
    assert broken.told_error()["message"].endswith(") failed: exit code 7")
    assert "\noh\n" in told[1]
    assert wrong.told_error() == {"kind": "user", "message": "corpus.jsonl: is not there"}
    assert "invalid partition" in refused.told_error()["message"].lower()


def test_a_cancelled_job_is_gone_and_its_follower_says_so(slurm: SlurmCluster, tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    follower = stage.start(["--", "sleep", "600"], slurm)
    wait_for(lambda: list(states(slurm, stage.output).values()) == ["RUNNING"])
    code, told = end_of(stage.start(["--cancel"], slurm))
    assert (code, told.startswith("cancelled the job ")) == (0, True), told
    code, told = end_of(follower)
    assert (code, "was stopped: CANCELLED" in told) == (3, True), told
    code, told = end_of(stage.start(["--cancel"], slurm))
    assert (code, told) == (0, f"no job {submission_id(stage.output)} runs\n")


def test_an_archive_is_unpacked_once_and_brings_the_python(slurm: SlurmCluster, tmp_path: Path) -> None:
    python, archive = tmp_path / "python", tmp_path / "environment.tar.gz"
    python.write_text(f'#!/bin/sh\necho "$0"\nPYTHONPATH={ROOT} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(python, "bin/python")
    places = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        stage = Stage(folder, recipe_of(folder, archive=str(archive)))
        code, told = stage.follow(stage.job(), slurm)
        assert code == 0, told
        places += [Path(line).parents[1] for line in told.splitlines() if line.endswith("/bin/python")]
        if len(places) == 1:
            (places[0] / "untouched").touch()
    try:
        assert places[0] == places[1]
        assert (places[0] / "untouched").exists()
        assert stat.S_IMODE(places[0].parent.stat().st_mode) == 0o700
    finally:
        shutil.rmtree(places[0])
        for suffix in (".lock", ".whole"):
            places[0].with_name(places[0].name + suffix).unlink()


@pytest.mark.train
def test_two_nodes_stopped_and_started_again_make_the_bits_of_one_machine(slurm: SlurmCluster, tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "inputs")
    longer = {"tokens": 32 * 8 * 60, "validate_every_steps": 30}  # so that the signal finds it running
    here = make_recipe(tmp_path, pretrain=longer)
    alone = finish(start_training("pretrain", tmp_path / "alone", here, inputs), tmp_path / "alone")
    recipe = make_recipe(tmp_path, pretrain=longer, train={"launcher": "slurm", "nodes": 2, "processes": 1})
    stage = Stage(tmp_path / "workspace", recipe, name="pretrain")
    places = {name: artifact.root for name, artifact in inputs.items()}
    command = job_command(LaunchSpec("jobs.pretrain", "deepspeed", places, stage.output), recipe.cluster)
    follower = stage.start(["--", *command], slurm)
    wait_for((stage.output / "checkpoints" / "latest").exists)
    handle = read_handle(stage.output)
    assert handle is not None
    slurm.ask("scancel", handle.native_id)
    code, told = end_of(follower)
    assert stage.told_error()["kind"] == "preempted", told
    code, told = stage.follow(command, slurm)
    assert (code, "resumed behind step" in told) == (0, True), told
    artifact = stage.artifact()
    assert artifact is not None
    assert {job.partition(" ")[0] for job in states(slurm, stage.output)} == {handle.name, f"{handle.name}-2"}
    assert weights(artifact) == weights(alone)
    assert curves(artifact) == curves(alone)


@pytest.mark.usefixtures("conf")
def test_what_slurm_would_refuse_is_known_before(
    slurm: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_slurm(recipe_of(tmp_path, train={"launcher": "slurm", "nodes": 2}))
    with pytest.raises(SetupError, match=r"sbatch would refuse tokenizer: .*partition.*; partitions: main"):
        check_slurm(recipe_of(tmp_path, slurm={"partition": "nowhere"}))
    with pytest.raises(SetupError, match="sbatch would refuse pretrain: "):
        check_slurm(recipe_of(tmp_path, train={"launcher": "slurm", "nodes": 4}))
    port = re.compile(r"(?<=SlurmctldPort=)\d+")
    silent = tmp_path / "slurm.conf"
    silent.write_text(port.sub("9", Path(slurm.environment["SLURM_CONF"]).read_text()))
    monkeypatch.setenv("SLURM_CONF", str(silent))
    with pytest.raises(SetupError, match=r"slurmctld does not answer: .*set SLURM_CONF"):
        check_slurm(recipe_of(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SetupError, match="no sbatch, squeue, scontrol, scancel on PATH; run this on a login node"):
        check_slurm(recipe_of(tmp_path))


def test_a_job_beyond_its_time_names_the_limit(too_long: "tuple[Stage, subprocess.Popen[str]]") -> None:
    stage, follower = too_long
    code, told = end_of(follower)
    assert code == 3, told
    assert "ran into its time limit of 00:01:00: cluster.limits.minutes.tokenizer" in stage.told_error()["message"]


def weights(artifact: Artifact) -> str:
    (entry,) = [entry for entry in artifact.manifest.files if entry.path == "model/model.safetensors"]
    return entry.sha256


def curves(artifact: Artifact) -> dict[str, object]:
    read: dict[str, object] = json.loads(artifact.file("curves.json").read_text())
    return {name: read[name] for name in ("train_loss", "validation_loss")}
