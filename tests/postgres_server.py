"""A PostgreSQL cluster of its own on loopback, that asks for a password."""

import getpass
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import pytest

PATIENCE_SECONDS = 60.0
NOT_ROOT = "nobody"  # PostgreSQL does not start as root


class PostgresServer:
    """Answers inside the block; `uri` has the password. Skips the test where PostgreSQL or its driver is missing."""

    def __init__(self, password: str) -> None:
        for program in ("initdb", "postgres"):
            if shutil.which(program) is None:
                pytest.skip(f"PostgreSQL is not installed: no {program} on PATH")
        self.driver = pytest.importorskip("psycopg", reason="PostgreSQL's driver psycopg is not installed")
        self.user = NOT_ROOT if os.geteuid() == 0 else getpass.getuser()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.password = password
        self.uri = f"postgresql://gptmill:{quote(password, safe='')}@127.0.0.1:{self.port}/postgres"

    def __enter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp())  # root's tmp_path lets in nobody else
        data, secret = self.folder / "data", self.folder / "password"
        secret.write_text(self.password)
        for path in (self.folder, secret):
            shutil.chown(path, self.user)
        make = ["initdb", "--pgdata", data, "--username", "gptmill", "--pwfile", secret, "--auth", "scram-sha-256"]
        self._run([*make, "--encoding", "UTF8", "--locale", "C", "--no-sync"]).wait(PATIENCE_SECONDS)
        settings = {"listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": "", "fsync": "off"}
        self.process = self._run(["postgres", "-D", data, *(f"--{name}={value}" for name, value in settings.items())])
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self._answers():
            assert self.process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        return self

    def _run(self, command: "list[str | Path]") -> "subprocess.Popen[bytes]":
        user = self.user if self.user != pwd.getpwuid(os.geteuid()).pw_name else None
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(command, user=user, cwd=self.folder, stdout=log, stderr=subprocess.STDOUT)

    def ask(self, *queries: str) -> list[object]:
        """The only value of each query's answer."""
        with self.driver.connect(self.uri) as connection, connection.cursor() as cursor:
            return [cursor.execute(query).fetchone()[0] for query in queries]

    def _answers(self) -> bool:
        try:
            self.driver.connect(self.uri).close()
        except self.driver.OperationalError:
            return False
        return True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.send_signal(signal.SIGINT)  # SIGTERM would wait for the clients to leave
        self.process.wait(PATIENCE_SECONDS)
        shutil.rmtree(self.folder)
