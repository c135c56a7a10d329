"""Who is not let in learns why and what to do, at once; no Ray runs here."""

import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from shards_job import ROOT, prepare

from gpt_core.errors import SetupError
from jobs.launch.ray_jobs import _token_source, asks_for_token


@pytest.fixture
def some_server() -> Iterator[str]:
    """An HTTP server that is no Ray."""
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_silent_address_is_named_and_ray_default_with_it() -> None:
    with pytest.raises(
        SetupError, match=r"cluster\.ray\.jobs_address=http://127\.0\.0\.1:9: no answer .*ray\[default\]"
    ):
        asks_for_token("http://127.0.0.1:9")


def test_a_server_that_is_no_ray_is_told_apart(some_server: str) -> None:
    with pytest.raises(SetupError, match=f"jobs_address={some_server}/: answers 501 and is no Ray with a Jobs API"):
        asks_for_token(f"{some_server}/")


def test_a_silent_address_exits_2_and_error_json_says_the_same(tmp_path: Path) -> None:
    prepare(tmp_path, jobs_address="http://127.0.0.1:9")
    command = [sys.executable, "-m", "jobs.launch.follow", "--target", "ray", "--output", str(tmp_path)]
    done = subprocess.run([*command, "--", "true"], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert '"kind": "user"' in (tmp_path / "error.json").read_text()
    assert subprocess.run([*command, "--cancel"], capture_output=True, check=False, cwd=ROOT).returncode == 2
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, "give the command behind --, or --cancel" in done.stderr) == (2, True)


def test_ray_takes_its_token_from_a_variable_a_file_or_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert _token_source() is None
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with pytest.raises(SetupError, match=r"RAY_AUTH_MODE=token: .*/\.ray/auth_token: no such file or directory; put"):
        _token_source()
    (tmp_path / "token").write_text("\n")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(SetupError, match="token is empty; put the cluster's token there"):
        _token_source()
    (tmp_path / "token").write_text("secret\n")
    assert _token_source() == str(tmp_path / "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    assert _token_source() == "RAY_AUTH_TOKEN"
