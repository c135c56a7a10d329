"""A Ray cluster on the loopback interface with a token: a head with a Jobs API and further nodes, each killable."""

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import requests

START_SECONDS = 90
OBJECT_STORE_BYTES = 80_000_000
NODE_ENVIRONMENT = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2", "GLOO_SOCKET_IFNAME": "lo"}
PYTHON = (sys.executable,)
_ADDRESS = re.compile(r"--address='(127\.0\.0\.1:\d+)'")
_DASHBOARD = re.compile(r"RAY_API_SERVER_ADDRESS='(http://127\.0\.0\.1:\d+)'")
_STARTED = re.compile(r"Ray runtime started")
# `ray start` puts the machine's own address in the place of 127.0.0.1 and then serves every interface. With the
# variable at 0 Ray's processes keep to loopback, but then no second node may start; so that comes after the import.
_START = """
import os
import ray._private.services as services
services.get_node_ip_address = lambda address=None: "127.0.0.1"
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
from ray.scripts.scripts import main
main()
"""


class RayCluster:
    """A head and nodes of one CPU each; `environment` holds the token for those who submit."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder  # a short path: Ray's sockets lie below it
        self.token = secrets.token_hex(32)
        token_file = folder / "token"
        token_file.touch(mode=0o600)
        token_file.write_text(self.token)
        self.environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token_file)}
        self.nodes: list[subprocess.Popen[bytes]] = []

    def start(self, nodes: int, *, head_cpus: int = 1) -> None:
        """So many nodes are up, the head in."""
        if len(self.nodes) == nodes:
            return
        if not self.nodes:
            self.start_head(cpus=head_cpus)
        while len(self.nodes) < nodes:
            self.start_node()
        self.wait_until_ready()

    def start_head(self, *, cpus: int = 1) -> None:
        """`address` and `jobs_address` are known when this returns."""
        dashboard = ["--dashboard-host", "127.0.0.1", "--dashboard-port", "0"]
        client = ["--ray-client-server-port", str(_free_port())]  # the one port for which 0 is refused
        log = self._start(PYTHON, "--head", "--port", "0", "--num-cpus", str(cpus), *dashboard, *client)
        self.address = self._wait(log, _ADDRESS)[1]
        self.jobs_address = self._wait(log, _DASHBOARD)[1]

    def start_node(self, python: Sequence[str] = PYTHON) -> None:
        """One more node, which runs on that Python, is there when this returns."""
        # one log monitor a machine: it would pass on its neighbours' logs
        options = ["--address", self.address, "--num-cpus", "1", "--include-log-monitor", "false"]
        self._wait(self._start(python, *options), _STARTED)

    def kill_node(self) -> None:
        """The node that was started last dies at once, and all that runs on it."""
        _end(self.nodes.pop())

    def wait_until_ready(self) -> None:
        """Every node is alive and the Jobs API answers."""
        headers = {"Authorization": f"Bearer {self.token}"}

        def ready() -> bool:
            with suppress(requests.RequestException, ValueError, KeyError):
                requests.get(f"{self.jobs_address}/api/jobs/", headers=headers, timeout=5).raise_for_status()
                nodes = requests.get(f"{self.jobs_address}/nodes?view=summary", headers=headers, timeout=5).json()
                alive = [one["raylet"]["state"] == "ALIVE" for one in nodes["data"]["summary"]]
                return sum(alive) == len(self.nodes)
            return False

        wait_until(ready, seconds=START_SECONDS)

    def stop(self) -> None:
        """No process of the cluster is left."""
        while self.nodes:
            _end(self.nodes.pop())

    def _start(self, python: Sequence[str], *options: str) -> Path:
        """The log of a node in a session of its own; 0 lets the system choose a port."""
        number = len(list(self.folder.glob("*.log")))
        log = self.folder / f"{number}.log"
        common = {
            "--node-ip-address": "127.0.0.1",
            "--dashboard-agent-listen-port": "0",  # else 52365 for every node
            "--min-worker-port": "0",  # else 10002 and up
            "--max-worker-port": "0",
            "--object-store-memory": str(OBJECT_STORE_BYTES),
            "--temp-dir": str(self.folder / str(number)),
        }
        arguments = [word for option in common.items() for word in option]
        with log.open("wb") as file:
            self.nodes.append(
                subprocess.Popen(
                    [*python, "-c", _START, "start", "--block", "--disable-usage-stats", *options, *arguments],
                    env={**os.environ, **self.environment, **NODE_ENVIRONMENT},
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )
        return log

    def _wait(self, log: Path, words: re.Pattern[str]) -> re.Match[str]:
        found: list[re.Match[str]] = []

        def told() -> bool:
            text = log.read_text(errors="replace")
            assert self.nodes[-1].poll() is None, text
            found.extend(words.finditer(text))
            return bool(found)

        wait_until(told, seconds=START_SECONDS)
        return found[0]


def wait_until(holds: Callable[[], bool], *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "never came"
        time.sleep(0.01)


def _end(node: "subprocess.Popen[bytes]") -> None:
    """The node's processes have ended: its session, and below it the jobs, which have sessions of their own."""
    jobs = psutil.Process(node.pid).children(recursive=True) if node.poll() is None else []
    while members := {process for process in [*jobs, *psutil.process_iter()] if _belongs(process, node.pid, jobs)}:
        for process in members:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        node.wait()
        psutil.wait_procs(members, timeout=0.2)


def _belongs(process: psutil.Process, session: int, jobs: list[psutil.Process]) -> bool:
    """Whether it runs, and is of the session or one of the jobs."""
    with suppress(psutil.NoSuchProcess, ProcessLookupError):
        running = process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        return running and (process in jobs or os.getsid(process.pid) == session)
    return False


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def ray_cluster(*, nodes: int, head_cpus: int = 1) -> Iterator[RayCluster]:
    """A cluster of so many nodes, the head in; it ends with the block."""
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        cluster = RayCluster(Path(folder))
        try:
            cluster.start(nodes, head_cpus=head_cpus)
            yield cluster
        finally:
            cluster.stop()
