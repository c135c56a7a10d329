"""A real Airflow of an environment of its own on loopback: scheduler with LocalExecutor, DAG processor, API server."""

import os
import secrets
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
import requests

COMMAND = "AIRFLOW_COMMAND"  # environment variable: that environment's `airflow`
PARTS = ("api-server", "scheduler", "dag-processor")
PATIENCE_SECONDS = 600.0


class Airflow:
    """Runs inside the block. It lets everybody of this machine in as an administrator."""

    def __init__(self, folder: Path, *, environment: dict[str, str]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.folder = folder
        self.dags = folder / "dags"
        self.dags.mkdir(parents=True)
        self.uri = f"http://127.0.0.1:{port}"
        self.parts: list[subprocess.Popen[bytes]] = []
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": os.environ["HOME"],
            "AIRFLOW_HOME": str(folder),
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__PARALLELISM": "2",
            "AIRFLOW__CORE__LOAD_EXAMPLES": "false",
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.dags),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.uri}/execution/",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "true",
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(port),
            "AIRFLOW__API__BASE_URL": self.uri,
            "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "2",
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "2",
            "AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": "true",
            **environment,
        }

    def __enter__(self) -> Self:
        self.command("db", "migrate")
        for part in PARTS:
            with (self.folder / f"{part}.log").open("wb") as log:
                started = subprocess.Popen(
                    [os.environ[COMMAND], part],
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            self.parts.append(started)
        try:
            self.wait_for(self._answers)
        except BaseException:
            self.stop()
            raise
        token = requests.get(f"{self.uri}/auth/token", timeout=120).json()["access_token"]
        self.authorization = {"Authorization": f"Bearer {token}"}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Nothing that was started runs any more."""
        alive = [part for part in self.parts if part.poll() is None]
        started = [child for part in alive for child in psutil.Process(part.pid).children(recursive=True)]
        for part in self.parts:
            part.send_signal(signal.SIGTERM)
        for part in self.parts:
            try:
                part.wait(20)
            except subprocess.TimeoutExpired:
                part.kill()
                part.wait()
        for child in started:
            if child.is_running():
                child.kill()

    def command(self, *words: str) -> str:
        """What `airflow WORDS` prints."""
        done = subprocess.run([os.environ[COMMAND], *words], env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def get(self, path: str) -> Any:
        """The answer of Airflow's REST API."""
        answer = requests.get(f"{self.uri}/api/v2/{path}", headers=self.authorization, timeout=120)
        answer.raise_for_status()
        return answer.json()

    def send(self, method: str, path: str, body: object) -> Any:
        """The answer of Airflow's REST API to a change."""
        for _ in range(10):
            answer = requests.request(
                method, f"{self.uri}/api/v2/{path}", json=body, headers=self.authorization, timeout=120
            )
            if "Database error" not in answer.text:  # sqlite was locked by the scheduler
                break
            time.sleep(1)
        assert answer.ok, answer.text
        return answer.json()

    def names(self) -> set[str]:
        """The DAGs' names."""
        return {dag["dag_id"] for dag in self.get("dags")["dags"]}

    def runs(self, dag: str) -> list[dict[str, Any]]:
        """The DAG's runs, the first first."""
        found: list[dict[str, Any]] = self.get(f"dags/{dag}/dagRuns?order_by=run_after")["dag_runs"]
        return found

    def tasks(self, dag: str, run: str) -> dict[str, dict[str, Any]]:
        """The task instances of a run by their task."""
        found = self.get(f"dags/{dag}/dagRuns/{run}/taskInstances")["task_instances"]
        return {task["task_id"]: task for task in found}

    def log(self, dag: str, run: str, task: str) -> str:
        """What all tries of a task have logged."""
        folder = self.folder / "logs" / f"dag_id={dag}" / f"run_id={run}" / f"task_id={task}"
        return "\n".join(path.read_text() for path in sorted(folder.glob("attempt=*.log")))

    def wait_for(self, holds: Any) -> None:
        """`holds()` has become true."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not holds():
            for part, name in zip(self.parts, PARTS, strict=True):
                assert part.poll() is None, (self.folder / f"{name}.log").read_text()[-3000:]
            assert time.monotonic() < deadline, "never came"
            time.sleep(0.2)

    def _answers(self) -> bool:
        try:
            return requests.get(f"{self.uri}/api/v2/monitor/health", timeout=120).ok
        except (requests.ConnectionError, requests.Timeout):
            return False
