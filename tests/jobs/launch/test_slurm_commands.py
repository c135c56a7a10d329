"""What Slurm is told of a stage, and what its words mean; no Slurm is needed."""

import sys
from pathlib import Path

import pytest

from gpt_core.errors import SetupError
from gpt_core.recipe import Cluster
from jobs.launch.command import job_command, native_command, stop_command
from jobs.launch.slurm import sbatch_command
from jobs.launch.slurm_queue import attempt_of
from jobs.launch.spec import LaunchSpec, submission_id
from jobs.slurm_meeting import meeting


def test_a_process_is_a_job_of_one_node() -> None:
    output = Path("/w/evaluate/0123456789ab")
    cluster = Cluster.model_validate_json(
        """{"process": {"launcher": "slurm"}, "limits": {"minutes": {"evaluate": 90, "pretrain": 1}},
        "slurm": {"partition": "cpu", "account": "us", "qos": "high", "constraint": "a&b", "cpus_per_task": 4,
        "gpus_per_node": 8, "memory": "16g"}, "train": {"nodes": 4, "launcher": "slurm"}}"""
    )
    spec = LaunchSpec("jobs.evaluate", "python", {"shards": Path("/w/shards/aa")}, output)
    name = submission_id(output)
    assert sbatch_command(name, job_command(spec, cluster), output, cluster) == [
        *["sbatch", "--parsable", f"--job-name={name}", "--dependency=singleton", "--requeue", "--export=ALL"],
        *["--chdir=/w/evaluate/0123456789ab", "--output=/w/evaluate/0123456789ab/slurm/%j.log", "--open-mode=append"],
        *["--partition=cpu", "--account=us", "--qos=high", "--constraint=a&b", "--nodes=1", "--ntasks-per-node=1"],
        *["--cpus-per-task=4", "--mem=16g", "--time=90", "/dev/stdin", "/w/evaluate/0123456789ab/manifest.json", ""],
        *[sys.executable, "-m", "jobs.evaluate", "--recipe", "/w/evaluate/0123456789ab/recipe.json"],
        *["--output", "/w/evaluate/0123456789ab", "--inputs", "shards=/w/shards/aa"],
    ]
    follower = [sys.executable, "-m", "jobs.launch.follow", "--target", "slurm", "--output", str(output)]
    assert native_command(spec, cluster) == [*follower, "--", *job_command(spec, cluster)]
    assert stop_command(spec, cluster) == [*follower, "--cancel"]
    archived = cluster.model_copy(update={"archive": "/w/env.tar.gz"})
    command = sbatch_command(name, job_command(spec, archived), output, archived)
    assert command[command.index("/dev/stdin") + 2 :][:3] == ["/w/env.tar.gz", "-m", "jobs.evaluate"]


def test_a_training_is_a_job_of_one_torchrun_a_node() -> None:
    output = Path("/w/pretrain/0123456789ab")
    cluster = Cluster.model_validate_json(
        """{"slurm": {"gpus_per_node": 8}, "limits": {"minutes": {"pretrain": 600}},
        "train": {"nodes": 4, "processes": 8, "launcher": "slurm", "max_restarts": 1}}"""
    )
    command = job_command(LaunchSpec("jobs.pretrain", "deepspeed", {}, output), cluster)
    name = submission_id(output)
    assert command[1:-5] == [
        *["-m", "jobs.node", "--nproc-per-node", "8", "--rdzv-backend", "c10d", "--rdzv-endpoint", "slurm"],
        *["--rdzv-id", name, "--max-restarts", "1", "-m"],
    ]

    def options(**train: object) -> list[str]:
        changed = cluster.model_copy(update={"train": cluster.train.model_copy(update=train)})
        return sbatch_command(name, command, output, changed)[9 : -len(command) - 3]

    assert options() == [*["--nodes=4", "--ntasks-per-node=1", "--gpus-per-node=8", "--time=600", "--signal=TERM@120"]]
    assert options(min_nodes=2)[0] == "--nodes=2-4"


@pytest.mark.parametrize(
    ("told", "state", "message", "transient"),
    [
        ("JobState=COMPLETED Reason=None ExitCode=0:0", "succeeded", "COMPLETED", False),
        ("JobState=COMPLETING Reason=None ExitCode=0:0", "running", "COMPLETING", False),
        ("JobState=PENDING Reason=Resources ExitCode=0:0", "pending", "Resources", False),
        ("JobState=REQUEUED Reason=None ExitCode=0:0", "pending", "", False),
        ("JobState=CANCELLED Reason=None ExitCode=0:15", "stopped", "CANCELLED", False),
        ("JobState=FAILED Reason=NonZeroExitCode ExitCode=7:0", "failed", "exit code 7", False),
        ("JobState=FAILED Reason=RaisedSignal:9(Killed) ExitCode=0:9", "failed", "signal 9", False),
        ("JobState=OUT_OF_MEMORY Reason=OutOfMemory ExitCode=0:125", "failed", "raise cluster.slurm.memory", False),
        ("JobState=NODE_FAIL Reason=NodeDown ExitCode=1:0", "failed", "NODE_FAIL, NodeDown", True),
        ("JobState=PREEMPTED Reason=None ExitCode=0:15", "failed", "PREEMPTED", True),
        ("JobState=BOOT_FAIL Reason=None ExitCode=0:1", "failed", "BOOT_FAIL", True),
    ],
)
def test_slurms_words_are_told_apart(told: str, state: str, message: str, transient: bool) -> None:
    attempt = attempt_of(f"JobId=7 JobName=gptmill-evaluate-aa-bb {told} Comment=JobState=COMPLETED")
    assert (attempt.name, attempt.native_id, attempt.state) == ("gptmill-evaluate-aa-bb", "7", state)
    assert (message in attempt.message, attempt.transient) == (True, transient), attempt


def test_nodes_of_no_job_step_do_not_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(SetupError, match="--rdzv-endpoint slurm: SLURM_JOB_ID is not set; srun starts this, in a job"):
        meeting("")
