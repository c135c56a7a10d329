"""Stops a stage, whoever makes it: a runner anywhere is asked to, a job that no runner follows is cancelled."""

import time
from pathlib import Path

from rich.console import Console

from gpt_core.artifact import MANIFEST
from gpt_core.errors import TransientError
from jobs.job import CANCEL, ENVIRONMENT
from jobs.launch.follow import cancel_job
from jobs.launch.spec import submission_id
from pipelines.cancel_request import answer_cancel, request_cancel
from pipelines.lease import lease_owner
from pipelines.plan import PlannedStage
from pipelines.status import open_cluster, stage_state

POLL_SECONDS = 0.5
REMIND_SECONDS = 15.0


def stop_stage(planned: PlannedStage, console: Console) -> bool:
    """Nobody makes the stage any more; False where nobody did. Waits for the runner that does.

    Raises SetupError or TransientError where a cluster does not answer.
    """
    name, output = planned.stage.name, planned.output
    stopped = False
    owner = lease_owner(output)
    if owner is not None:
        stopped = True
        request_cancel(output)
        console.print(f"{name:<10} asked process {owner['pid']} on {owner['host']} to stop", highlight=False)
        _wait_for_runner(name, output, console)
    if (output / MANIFEST).exists():
        (output / CANCEL).unlink(missing_ok=True)
        if stopped:
            console.print(f"{name:<10} was made before it could be stopped", highlight=False)
        return stopped
    if not stopped or (output / CANCEL).exists():  # there was no runner, or it died before it obeyed
        (output / CANCEL).unlink(missing_ok=True)
        state = stage_state(planned)
        if state.job is not None and state.job.living:
            try:
                cancel_job(open_cluster(state.job.handle, output), submission_id(output))
            except TransientError as error:
                raise TransientError(f"{name}: the {state.job}, may go on: {error}") from None
            request_cancel(output)
            answer_cancel(output)
            (output / ENVIRONMENT).unlink(missing_ok=True)  # of the runner that is gone; it may hold credentials
            stopped = True
    if stopped:
        console.print(f"{name:<10} is stopped; run again to go on", highlight=False)
    return stopped


def _wait_for_runner(name: str, output: Path, console: Console) -> None:
    """Nobody holds the stage's lease."""
    told = time.monotonic()
    while (owner := lease_owner(output)) is not None:
        if time.monotonic() - told > REMIND_SECONDS:
            told = time.monotonic()
            waiting = f"waits for process {owner['pid']} on {owner['host']} to give the stage back; Ctrl-C leaves it"
            console.print(f"{name:<10} {waiting}", highlight=False)
        time.sleep(POLL_SECONDS)
