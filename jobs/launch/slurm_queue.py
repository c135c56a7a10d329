"""What Slurm tells of jobs: slurmctld while it remembers them (MinJobAge), then slurmdbd, where there is one."""

import re
import subprocess
from collections.abc import Mapping, Sequence
from typing import Literal

from jobs.launch.target import Attempt

ANSWER_SECONDS = 60.0
SILENCE = re.compile("Unable to contact slurm controller|[Tt]imed out|Connection refused|connection failure")
PENDING = frozenset({"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD"})
STOPPED = frozenset({"CANCELLED", "REVOKED"})
TRANSIENT = frozenset({"NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "LAUNCH_FAILED"})
FAILED = frozenset({"FAILED", "TIMEOUT", "DEADLINE", "OUT_OF_MEMORY"}) | TRANSIENT


class RefusedError(OSError):
    """Slurm answered, and said no."""


def ask(command: Sequence[str], *, script: str = "", environment: Mapping[str, str] | None = None) -> str:
    """What the command prints. Raises OSError with its error where it fails or does not answer."""
    try:
        done = subprocess.run(
            command,
            input=script,
            env=None if environment is None else dict(environment),
            capture_output=True,
            text=True,
            timeout=ANSWER_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise OSError(f"{command[0]} did not answer within {ANSWER_SECONDS:.0f} s") from None
    if done.returncode == 0:
        return done.stdout
    lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    reason = lines[-1] if lines else f"{command[0]} exited {done.returncode}"
    raise (OSError if SILENCE.search(done.stderr) else RefusedError)(reason)


def partitions() -> str:
    """The names of those that Slurm has, for a message."""
    try:
        return ", ".join(sorted(set(ask(["sinfo", "--noheader", "--format=%R"]).split())))
    except OSError:
        return "unknown"


def attempts_at(name: str) -> list[Attempt]:
    """All attempts of this user's that slurmctld knows, by age."""
    told = ask(["squeue", "--me", "--states=all", "--noheader", "--format=%i|%j|%T"])
    jobs = [line.split("|") for line in told.splitlines() if re.search(rf"\|{re.escape(name)}(-\d+)?\|", line)]
    found = [_attempt({"JobId": number, "JobName": job, "JobState": state}) for number, job, state in jobs]
    return sorted(found, key=lambda one: int(one.native_id))


def find(native_id: str) -> Attempt:
    """How the job is; `lost` where nobody knows it."""
    try:
        told = ask(["scontrol", "show", "job", "--oneliner", native_id])
    except RefusedError as error:
        if "Invalid job id" not in str(error):
            raise
        return _look_back(native_id)
    return attempt_of(told)


def attempt_of(told: str) -> Attempt:
    """The job that one line of `scontrol show job` describes."""
    return _attempt(dict(re.findall(r"(\w+)=(\S*)", told)[::-1]))  # the first of each name counts


def _look_back(native_id: str) -> Attempt:
    """How a job ended that slurmctld has forgotten."""
    fields = ("JobID", "JobName", "State", "ExitCode", "Timelimit")
    shape = ["--allocations", "--noheader", "--parsable2", f"--format={','.join(fields)}"]
    try:
        number, name, state, code, limit = ask(["sacct", *shape, f"--jobs={native_id}"]).splitlines()[-1].split("|")
    except (OSError, IndexError):
        return Attempt(native_id, native_id, "lost", "slurmctld has forgotten it, and no slurmdbd knows it")
    words = {"JobId": number, "JobName": name, "JobState": state.split()[0], "ExitCode": code, "TimeLimit": limit}
    return _attempt(words)  # of one that was cancelled the state is `CANCELLED by 1000`


def _attempt(job: Mapping[str, str]) -> Attempt:
    """A job in Slurm's words, in ours."""
    word = job["JobState"]
    state: Literal["pending", "running", "succeeded", "failed", "stopped"] = "running"  # COMPLETING too
    if word == "COMPLETED":
        state = "succeeded"
    elif word in PENDING:
        state = "pending"
    elif word in STOPPED:
        state = "stopped"
    elif word in FAILED:
        state = "failed"
    code, _, signal = job.get("ExitCode", "0:0").partition(":")
    return Attempt(
        name=job["JobName"],
        native_id=job["JobId"],
        state=state,
        message=_message(job, code, signal),
        transient=word in TRANSIENT,
    )


def _message(job: Mapping[str, str], code: str, signal: str) -> str:
    """Why the job waits, or has ended badly."""
    word, reason = job["JobState"], job.get("Reason", "None")
    stage = job["JobName"].split("-")[1]
    if word == "TIMEOUT":
        limit = job.get("TimeLimit", "?")
        return f"it ran into its time limit of {limit}: cluster.limits.minutes.{stage}, else that of its partition"
    if word == "OUT_OF_MEMORY":
        return "it took more memory than it had: raise cluster.slurm.memory"
    if word == "FAILED":
        return f"exit code {code}" if signal == "0" else f"signal {signal}"
    if word in PENDING:
        return reason.replace("None", "")
    return word if reason == "None" else f"{word}, {reason}"
