"""One stage, made: its lease, the attempts of its job, and what may end it early.

A job that fails for a reason that may pass by itself is started again, as `cluster.limits` says; any other failure is
final. A request to cancel, a time limit, a lost lease, Ctrl-C and SIGTERM stop the job. One that was submitted to a
cluster goes on there after Ctrl-C, SIGTERM and a lost lease: whoever runs the stage next attaches to it.
"""

import shlex
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from rich.console import Console

from gpt_core.artifact import MANIFEST, Artifact, open_artifact, write_atomically, write_json
from gpt_core.errors import BusyError, GptmillError, PreemptedError, StageError, TransientError
from gpt_core.fingerprint import Json
from gpt_core.recipe import Recipe
from gpt_core.store_uri import without_secrets
from jobs.job import ENVIRONMENT, ERROR, IDENTITY, LOG, RECIPE, write_environment
from jobs.launch.spec import HANDLE
from pipelines.cancel_request import answer_cancel, drop_cancel, read_cancel
from pipelines.display import StageDisplay
from pipelines.events import Events, describe, kind_of
from pipelines.job_process import (
    GRACE_SECONDS,
    POLL_SECONDS,
    error_of,
    grace_seconds,
    job_environment,
    stop_job,
    stop_on_cluster,
    told_error,
)
from pipelines.lease import Lease, Owner
from pipelines.plan import PlannedStage
from pipelines.watch import Watcher


@dataclass(frozen=True)
class Run:
    """What the stages of a run have in common."""

    recipe: Recipe
    console: Console
    events: Events
    watcher: Watcher
    wait: bool  # for stages that other runners make
    since: float  # lease.server_time when it began: earlier requests to cancel are not for it


class _StopError(Exception):
    """The job must end, on its cluster too: `error` is what that means to the run."""

    def __init__(self, error: GptmillError) -> None:
        super().__init__(str(error))
        self.error = error


def make_stage(planned: PlannedStage, run: Run) -> tuple[Artifact, bool]:
    """(the stage's output, which is whole now; whether this run made it).

    Raises what its job failed of, BusyError where another runner has the stage, PreemptedError where it was cancelled.
    """
    planned.output.mkdir(parents=True, exist_ok=True)
    making = _Making(planned, run)
    try:
        with Lease(planned.output, pause=making.pause if run.wait else None) as lease:
            artifact = _finished_meanwhile(planned)
            if artifact is None:
                return making.make(lease), True
    except BusyError:  # its owner may have the lease a moment longer than it makes the stage
        artifact = open_artifact(planned.output)
        if artifact is None:
            raise
    run.watcher.skipped(planned, artifact)
    why = "made by another runner meanwhile"
    making.say(f"whole: {why}")
    making.tell("skip", {"output": str(planned.output), "why": why})
    return artifact, False


class _Making:
    """One stage in the hands of one runner."""

    def __init__(self, planned: PlannedStage, run: Run) -> None:
        self.planned = planned
        self.run = run
        self.name = planned.stage.name
        self.waits = False
        minutes = run.recipe.cluster.limits.minutes_of(self.name)
        self.minutes = None if planned.target == "slurm" else minutes  # Slurm's own begins with the job
        self.started = time.monotonic()

    def say(self, text: str) -> None:
        self.run.console.print(f"{self.name:<10} {text}", highlight=False, soft_wrap=True, markup=False)

    def tell(self, event: str, facts: Mapping[str, Json]) -> None:
        self.run.events.tell(event, facts, stage=self.name)

    def pause(self, owner: Owner) -> None:
        """`owner` has the stage a moment longer. Raises PreemptedError where it is cancelled: for all who wait, too."""
        if not self.waits:
            self.waits = True
            self.say(f"waits for process {owner['pid']} on {owner['host']}, which makes it")
            self.tell("wait", {"owner": {key: owner[key] for key in ("host", "pid", "since")}})
        request = read_cancel(self.planned.output, since=self.run.since)
        if request is not None:
            raise PreemptedError(f"{self.name}: {request}")
        time.sleep(POLL_SECONDS)

    def make(self, lease: Lease) -> Artifact:
        """What the job made, told to everybody; so is its failure."""
        planned, run = self.planned, self.run
        drop_cancel(planned.output, before=run.since)
        write_atomically(planned.output / RECIPE, run.recipe.model_dump_json(indent=1) + "\n")
        write_json(planned.output / IDENTITY, planned.identity)
        (planned.output / ENVIRONMENT).unlink(missing_ok=True)
        self.started = time.monotonic()
        environment: dict[str, str] | None = None
        goes_on = False
        try:
            self.rest(0, lease)
            if not run.console.is_terminal:
                self.say(f"runs: {planned.why}")
            environment = run.watcher.started(planned)
            write_environment(planned.output, environment)
            artifact = self.try_until_made(environment, lease)
        except BaseException as caught:
            error = caught.error if isinstance(caught, _StopError) else caught
            goes_on = planned.target is not None and isinstance(error, KeyboardInterrupt | SystemExit)
            self.fail(error, begun=environment is not None)
            raise error from None
        finally:
            if not lease.lost:  # else they are another's by now
                if not goes_on:  # a job that waits on its cluster has yet to read it
                    (planned.output / ENVIRONMENT).unlink(missing_ok=True)
                answer_cancel(planned.output)
        run.watcher.made(planned, artifact)
        manifest = artifact.manifest
        self.say(f"made in {manifest.wall_seconds:,.1f} s")
        facts: dict[str, Json] = {"output": str(artifact.root), "fingerprint": manifest.fingerprint}
        figures: dict[str, Json] = {"counts": dict(manifest.counts), "figures": dict(manifest.figures)}
        self.tell("made", {**facts, "wall_seconds": manifest.wall_seconds, **figures})
        return artifact

    def fail(self, error: BaseException, *, begun: bool) -> None:
        """Everybody knows that the stage has failed, or was stopped."""
        self.tell("failed", {"kind": kind_of(error), "error": describe(error)})
        if begun:
            self.run.watcher.failed(self.planned, error)
        stop = self.planned.stop_command if isinstance(error, KeyboardInterrupt | SystemExit | BusyError) else None
        path = self.planned.output / ERROR
        if not isinstance(error, BusyError) and stop is None and not path.exists():  # else the job has told it
            write_json(path, {"kind": kind_of(error), "message": without_secrets(describe(error))})
        if stop is not None and begun:
            self.say("its job on the cluster goes on; run again to attach, or stop it:")
            self.run.console.print(shlex.join(stop), highlight=False, soft_wrap=True, markup=False)

    def try_until_made(self, environment: Mapping[str, str], lease: Lease) -> Artifact:
        """What one of the attempts made. Raises the error of the last."""
        limits, attempt = self.run.recipe.cluster.limits, 1
        while True:
            try:
                return self.attempt(environment, lease, attempt)
            except TransientError as error:
                if limits.retries == 0:
                    raise
                if attempt > limits.retries:
                    raise TransientError(f"{error}; tried {attempt} times, as cluster.limits.retries says") from None
                seconds = limits.backoff_seconds * 2 ** (attempt - 1)
                attempt += 1
                self.say(f"{describe(error)}; tried again in {seconds:g} s, {attempt - 1} of {limits.retries}")
                self.tell("retry", {"attempt": attempt, "seconds": seconds, "error": describe(error)})
            self.rest(seconds, lease)

    def rest(self, seconds: float, lease: Lease) -> None:
        """So much time is over, and nothing stood against going on. Raises as `check` does."""
        until = time.monotonic() + seconds
        try:
            self.check(lease)
            while time.monotonic() < until:
                time.sleep(min(POLL_SECONDS, seconds))
                self.check(lease)
        except _StopError:
            stop_on_cluster(self.planned)  # nobody follows it, but it may be there
            raise

    def attempt(self, environment: Mapping[str, str], lease: Lease, number: int) -> Artifact:
        """What the job made. What it prints goes to log.txt; raises its own error, or one with the log's end."""
        planned, output = self.planned, self.planned.output
        lease.confirm()  # a runner that was suspended wakes anywhere
        artifact = _finished_meanwhile(planned)
        if artifact is not None:
            return artifact
        (output / ERROR).unlink(missing_ok=True)
        if planned.stop_command is None:
            (output / HANDLE).unlink(missing_ok=True)  # of a cluster that this run does not submit to
        command: list[Json] = [*planned.command]
        self.tell("start", {"output": str(output), "why": planned.why, "attempt": number, "command": command})
        with (output / LOG).open("w" if number == 1 else "a", encoding="utf-8") as log:
            job = subprocess.Popen(
                planned.command,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=job_environment(planned, environment),
                start_new_session=True,
            )
        try:
            with StageDisplay(self.run.console, self.run.events, stage=self.name, output=output) as display:
                while job.poll() is None:
                    self.check(lease)
                    display.update()
                    time.sleep(POLL_SECONDS)
        except BaseException as caught:
            self.stop(job, caught)
            raise
        artifact = open_artifact(output)
        if artifact is not None:  # the manifest is written last: with it, the exit code says nothing more
            return artifact
        raise error_of(planned, job.returncode)

    def check(self, lease: Lease) -> None:
        """Nothing stands against going on. Raises _StopError, or BusyError where the lease is lost."""
        lease.require()
        request = read_cancel(self.planned.output, since=self.run.since)
        if request is not None:
            raise _StopError(PreemptedError(f"{self.name}: {request}"))
        if self.minutes is not None and time.monotonic() - self.started > 60 * self.minutes:
            field = f"cluster.limits.minutes.{self.name}"
            raise _StopError(StageError(f"{self.name}: stopped after {self.minutes:g} minutes, as {field} says"))

    def stop(self, job: "subprocess.Popen[bytes]", why: BaseException) -> None:
        """The job has ended. Raises a better error than `why` where the job has kept its work, or may go on."""
        ordered = why.error if isinstance(why, _StopError) else None
        try:
            if ordered is not None and self.planned.stop_command:
                stop_on_cluster(self.planned)
                with suppress(subprocess.TimeoutExpired):  # it passes on the end of the log
                    job.wait(GRACE_SECONDS)
        except StageError as error:
            raise StageError(f"{ordered}; {error}") from None
        finally:
            stop_job(job, grace_seconds(self.planned))
        told = told_error(self.planned)
        if not isinstance(told, PreemptedError):
            return
        if ordered is not None:
            raise type(ordered)(f"{ordered}; {str(told).removeprefix(f'{self.name}: ')}") from None
        if isinstance(why, KeyboardInterrupt | SystemExit):  # that it kept its work matters to who sent the signal
            raise told from None


def _finished_meanwhile(planned: PlannedStage) -> Artifact | None:
    """The output, if another runner made it since the plan; a damaged one makes way for a new attempt."""
    try:
        return open_artifact(planned.output)
    except StageError:
        (planned.output / MANIFEST).unlink()
        return None
