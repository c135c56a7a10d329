"""What an object store refuses is said in words: which object, why, and the way out; and no secret with it."""

import subprocess
import sys
from pathlib import Path

import pytest
from object_store import FIRST, ObjectStore, child_environment, open_cache, push, read

from gpt_core.artifact import Artifact
from gpt_core.data.remote import _tell
from gpt_core.errors import InputError, SetupError


def test_a_bucket_that_is_not_there(store: ObjectStore, shards: Artifact, tmp_path: Path) -> None:
    message = "there is no such object, or no such bucket; check the URI"
    with pytest.raises(InputError, match=message):
        push(shards, "s3://elsewhere/x")
    cache = open_cache(shards, tmp_path, uri="s3://elsewhere/x")
    with pytest.raises(InputError, match=message):
        read(cache, FIRST)


def test_no_permission(store: ObjectStore, shards: Artifact, tmp_path: Path) -> None:
    push(shards)
    cache = open_cache(shards, tmp_path)
    store.refuse = True
    with pytest.raises(
        InputError, match=r"cannot be read: no permission: .*; check the network, the endpoint"
    ) as error:
        read(cache, FIRST)
    assert "nothing" not in str(error.value)  # the secret key
    assert [file.name for file in tmp_path.iterdir()] == [".lock"]


def test_no_credentials(store: ObjectStore, shards: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(SetupError, match="cannot be read: NoCredentialsError: Unable to locate credentials; check"):
        read(open_cache(shards, tmp_path), FIRST)


@pytest.mark.parametrize("user", ["", "someone:secret@"])
def test_an_endpoint_that_does_not_answer(
    user: str, shards: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ObjectStore() as gone:
        environment = gone.environment()
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", gone.url.replace("//", f"//{user}"))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    why = "HTTPClientError" if user else "EndpointConnectionError: Could not connect"  # the client takes no user
    with pytest.raises(SetupError, match=f"cannot be read: {why}") as error:
        read(open_cache(shards, tmp_path), FIRST)
    assert "secret" not in str(error.value)


def test_a_foreign_error_is_told_without_the_user_in_a_url() -> None:
    assert _tell(OSError("no route to http://someone:secret@proxy:80/x")) == "OSError: no route to http://proxy:80/x"


@pytest.mark.parametrize(
    ("scheme", "package", "way_out"),
    [("s3", "s3fs", "pip install 'gptmill[s3]'"), ("gs", "gcsfs", "pip install gcsfs")],
)
def test_a_missing_package_is_named(scheme: str, package: str, way_out: str) -> None:
    code = f"""
import sys
sys.modules[{package!r}] = None  # as if it were not installed
from gpt_core.data.remote import RemoteFolder
from gpt_core.errors import SetupError
try:
    RemoteFolder("{scheme}://bucket/x")
except SetupError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=child_environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{scheme}://bucket/x: {scheme}:// needs a package that is missing: {way_out}\n"
