"""A real MLflow server on loopback, that a test may kill and start again on the same port and database.

With `admin_password` it asks for one, as `mlflow server --app-name basic-auth` does: accounts that it does not know are
let in nowhere, those that it knows may read all and make experiments and models of their own.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import requests

PATIENCE_SECONDS = 120.0
ADMIN = "admin"
ACCOUNTS = """
[mlflow]
default_permission = READ
database_uri = sqlite:///{folder}/accounts.db
admin_username = admin
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = 600
"""  # the cache saves a password's hash, tenths of a second, at each request


class MlflowServer:
    """Answers inside the block, but between `kill` and `start`."""

    def __init__(self, folder: Path, *, admin_password: str | None = None) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder = folder
        self.artifacts = folder / "artifacts"
        self.admin_password = admin_password
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        store = ["--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db", "--artifacts-destination", self.artifacts]
        app = ["--app-name", "basic-auth"] if self.admin_password else []
        address = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *map(str, store), *app, *address],
                env={**os.environ, **self._accounts()},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self._answers():
            assert self.process.poll() is None, (self.folder / "server.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def _accounts(self) -> dict[str, str]:
        if self.admin_password is None:
            return {}
        settings = self.folder / "accounts.ini"
        settings.write_text(ACCOUNTS.format(folder=self.folder), encoding="utf-8")
        return {
            "MLFLOW_AUTH_CONFIG_PATH": str(settings),
            "MLFLOW_AUTH_ADMIN_PASSWORD": self.admin_password,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "of a test",
        }

    def _answers(self) -> bool:
        try:
            return requests.get(f"{self.uri}/health", timeout=5).ok
        except requests.ConnectionError:
            return False

    def kill(self) -> None:
        """Gone at once, in the middle of whatever it did, with all of its workers."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.kill()
