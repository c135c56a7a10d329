"""Ray for a job: the cluster it was submitted to, one that runs, or a private one on the loopback interface."""

import contextlib
import os
import secrets
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpt_core.errors import GptmillError, SetupError, StageError
from gpt_core.recipe import RayCluster

CONNECT_SECONDS = 10.0
LONGEST_TEMPORARY = 40  # characters: Ray adds some 60, and a Unix socket's path has at most 107
SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets it, and RAY_ADDRESS, for what its Jobs API starts


@contextlib.contextmanager
def ray_context(cluster: RayCluster, *, pass_on_logs: bool = False) -> Iterator[None]:
    """Ray is up, and left afterwards; a private one is down then. With `pass_on_logs` stdout gets what workers print.

    A job of Ray's Jobs API joins the cluster it was submitted to, whatever `cluster.address` says. Any other process
    joins the one at that address, or starts a private one. Ray reads its settings when it is first imported, hence
    only here. Raises SetupError where no Ray answers, a task's own GptmillError, and StageError for what else fails
    inside Ray.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"  # under `uv run` Ray would upload the working folder
    with contextlib.ExitStack() as stack:
        if SUBMITTED in os.environ:
            where = f"the cluster of this job, {os.environ['RAY_ADDRESS']}"
            start = {"address": os.environ["RAY_ADDRESS"]}
        elif cluster.address is not None:
            where = f"cluster.ray.address={cluster.address}"
            _require_listener(cluster.address)
            start = {"address": cluster.address}
        else:
            where = "cluster.ray.address=None"
            start = _local_arguments(cluster, Path(stack.enter_context(_temporary_folder())))
        import ray
        import ray.exceptions

        stack.callback(ray.shutdown)
        try:
            ray.init(log_to_driver=pass_on_logs, logging_level="WARNING", namespace="gptmill", **start)
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise SetupError(f"{where}: Ray does not start or answer: {last_line(error)}") from error
        try:
            yield
        except ray.exceptions.RayError as error:
            raise _own_error(error) or StageError(f"a Ray task failed: {last_line(error)}") from error


def _local_arguments(cluster: RayCluster, temporary: Path) -> dict[str, Any]:
    """Of ray.init for a Ray that nobody else can reach: loopback, and a token that is written nowhere.

    For the address 127.0.0.1 Ray takes the machine's own and then serves every interface, except where this variable
    is 0, as it is by default on macOS and Windows.
    """
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    return {
        "address": "local",
        "num_cpus": cluster.cpus,
        "object_store_memory": cluster.object_store_bytes,
        "include_dashboard": False,
        "_node_ip_address": "127.0.0.1",
        "_temp_dir": str(temporary),
    }


def _require_listener(address: str) -> None:
    """Somebody listens at `address`, HOST:PORT or ray://HOST:PORT; `auto` is Ray's to find. Raises SetupError.

    Asked first, because Ray itself tries a silent address for more than ten minutes.
    """
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise SetupError(f"cluster.ray.address={address}: is neither HOST:PORT, ray://HOST:PORT nor auto")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise SetupError(f"cluster.ray.address={address}: nobody listens there ({error}); start Ray first") from None


def _temporary_folder() -> contextlib.AbstractContextManager[str]:
    """A folder with a path short enough for Ray's sockets, removed at the end."""
    short = len(tempfile.gettempdir()) <= LONGEST_TEMPORARY
    parent = tempfile.gettempdir() if short else "/tmp"  # noqa: S108  mkdtemp's folder is private
    return tempfile.TemporaryDirectory(prefix="gptmill-", dir=parent, ignore_cleanup_errors=True)


def _own_error(error: BaseException) -> GptmillError | None:
    """The error of ours that a task ended with, out of Ray's wrappings."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, GptmillError) and not hasattr(found, "cause"):
            return found
        found = getattr(found, "cause", None) or found.__cause__
    return None


def last_line(error: BaseException) -> str:
    """Of the error's message: Ray puts the whole remote traceback before it."""
    return ([line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__])[-1]
