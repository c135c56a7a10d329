"""A copy on an object store is whole or no copy, and an interrupted push goes on."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from object_store import (
    BUCKET,
    FIRST,
    ObjectStore,
    child_environment,
    client,
    copy_of,
    flip,
    make_shards,
    object_uri,
    open_cache,
    push,
)

from gpt_core.artifact import Artifact
from gpt_core.data.push import push_output
from gpt_core.data.remote import require_copy, shard_entries
from gpt_core.data.shards import TokenShard
from gpt_core.errors import ArtifactError, InputError


@pytest.mark.parametrize("scheme", ["s3", "file"])
def test_what_was_pushed_is_read_back_through_the_cache(
    scheme: str, store: ObjectStore, shards: Artifact, tmp_path: Path
) -> None:
    uri = BUCKET if scheme == "s3" else f"file://{tmp_path}/copies"
    pushed = push(shards, uri)
    assert pushed.uri == f"{uri}/{shards.manifest.fingerprint[:12]}"
    assert (pushed.sent_files, pushed.kept_files) == (10, 0)  # nine shards and index.json
    require_copy(uri, shards.manifest)
    cache = open_cache(shards, tmp_path / "cache", uri=uri)
    for entry in shard_entries(shards.manifest):
        with cache.hold(entry.path) as path:
            mapped = TokenShard(path).tokens
        assert (mapped == TokenShard(shards.file(entry.path)).tokens).all()


def test_the_manifest_is_sent_last_and_a_second_push_sends_nothing(store: ObjectStore, shards: Artifact) -> None:
    push(shards)
    puts = [path for method, path in store.requests if method == "PUT"]
    assert len(puts) == 11
    assert puts[-1].endswith("/manifest.json")
    store.requests.clear()
    assert push(shards).sent_files == 0
    assert [request for request in store.requests if request[0] == "PUT"] == []


def test_a_killed_push_is_no_copy_and_goes_on_where_it_was(store: ObjectStore, shards: Artifact) -> None:
    fifth, release = threading.Event(), threading.Event()

    def hold_the_fifth(method: str, path: str, answer: list[bytes]) -> list[bytes]:
        if method == "PUT" and store.count("PUT", "") == 5:
            fifth.set()
            release.wait(60)
        return answer

    store.door = hold_the_fifth
    code = f"""
from pathlib import Path
from object_store import push
from gpt_core.artifact import open_artifact
push(open_artifact(Path({str(shards.root)!r})))
"""
    pushing = subprocess.Popen([sys.executable, "-c", code], env=child_environment())
    assert fifth.wait(60)
    pushing.kill()
    pushing.wait()
    release.set()
    with pytest.raises(InputError, match=r"no whole copy of the shards is there; make one: gptmill shards push RECIPE"):
        require_copy(BUCKET, shards.manifest)
    there = len(copy_of(shards).sizes())
    assert there == 5
    pushed = push(shards)
    assert (pushed.kept_files, pushed.sent_files) == (there, 10 - there)
    require_copy(BUCKET, shards.manifest)


def test_progress_counts_every_byte_once(store: ObjectStore, shards: Artifact) -> None:
    heard: list[tuple[int, int]] = []
    push_output(shards, BUCKET, report=lambda _, done, total: heard.append((done, total)))
    total = sum(entry.size_bytes for entry in shards.manifest.files)
    assert heard[0] == (0, total)
    assert heard[-1] == (total, total)
    assert [done for done, _ in heard] == sorted(done for done, _ in heard)


def test_a_damaged_local_file_is_not_sent(store: ObjectStore, tmp_path: Path) -> None:
    artifact = make_shards(tmp_path / "shards", train=1)
    content = bytearray(artifact.file(FIRST).read_bytes())
    flip(content)
    artifact.file(FIRST).write_bytes(content)
    with pytest.raises(ArtifactError, match=r"shard-00000\.arrow: the checksum differs .* so it is not sent; delete"):
        push(artifact)
    assert copy_of(artifact).sizes().keys() == {"index.json"}


def test_objects_that_the_copys_manifest_calls_others_are_sent_again(store: ObjectStore, tmp_path: Path) -> None:
    first = make_shards(tmp_path / "first", train=2)
    push(first)
    manifest = client().cat_file(object_uri(first, "manifest.json"))
    (entry,) = [entry for entry in first.manifest.files if entry.path == FIRST]
    client().pipe_file(object_uri(first, "manifest.json"), manifest.replace(entry.sha256.encode(), b"0" * 64))
    with pytest.raises(ArtifactError, match=r"shard-00000\.arrow: is another, wanted are"):
        require_copy(BUCKET, first.manifest)
    assert push(first).sent_files == 1
    require_copy(BUCKET, first.manifest)
