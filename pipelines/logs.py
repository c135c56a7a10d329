"""The log of a stage, as its runner writes it to log.txt; of a submitted job that no runner follows, from the cluster.

Following polls: it opens the file anew each time, so that a network file system shows what another machine wrote. A new
attempt begins the file anew, and so does the one who follows.
"""

import codecs
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gpt_core.artifact import open_artifact
from gpt_core.data.remote import folders_elsewhere
from gpt_core.errors import ArtifactError, GptmillError, InputError, PreemptedError, StageError, TransientError
from gpt_core.recipe import Recipe
from jobs.job import ERROR, LOG
from jobs.launch.follow import follow
from pipelines.lease import lease_owner
from pipelines.plan import PlannedStage
from pipelines.status import StageState, Submission, open_cluster, stage_state

POLL_SECONDS = 0.5
BETWEEN_STAGES_SECONDS = 15.0  # a run records a stage that is made before it begins the next
CLUSTER_SECONDS = 5.0  # for what a cluster has of a living job's log: some pass it on until the job ends
CHUNK_BYTES = 1 << 20
MARK_BYTES = 64  # by which a log that began anew is known, even where it is longer than the former


def choose_stage(plan: Sequence[PlannedStage]) -> PlannedStage:
    """The stage that is being made, else the one whose log was written last. Raises InputError where none has one."""
    for planned in plan:
        if stage_state(planned).living:
            return planned
    written = [(log.stat().st_mtime, planned) for planned in plan if (log := planned.output / LOG).exists()]
    if not written:
        raise InputError("no stage of this recipe has a log yet; start with: gptmill run RECIPE")
    return max(written, key=lambda pair: pair[0])[1]


def show_log(planned: PlannedStage) -> None:
    """All of the stage's log so far stands on stdout. Raises InputError where it has none."""
    state = stage_state(planned)
    if state.job is not None and _misses_the_end(state):
        passing = threading.Thread(target=_pass_on, args=(state.job, planned.output), daemon=True)
        passing.start()
        passing.join(CLUSTER_SECONDS if state.living else None)
    elif (planned.output / LOG).exists():
        Tail(planned.output / LOG).pass_on()
    else:
        raise InputError(f"{planned.stage.name}: has no log: {state.told}")


def follow_log(planned: PlannedStage, plan: Sequence[PlannedStage], recipe: Recipe) -> None:
    """The stage's log stands on stdout, and the stage is made; while an earlier one is made, it is waited for.

    Raises StageError with the reason where it failed, PreemptedError where it was stopped on demand, InputError where
    nobody makes it.
    """
    log, whole, seen = Tail(planned.output / LOG), False, -BETWEEN_STAGES_SECONDS
    while True:
        while lease_owner(planned.output) is not None:
            log.pass_on()
            whole = False
            time.sleep(POLL_SECONDS)
        state = stage_state(look_again(planned, recipe))
        if any(lease_owner(other.output) for other in plan):
            seen = time.monotonic()
        if state.job is not None and state.state == "submitted":
            print(f"{planned.stage.name}: {state.told}; its log from the beginning:", file=sys.stderr, flush=True)
            _follow_job(state.job, planned.output)
            whole = True
        elif state.state == "not made" and time.monotonic() - seen < BETWEEN_STAGES_SECONDS:
            time.sleep(POLL_SECONDS)
        elif state.state != "running":
            if not whole:
                log.pass_on()
            _raise_unless_made(state)
            return


def _misses_the_end(state: StageState) -> bool:
    """Whether no runner passed the job's log on till now, or till the error that the job told, and the cluster can."""
    attempt = state.job.attempt if state.job is not None else None
    if state.runner is not None or attempt is None or attempt.state == "lost":
        return False
    output = state.planned.output
    log, error = (path.stat().st_mtime if path.exists() else 0.0 for path in (output / LOG, output / ERROR))
    return state.living or state.error is None or log < error - CLUSTER_SECONDS


def _raise_unless_made(state: StageState) -> None:
    told = f"{state.planned.stage.name}: {state.told}"
    if state.state == "not made":
        raise InputError(f"{told}; nobody makes it: start it with `gptmill run`")
    if state.state == "cancelled" or (state.error or {}).get("kind") == "preempted":
        raise PreemptedError(f"{told}; the same run goes on from there")
    if state.state == "failed":
        raise StageError(told)


def _follow_job(job: Submission, output: Path) -> None:
    """The job has ended, and its log stands on stdout. Raises TransientError where its cluster is silent."""
    if job.attempt is None:
        raise TransientError(f"{output}: {job}; ask again")
    follow(open_cluster(job.handle, output), job.attempt, output)


def _pass_on(job: Submission, output: Path) -> None:
    """What the job's log has by now stands on stdout; where the cluster has it no more, log.txt."""
    assert job.attempt is not None
    try:
        open_cluster(job.handle, output).pass_on(job.attempt.native_id, output)
    except (GptmillError, OSError) as error:
        print(f"{job}: its log cannot be had: {error}; {LOG} has what its runner saw", file=sys.stderr)
        Tail(output / LOG).pass_on()


class Tail:
    """A file that grows, or begins anew; what comes is passed on as it comes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._position = 0
        self._mark = b""  # the last bytes before the position
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def pass_on(self) -> None:
        """What the file got since the last call stands on stdout; there may be no file yet."""
        try:
            with self.path.open("rb") as stream:
                stream.seek(self._position - len(self._mark))
                if stream.read(len(self._mark)) != self._mark:
                    self.__init__(self.path)  # type: ignore[misc]
                    stream.seek(0)
                while chunk := stream.read(CHUNK_BYTES):
                    self._position += len(chunk)
                    self._mark = (self._mark + chunk)[-MARK_BYTES:]
                    sys.stdout.write(self._decoder.decode(chunk))
        except FileNotFoundError:
            return
        sys.stdout.flush()


def look_again(planned: PlannedStage, recipe: Recipe) -> PlannedStage:
    """The stage with its output, which may have been made since the plan."""
    try:
        artifact = open_artifact(planned.output, elsewhere=folders_elsewhere(recipe, planned.stage.name))
    except ArtifactError:
        artifact = None
    return replace(planned, artifact=artifact)
