"""Ray's Jobs API as a Target.

Ray takes an id once, so the attempt's name is the job's id, and the key that keeps a stage from running twice. Ray can
delete an ended job and then accepts its id again, but the old job's monitor kills the new one and their logs mix: hence
a name of its own for every attempt.

Ray takes a token from its own variables (RAY_AUTH_MODE, RAY_AUTH_TOKEN_PATH, RAY_AUTH_TOKEN) or ~/.ray/auth_token;
it goes nowhere but into the requests' headers. The job has the environment of the cluster's nodes, and beside it only
what makes this code importable there under the same path; or, with `cluster.archive`, the Python that Ray was started
with, which must be the first on its nodes' PATH.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import requests

from gpt_core.errors import SetupError, StageError
from gpt_core.recipe import TrainCluster
from jobs.environment import python_environment
from jobs.launch.target import AlreadySubmittedError, Attempt

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

ANSWER_SECONDS = 10.0  # for an answer to the first request
STOP_SECONDS = 120  # between SIGTERM and SIGKILL of a job that is cancelled; Ray gives 3 by itself
FIELD = "cluster.ray.jobs_address"
STATES: dict[str, Literal["pending", "running", "succeeded", "failed", "stopped"]] = {
    "PENDING": "pending",
    "RUNNING": "running",
    "SUCCEEDED": "succeeded",
    "FAILED": "failed",
    "STOPPED": "stopped",
}
JOBS_OWN_FAILURES = ("JOB_ENTRYPOINT_COMMAND_ERROR", "RUNTIME_ENV_SETUP_FAILURE")  # others pass with their machine


class RayJobs:
    """The jobs of one cluster; follows the log of one of them. The native id is the attempt's name."""

    def __init__(self, client: JobSubmissionClient, *, archive: bool) -> None:
        self._client = client
        self._archive = archive
        self._passed = 0  # characters of the log

    def latest(self, name: str) -> Attempt | None:
        """The last attempt at the job `name`, living or ended; None where the cluster knows none."""
        pattern = re.compile(rf"{re.escape(name)}(?:-(\d+))?")
        with _broken_connections():
            found = ((pattern.fullmatch(job.submission_id or ""), job) for job in self._client.list_jobs())
            numbered = [(int(match[1] or 1), job) for match, job in found if match]
        return _attempt(max(numbered, key=lambda one: one[0])[1]) if numbered else None

    def submit(self, attempt: str, command: Sequence[str], output: Path) -> str:  # noqa: ARG002
        """The native id of a new job that runs `command`. Raises AlreadySubmittedError; StageError if refused."""
        words = ["python", *command[1:]] if self._archive and command[0] == sys.executable else command
        variables = python_environment()
        if self._archive:
            del variables["PYTHONPATH"]
        variables["RAY_JOB_STOP_WAIT_TIME_S"] = str(STOP_SECONDS)
        try:
            self._client.submit_job(
                entrypoint=shlex.join(words), submission_id=attempt, runtime_env={"env_vars": variables}
            )
        except RuntimeError as error:
            if "already exists" in str(error):
                raise AlreadySubmittedError(attempt) from None
            raise StageError(f"Ray took no job: {_reason(error)}") from None
        return attempt

    def look(self, native_id: str) -> Attempt:
        """How the job is."""
        job = self._details(native_id)
        return _attempt(job) if job is not None else Attempt(native_id, native_id, "lost", "its head was restarted")

    def pass_on(self, native_id: str, output: Path) -> None:  # noqa: ARG002  Ray keeps the log
        """What the job's log got since the last call stands on stdout, to its end: returns when the job has ended."""
        if self._details(native_id) is None:  # asked for the log of an unknown job, Ray writes our token into its log
            return
        with _broken_connections():
            asyncio.run(self._pass_on(native_id))

    async def _pass_on(self, native_id: str) -> None:
        position = 0  # every connection sends the log from its beginning
        async for text in self._client.tail_job_logs(native_id):
            print(text[max(0, self._passed - position) :], end="", flush=True)
            position += len(text)
            self._passed = max(self._passed, position)

    def cancel(self, native_id: str) -> None:
        """The job gets SIGTERM, and SIGKILL after STOP_SECONDS."""
        with _broken_connections():
            self._client.stop_job(native_id)

    def _details(self, native_id: str) -> JobDetails | None:
        """What Ray tells of the job; None where it knows none of that id."""
        with _broken_connections():
            try:
                return self._client.get_job_info(native_id)
            except RuntimeError as error:
                if "status code 404" in str(error):
                    return None
                raise


def _attempt(job: JobDetails) -> Attempt:
    name = str(job.submission_id)
    message = (job.message or "").partition("\n")[0].partition(", last available logs")[0]
    failed = job.status == "FAILED"
    return Attempt(
        name,
        name,
        STATES[job.status],
        message=message if failed else "",
        transient=failed and job.error_type not in JOBS_OWN_FAILURES,
    )


@contextmanager
def _broken_connections() -> Iterator[None]:
    """Raises OSError for what Ray's client raises when the cluster does not answer, or not as it should.

    Raises SetupError where it takes the token no more.
    """
    from aiohttp import ClientError  # Ray follows logs with aiohttp and asks for the rest with requests
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError:
        raise SetupError(f"{FIELD}: the cluster refuses the token; take the one that it was started with") from None
    except (OSError, RuntimeError, ClientError) as error:
        raise OSError(_reason(error)) from None


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


def require_room(client: JobSubmissionClient, train: TrainCluster) -> None:
    """So many machines of the cluster as the training wants have what it wants of each, or can be added by Ray.

    Raises SetupError where not. What other jobs hold is not asked for: Ray waits until it is free.
    """
    from ray.util.state import list_nodes
    from ray.util.state.exception import RayStateApiException

    needed, address = train.processes * (train.threads_per_process or 1), client.get_address()
    try:
        nodes = list_nodes(address, filters=[("state", "=", "ALIVE")])
        grows = _grows(client)
    except (OSError, RuntimeError, RayStateApiException) as error:
        raise SetupError(f"{FIELD}={address}: does not tell its nodes: {_reason(error)}") from None
    cpus = sorted((int(node.resources_total.get("CPU", 0)) for node in nodes), reverse=True)
    if sum(have >= needed for have in cpus) < train.nodes and not grows:
        raise SetupError(
            f"cluster.train: nodes={train.nodes} machine(s) with processes x threads_per_process={needed} CPU(s) each "
            f"are wanted, and those at {FIELD}={address} have {cpus}; ask for less, or add nodes"
        )


def _grows(client: JobSubmissionClient) -> bool:
    """Whether an autoscaler may start nodes; one that only looks on calls each node a type of its own, node_ID."""
    answer = client._do_request("GET", "/api/cluster_status").json()
    report = ((answer.get("data") or {}).get("clusterStatus") or {}).get("autoscalerReport") or {}
    kinds = (report.get("nodeTypeMapping") or {}).values()
    return not kinds or not all(kind.startswith("node_") for kind in kinds)


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


def _reason(error: BaseException) -> str:
    """The last line of an error: Ray sends tracebacks, and requests its own errors inside out."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" .")]
    return lines[-1].rstrip(".") if lines else type(error).__name__
