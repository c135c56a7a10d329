"""A stage as a job of a cluster: submitted once, then followed to its end by whoever runs this command.

    python -m jobs.launch.follow --target slurm --output OUT -- python -m jobs.evaluate --recipe OUT/recipe.json ...
    python -m jobs.launch.follow --target slurm --output OUT --cancel

Which cluster, says OUT/recipe.json. The job's name is made of OUT (submission_id) and is the key that keeps a stage
from running twice: while a job of that name is pending or running, or has made the output, everybody else attaches to
it. One that has ended without makes way for the next attempt, NAME-2, NAME-3 and so on. OUT/handle.json tells where the
job is, and is written before anybody waits for it. Whether the stage is whole the manifest in OUT says, never the
cluster.

The job's log goes to stdout as it comes. The exit code is that of the job's own error, or gpt_core/errors.py's;
error.json says why. SIGINT, SIGTERM and SIGKILL end this process alone; the job goes on.
"""

import argparse
import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn, get_args

from gpt_core.artifact import MANIFEST, utc_now
from gpt_core.errors import GptmillError, PreemptedError, StageError, TransientError
from gpt_core.recipe_file import load_recipe
from jobs.job import ERROR, KINDS, RECIPE, end_with_error, end_with_runner
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
        with _answers():
            last = target.latest(name)
        if last is not None and (not last.ended or (output / MANIFEST).exists()):
            print(f"attached to the {kind} job {last.title}, {last.state}", flush=True)
            Handle(kind, last.name, last.native_id, utc_now()).write(output)
            return last
        attempt = next_name(name, last)
        (output / ERROR).unlink(missing_ok=True)
        try:
            with _answers():
                native_id = target.submit(attempt, command, output)
        except AlreadySubmittedError:
            continue
        Handle(kind, attempt, native_id, utc_now()).write(output)
        submitted = Attempt(attempt, native_id, "pending")
        print(f"submitted the {kind} job {submitted.title}", flush=True)
        return submitted


def next_name(name: str, last: Attempt | None) -> str:
    """`name` for the first attempt, then `name`-2 and so on."""
    if last is None:
        return name
    match = re.fullmatch(rf"{re.escape(name)}(?:-(\d+))?", last.name)
    assert match is not None, last
    return f"{name}-{int(match[1] or 1) + 1}"


def follow(target: Target, attempt: Attempt, output: Path) -> Attempt:
    """The job once it has ended; its log stands on stdout by then. A broken connection is taken up again.

    Raises TransientError when the cluster tells nothing of the job for PATIENCE_SECONDS; without an answer for so long
    about an ended job's log, the log's end is given up.
    """
    silent_since: float | None = None
    while True:
        now: Attempt | None = None
        try:
            now = target.look(attempt.native_id)
            target.pass_on(attempt.native_id, output)
            if now.ended:
                return now
        except OSError as error:
            if now is not None and not now.ended:
                silent_since = None
            elif silent_since is None:
                silent_since = time.monotonic()
            elif time.monotonic() - silent_since > PATIENCE_SECONDS:
                if now is not None:
                    return now
                raise TransientError(
                    f"the cluster has not answered for {PATIENCE_SECONDS:.0f} s ({error}); the job {attempt.title} may "
                    "go on: run again to attach to it"
                ) from None
        else:
            silent_since = None
        time.sleep(POLL_SECONDS)


def outcome(attempt: Attempt, output: Path) -> int:
    """The exit code for an ended job that told its error itself. Raises StageError for one that could not."""
    names = {path.name for path in output.iterdir()}  # a file server may remember for a minute that one was not there
    if MANIFEST in names:
        return 0
    told = f"the job {attempt.title}"
    reason = f": {attempt.message}" if attempt.message else ""
    if attempt.transient:
        raise TransientError(f"{told} was lost{reason}")
    if ERROR in names:
        return told_code(output)
    if attempt.state == "succeeded":
        raise StageError(f"{told} ended well, but without a manifest: it has failed")
    if attempt.state == "stopped":
        raise StageError(f"{told} was stopped{reason}; run again to start it anew")
    if attempt.state == "lost":
        raise TransientError(f"the cluster knows {told} no more{reason}; run again")
    raise StageError(f"{told} failed{reason}")


def told_code(output: Path) -> int:
    """The exit code of the error that the job wrote down."""
    kind = json.loads((output / ERROR).read_text(encoding="utf-8"))["kind"]
    return KINDS.get(kind, StageError).exit_code


def cancel_job(target: Target, name: str) -> None:
    """No job of that name runs."""
    with _answers():
        last = target.latest(name)
        if last is None or last.ended:
            print(f"no job {name} runs")
            return
        target.cancel(last.native_id)
        while not target.look(last.native_id).ended:
            time.sleep(POLL_SECONDS)
    print(f"cancelled the job {last.title}")


@contextmanager
def _answers() -> Iterator[None]:
    """Raises TransientError where the cluster's connection breaks."""
    try:
        yield
    except OSError as error:
        raise TransientError(f"the cluster does not answer ({error}); run again") from None


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
