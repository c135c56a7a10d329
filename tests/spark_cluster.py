"""A Spark standalone cluster on the loopback interface, from pip's pyspark: a master and workers, each a process.

It is started as docs/clusters.md says: with a secret in a spark-defaults.conf that nobody else can read.
"""

import os
import re
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

START_SECONDS = 120
_MASTER = re.compile(r"Starting Spark master at (spark://\S+)")
_REGISTERED = re.compile(r"Successfully registered with master")
_PAGE = re.compile(r"UI?.* started at (http://\S+)")
_SECURE = """spark.authenticate true
spark.authenticate.secret {secret}
spark.network.crypto.enabled true
spark.network.crypto.saslFallback false
spark.master.rest.enabled false
"""


def write_conf(folder: Path, text: str) -> dict[str, str]:
    """The environment of who takes Spark's conf from `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "spark-defaults.conf"
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")
    return {"SPARK_CONF_DIR": str(folder)}


class SparkCluster:
    """A master, and workers of one core each that can be killed and started; `environment` lets a driver in.

    `guarded=False` leaves the secret out.
    """

    def __init__(self, folder: Path, *, guarded: bool = True) -> None:
        self.folder = folder
        self.secret = secrets.token_hex(32)
        conf = _SECURE.format(secret=self.secret) if guarded else "spark.master.rest.enabled false\n"
        self.environment = write_conf(folder / "conf", conf)
        self.processes: list[subprocess.Popen[bytes]] = []
        self.logs: list[Path] = []  # of each
        self.workers: list[subprocess.Popen[bytes]] = []
        log = self._start("master.Master", "master.log")
        self.url = self._wait(log, _MASTER)[1]

    def start_worker(self) -> None:
        """One more worker is registered when this returns."""
        number = len(self.processes)
        work = self.folder / f"work-{number}"
        options = ["--cores", "1", "--memory", "1g", "--work-dir", str(work), self.url]
        log = self._start("worker.Worker", f"worker-{number}.log", *options)
        self.workers.append(self.processes[-1])
        self._wait(log, _REGISTERED)

    def kill_worker(self) -> None:
        """The worker that was started first dies at once, and its executors with it."""
        worker = self.workers.pop(0)
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()

    def pages(self) -> list[str]:
        """The addresses of the living daemons' web pages."""
        daemons = zip(self.processes, self.logs, strict=True)
        logs = [log.read_text(errors="replace") for process, log in daemons if process.poll() is None]
        return [found[1] for log in logs for found in _PAGE.finditer(log)]

    def stop(self) -> None:
        """All processes have ended."""
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _start(self, role: str, log_name: str, *options: str) -> Path:
        """The log of a daemon in a process group of its own."""
        spec = find_spec("pyspark")
        assert spec is not None
        assert spec.origin is not None
        home = Path(spec.origin).parent
        command = [str(home / "bin/spark-class"), f"org.apache.spark.deploy.{role}", "--host", "127.0.0.1"]
        environment = (
            os.environ
            | self.environment
            | {
                "SPARK_HOME": str(home),
                "SPARK_LOCAL_IP": "127.0.0.1",
                "SPARK_DAEMON_MEMORY": "256m",
            }
        )
        environment.pop("PYTHONPATH", None)  # a driver says where its code is
        log = self.folder / log_name
        self.logs.append(log)
        with log.open("wb") as file:
            self.processes.append(
                subprocess.Popen(
                    [*command, "--port", "0", "--webui-port", "0", *options],
                    env=environment,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )
        return log

    def _wait(self, log: Path, words: re.Pattern[str]) -> re.Match[str]:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if found := words.search(log.read_text(errors="replace")):
                return found
            assert self.processes[-1].poll() is None, log.read_text(errors="replace")
            time.sleep(0.1)
        raise TimeoutError(log.read_text(errors="replace"))


@contextmanager
def spark_cluster(folder: Path, *, workers: int, guarded: bool = True) -> Iterator[SparkCluster]:
    """A cluster with so many workers; it ends with the block."""
    cluster = SparkCluster(folder, guarded=guarded)
    try:
        for _ in range(workers):
            cluster.start_worker()
        yield cluster
    finally:
        cluster.stop()
