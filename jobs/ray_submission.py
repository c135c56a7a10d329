"""A stage as a job of Ray's Jobs API: submitted once, then followed to its end by whoever runs this command.

    python -m jobs.ray_submission --address http://HEAD:8265 --id ID --output OUT -- python -m jobs.tokenize_corpus ...
    python -m jobs.ray_submission --address http://HEAD:8265 --id ID --stop

Ray takes an id once, so the id is the key that keeps a stage from running twice: while a job of that id is pending
or running, everybody else attaches to it. A job that has ended, however it ended, makes way for the next attempt,
ID-2, ID-3 and so on. Ray can delete an ended job and then accepts its id again, but the old job's monitor kills the
new one and their logs mix. Whether the stage is whole the manifest in OUT says, never Ray.

The job's log goes to stdout as it comes. The exit code is the job's: 0 with a manifest, 2 for the user's error, 1 for
others; error.json says why. SIGINT, SIGTERM and SIGKILL end this process alone; the job goes on.

Ray takes a token from its own variables (RAY_AUTH_MODE, RAY_AUTH_TOKEN_PATH, RAY_AUTH_TOKEN) or ~/.ray/auth_token;
it goes nowhere but into the requests' headers. The job has the environment of the cluster's nodes, and beside it only
what makes this code importable there under the same path.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import re
import shlex
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import requests

from gpt_core.artifact import MANIFEST
from gpt_core.errors import GptmillError, SetupError, StageError
from jobs.environment import python_environment
from jobs.job import ERROR, end_with_error, end_with_runner

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

ANSWER_SECONDS = 10.0  # for an answer to the first request
PATIENCE_SECONDS = 60.0  # without an answer from a cluster that has answered before
POLL_SECONDS = 0.5
FIELD = "cluster.ray.jobs_address"


def main(argv: list[str] | None = None) -> None:
    """Submit or attach, follow, and exit as the job did; or stop it."""
    arguments = _parse_arguments(argv)
    end_with_runner()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, _detach)
    try:
        client = connect(arguments.address)
        if arguments.stop:
            _stop(client, arguments.id)
        elif (arguments.output / MANIFEST).exists():
            print(f"{arguments.output} is whole already")
        else:
            attempt = _attach_or_submit(client, arguments.id, arguments.command, arguments.output)
            sys.exit(_outcome(_follow(client, attempt), arguments.output))
    except GptmillError as error:
        if arguments.output is None:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(error.exit_code)
        end_with_error(error, arguments.output)


def asks_for_token(address: str) -> bool:
    """Whether the Jobs API at `address` refuses who brings no token. Raises SetupError where none answers."""
    try:
        answer = requests.get(f"{address.rstrip('/')}/api/version", timeout=ANSWER_SECONDS, allow_redirects=False)
    except requests.RequestException as error:
        raise SetupError(
            f"{FIELD}={address}: no answer ({_reason(error)}); start the head with `ray start --head` and "
            "--dashboard-host, and see that ray[default] is installed there: Ray without it has no Jobs API"
        ) from None
    if answer.status_code in (401, 403):
        return True
    if answer.status_code != 200 or "ray_version" not in answer.text:
        raise SetupError(
            f"{FIELD}={address}: answers {answer.status_code} and is no Ray with a Jobs API; give the address of the "
            "head's dashboard, which is port 8265 unless --dashboard-port said otherwise"
        )
    return False


def connect(address: str) -> JobSubmissionClient:
    """A client of the Jobs API that is let in. Raises SetupError that says why not, and the way out."""
    protected = asks_for_token(address)
    source = _token_source()
    if protected and source is None:
        raise SetupError(
            f"{FIELD}={address}: wants a token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to a file with the "
            "cluster's token"
        )
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    logging.getLogger("ray.dashboard").setLevel(logging.WARNING)
    logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)
    try:
        return JobSubmissionClient(address)
    except AuthenticationError:
        raise SetupError(
            f"{FIELD}={address}: refuses the token of {source}; take the one that the cluster was started with"
        ) from None
    except (OSError, RuntimeError) as error:
        raise SetupError(f"{FIELD}={address}: {_reason(error)}") from None


def _token_source() -> str | None:
    """Where Ray will take the token from, or None where it will send none.

    Raises SetupError for a file without one, at which Ray itself ends the process.
    """
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        return None
    if os.environ.get("RAY_AUTH_TOKEN"):
        return "RAY_AUTH_TOKEN"
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else Path("~/.ray/auth_token").expanduser()
    try:
        empty = not path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = (getattr(error, "strerror", None) or "is not UTF-8").lower()
        raise SetupError(f"RAY_AUTH_MODE=token: {path}: {reason}; put the cluster's token there") from None
    if empty:
        raise SetupError(f"RAY_AUTH_MODE=token: {path} is empty; put the cluster's token there")
    return str(path)


def _parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Submit a stage to Ray's Jobs API, or attach to it, and follow it.")
    parser.add_argument("--address", required=True, help="of the Jobs API, http://HOST:8265")
    parser.add_argument("--id", required=True, help="the submission id")
    parser.add_argument("--output", type=Path, help="the prepared output folder")
    parser.add_argument("--stop", action="store_true", help="stop the job instead")
    parser.add_argument("command", nargs="*", metavar="-- COMMAND", help="what the job runs")
    arguments = parser.parse_args(argv)
    if not arguments.stop and not (arguments.output and arguments.command):
        parser.error("give --output and, behind --, the command; or --stop")
    return arguments


def _latest(client: JobSubmissionClient, name: str) -> tuple[int, JobDetails | None]:
    """Number and details of the last attempt at the job `name`; (0, None) where there was none."""
    pattern = re.compile(rf"{re.escape(name)}(?:-(\d+))?")
    found = ((pattern.fullmatch(job.submission_id or ""), job) for job in client.list_jobs())
    return max(((int(match[1] or 1), job) for match, job in found if match), key=lambda one: one[0], default=(0, None))


def _attach_or_submit(client: JobSubmissionClient, name: str, command: list[str], output: Path) -> str:
    """The id of the one job that makes the output now."""
    while True:
        number, job = _latest(client, name)
        if job is not None and not job.status.is_terminal():
            print(f"attached to the Ray job {job.submission_id}, which is {job.status.lower()}", flush=True)
            return str(job.submission_id)
        attempt = f"{name}-{number + 1}" if number else name
        (output / ERROR).unlink(missing_ok=True)
        environment = {"env_vars": python_environment()}
        try:
            client.submit_job(entrypoint=shlex.join(command), submission_id=attempt, runtime_env=environment)
        except (OSError, RuntimeError) as error:
            if "already exists" in str(error):  # somebody else was faster
                continue
            raise StageError(f"Ray took no job: {_reason(error)}") from None
        print(f"submitted the Ray job {attempt}", flush=True)
        return attempt


def _follow(client: JobSubmissionClient, attempt: str) -> JobDetails:
    """The job's details once it has ended; its log stands on stdout by then. A broken connection is taken up again.

    Raises StageError when the cluster no longer knows the job, or is silent for PATIENCE_SECONDS.
    """
    from aiohttp import ClientError  # Ray follows logs with aiohttp and asks for the rest with requests

    log = _Log()
    answered = time.monotonic()
    while True:
        try:
            client.get_job_info(attempt)  # asked for the log of an unknown job, Ray writes our token into its own log
            asyncio.run(log.pass_on(client, attempt))
            job = client.get_job_info(attempt)
        except (OSError, RuntimeError, ClientError) as error:
            if "status code 404" in str(error):
                raise StageError(
                    f"the cluster knows the Ray job {attempt} no more: its head was restarted; run again"
                ) from None
            if time.monotonic() - answered > PATIENCE_SECONDS:
                raise StageError(
                    f"the cluster has not answered for {PATIENCE_SECONDS:.0f} s ({_reason(error)}); the Ray job "
                    f"{attempt} may go on: run again to attach to it"
                ) from None
        else:
            answered = time.monotonic()
            if job.status.is_terminal():
                return job
        time.sleep(POLL_SECONDS)


class _Log:
    """Passes a job's log on, and after a broken connection only what is new."""

    def __init__(self) -> None:
        self.characters = 0

    async def pass_on(self, client: JobSubmissionClient, attempt: str) -> None:
        """Stdout has the log, to its end if the job has ended."""
        position = 0  # every connection sends the log from its beginning
        async for text in client.tail_job_logs(attempt):
            print(text[max(0, self.characters - position) :], end="", flush=True)
            position += len(text)
            self.characters = max(self.characters, position)


def _outcome(job: JobDetails, output: Path) -> int:
    """The exit code for an ended job that told its error itself. Raises StageError for one that could not."""
    if (output / MANIFEST).exists():
        return 0
    if (output / ERROR).exists():
        return 2 if job.driver_exit_code == 2 else 1
    if job.status == "SUCCEEDED":
        raise StageError(f"the Ray job {job.submission_id} ended without a manifest")
    if job.status == "STOPPED":
        raise StageError(f"the Ray job {job.submission_id} was stopped; run again to start it anew")
    reason = (job.message or "no reason given").splitlines()[0].partition(", last available logs")[0]
    raise StageError(f"the Ray job {job.submission_id} failed: {reason}")


def _stop(client: JobSubmissionClient, name: str) -> None:
    """No job of that name runs."""
    _, job = _latest(client, name)
    if job is None or job.status.is_terminal():
        print(f"no Ray job {name} runs")
        return
    client.stop_job(job.submission_id)
    while not client.get_job_status(job.submission_id).is_terminal():
        time.sleep(POLL_SECONDS)
    print(f"stopped the Ray job {job.submission_id}")


def _detach(signum: int, _: object) -> NoReturn:
    """The process ends and leaves the job alone. Nothing here needs to be put away."""
    print("detached; the Ray job, once submitted, goes on", flush=True)
    os._exit(128 + signum)


def _reason(error: BaseException) -> str:
    """The last line of an error: Ray sends tracebacks, and requests its own errors inside out."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" .")]
    return lines[-1].rstrip(".") if lines else type(error).__name__


if __name__ == "__main__":
    main()
