"""A stage as a job of a cluster: submitted once, then followed to its end by whoever runs this command.

    python -m jobs.launch.follow --target slurm --output OUT -- python -m jobs.evaluate --recipe OUT/recipe.json ...
    python -m jobs.launch.follow --target slurm --output OUT --cancel

Which cluster, says OUT/recipe.json. The job's name is made of OUT (submission_id) and is the key that keeps a stage
from running twice: while a job of that name is pending or running, everybody else attaches to it. One that has ended,
however it ended, makes way for the next attempt, NAME-2, NAME-3 and so on. OUT/handle.json tells where the job is, and
is written before anybody waits for it. Whether the stage is whole the manifest in OUT says, never the cluster.

The job's log goes to stdout as it comes. The exit code is that of the job's own error, or gpt_core/errors.py's;
error.json says why. SIGINT, SIGTERM and SIGKILL end this process alone; the job goes on.
"""

import argparse
import os
import re
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, get_args

from gpt_core.artifact import MANIFEST, utc_now
from gpt_core.errors import GptmillError, PreemptedError, StageError, TransientError
from gpt_core.recipe_file import load_recipe
from jobs.job import ERROR, RECIPE, end_with_error, end_with_runner
from jobs.launch.spec import Handle, TargetName, submission_id
from jobs.launch.target import AlreadySubmittedError, Attempt, Target, open_target

PATIENCE_SECONDS = 60.0  # without an answer from a cluster that has answered before
POLL_SECONDS = 0.5


def main(argv: list[str] | None = None) -> None:
    """Submit or attach, follow, and exit as the job did; or cancel it."""
    arguments = _parse_arguments(argv)
    output: Path = arguments.output
    end_with_runner()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, _detach)
    try:
        target = open_target(arguments.target, load_recipe(output / RECIPE).cluster)
        if arguments.cancel:
            cancel_job(target, submission_id(output))
        elif (output / MANIFEST).exists():
            print(f"{output} is whole already")
        else:
            attempt = attach_or_submit(target, arguments.target, arguments.command, output)
            sys.exit(outcome(follow(target, attempt, output), output))
    except GptmillError as error:
        if arguments.cancel:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(error.exit_code)
        end_with_error(error, output)


def attach_or_submit(target: Target, kind: TargetName, command: Sequence[str], output: Path) -> Attempt:
    """The one job that makes the output now; its handle stands in `output`."""
    name = submission_id(output)
    while True:
        last = target.latest(name)
        if last is not None and not last.ended:
            print(f"attached to the {kind} job {last.name} ({last.native_id}), which is {last.state}", flush=True)
            Handle(kind, last.name, last.native_id, utc_now()).write(output)
            return last
        attempt = next_name(name, last)
        (output / ERROR).unlink(missing_ok=True)
        try:
            native_id = target.submit(attempt, command, output)
        except AlreadySubmittedError:
            continue
        Handle(kind, attempt, native_id, utc_now()).write(output)
        print(f"submitted the {kind} job {attempt} ({native_id})", flush=True)
        return Attempt(attempt, native_id, "pending")


def next_name(name: str, last: Attempt | None) -> str:
    """`name` for the first attempt, then `name`-2 and so on."""
    if last is None:
        return name
    match = re.fullmatch(rf"{re.escape(name)}(?:-(\d+))?", last.name)
    assert match is not None, last
    return f"{name}-{int(match[1] or 1) + 1}"


def follow(target: Target, attempt: Attempt, output: Path) -> Attempt:
    """The job once it has ended; its log stands on stdout by then. A broken connection is taken up again.

    Raises TransientError when the cluster no longer knows the job, or is silent for PATIENCE_SECONDS.
    """
    answered = time.monotonic()
    while True:
        try:
            target.pass_on(attempt.native_id, output)
            now = target.look(attempt.native_id)
            if now.ended:
                target.pass_on(attempt.native_id, output)
        except OSError as error:
            if time.monotonic() - answered > PATIENCE_SECONDS:
                raise TransientError(
                    f"the cluster has not answered for {PATIENCE_SECONDS:.0f} s ({error}); the job {attempt.name} may "
                    "go on: run again to attach to it"
                ) from None
        else:
            answered = time.monotonic()
            if now.ended:
                return now
        time.sleep(POLL_SECONDS)


def outcome(attempt: Attempt, output: Path) -> int:
    """The exit code for an ended job that told its error itself. Raises StageError for one that could not."""
    if (output / MANIFEST).exists():
        return 0
    if (output / ERROR).exists():
        return attempt.exit_code or StageError.exit_code
    told = f"the job {attempt.name} ({attempt.native_id})"
    reason = f": {attempt.message}" if attempt.message else ""
    if attempt.state == "succeeded":
        raise StageError(f"{told} ended well, but without a manifest: it has failed")
    if attempt.state == "stopped":
        raise StageError(f"{told} was stopped{reason}; run again to start it anew")
    if attempt.state == "lost":
        raise TransientError(f"the cluster knows {told} no more{reason}; run again")
    if attempt.transient:
        raise TransientError(f"{told} was lost{reason}")
    raise StageError(f"{told} failed{reason}")


def cancel_job(target: Target, name: str) -> None:
    """No job of that name runs."""
    last = target.latest(name)
    if last is None or last.ended:
        print(f"no job {name} runs")
        return
    target.cancel(last.native_id)
    while not target.look(last.native_id).ended:
        time.sleep(POLL_SECONDS)
    print(f"cancelled the job {last.name} ({last.native_id})")


def _detach(*_: object) -> NoReturn:
    """The process ends and leaves the job alone. Nothing here needs to be put away."""
    print("detached; the job, once submitted, goes on", flush=True)
    os._exit(PreemptedError.exit_code)


def _parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Submit a stage to a cluster, or attach to it, and follow it.")
    parser.add_argument("--target", required=True, choices=get_args(TargetName), help="the kind of cluster")
    parser.add_argument("--output", type=Path, required=True, help="the prepared output folder")
    parser.add_argument("--cancel", action="store_true", help="cancel the job instead")
    parser.add_argument("command", nargs="*", metavar="-- COMMAND", help="what the job runs")
    arguments = parser.parse_args(argv)
    if not arguments.cancel and not arguments.command:
        parser.error("give the command behind --, or --cancel")
    return arguments


if __name__ == "__main__":
    main()
