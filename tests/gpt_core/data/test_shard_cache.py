"""The cache keeps its bound, is shared by processes, and hands out nothing that is not what the manifest says."""

import logging
import os
import random
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from object_store import (
    BUCKET,
    FIRST,
    SECOND,
    ObjectStore,
    child_environment,
    client,
    flip,
    object_uri,
    open_cache,
    push,
    read,
    spoil,
)

from gpt_core.artifact import Artifact
from gpt_core.data.remote import require_copy, shard_entries
from gpt_core.data.shards import TokenShard
from gpt_core.errors import ArtifactError, InputError, SetupError


def run_reader(
    artifact: Artifact, folder: Path, *paths: str, shards: float = 100, before: str = ""
) -> "subprocess.Popen[str]":
    """Another process that reads these shards through the cache in `folder`, and prints what it mapped."""
    code = f"""
import sys
from pathlib import Path
from object_store import open_cache
from gpt_core.artifact import open_artifact
from gpt_core.data.shards import TokenShard
artifact = open_artifact(Path({str(artifact.root)!r}))
cache = open_cache(artifact, Path({str(folder)!r}), shards={shards})
print("ready", flush=True)
sys.stdin.readline()
{before}
for path in {paths!r}:
    with cache.hold(path) as file:
        shard = TokenShard(file)
    print(path, int(shard.tokens.sum()), flush=True)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env=child_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", process.stderr and process.stderr.read()
    return process


def size_of(path: Path) -> int:
    """Bytes; 0 for a file that has just gone."""
    with suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def go(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_the_cache_keeps_its_bound_while_shards_are_read_in_random_order(
    store: ObjectStore, shards: Artifact, tmp_path: Path
) -> None:
    push(shards)
    cache = open_cache(shards, tmp_path / "cache", shards=3)
    chooser, last = random.Random(5), ""
    for _ in range(60):
        path = f"train/shard-{chooser.randrange(8):05d}.arrow"
        gets = store.count("GET", path)
        assert read(cache, path) == shards.file(path).read_bytes()
        files = [file for file in (tmp_path / "cache").iterdir() if file.suffix]
        assert {file.suffix for file in files} <= {".arrow"}
        assert sum(file.stat().st_size for file in files) <= cache.limit_bytes
        assert path != last or store.count("GET", path) == gets
        last = path


def test_the_least_recently_used_goes_first(store: ObjectStore, shards: Artifact, tmp_path: Path) -> None:
    push(shards)
    cache = open_cache(shards, tmp_path, shards=2)
    store.requests.clear()
    for number in (0, 1, 0, 2, 0, 1):
        read(cache, f"train/shard-{number:05d}.arrow")
    assert [store.count("GET", f"shard-{number:05d}.arrow") for number in (0, 1, 2)] == [1, 2, 1]


def test_a_mapped_shard_outlives_its_file(store: ObjectStore, shards: Artifact, tmp_path: Path) -> None:
    push(shards)
    cache = open_cache(shards, tmp_path, shards=1)
    with cache.hold(FIRST) as path:
        mapped = TokenShard(path)
    read(cache, SECOND)
    assert not path.exists()
    assert (mapped.tokens == TokenShard(shards.file(FIRST)).tokens).all()


def test_a_held_shard_is_not_removed_however_little_room_there_is(
    store: ObjectStore, shards: Artifact, tmp_path: Path
) -> None:
    push(shards)
    cache, other = (open_cache(shards, tmp_path, shards=1) for _ in range(2))
    done = threading.Event()
    reader = threading.Thread(target=lambda: (read(other, SECOND), done.set()))
    with cache.hold(FIRST) as path:
        reader.start()
        assert not done.wait(0.3)
        assert path.exists()
    reader.join()
    assert done.is_set()
    assert not path.exists()


def test_a_bound_below_the_largest_shard_is_refused_with_numbers(shards: Artifact, tmp_path: Path) -> None:
    size = max(entry.size_bytes for entry in shards.manifest.files)
    message = (
        rf"shard_cache_bytes={size // 2} holds less than the largest shard, .* with {size} bytes; raise it to {size}"
    )
    with pytest.raises(InputError, match=message):
        open_cache(shards, tmp_path, uri=f"file://{tmp_path}", shards=0.5)


def test_a_cache_folder_that_cannot_be_made_is_the_users_to_put_right(shards: Artifact, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"cluster\.train\.shard_cache: /proc/none: .*; give a folder"):
        open_cache(shards, Path("/proc/none"), uri=f"file://{tmp_path}")


def test_processes_share_a_cache_and_fetch_each_shard_once(
    store: ObjectStore, shards: Artifact, tmp_path: Path
) -> None:
    push(shards)
    store.requests.clear()
    paths = [entry.path for entry in shard_entries(shards.manifest)]
    readers = [run_reader(shards, tmp_path, *paths) for _ in range(2)]
    for reader in readers:
        go(reader)
    told = [reader.communicate() for reader in readers]
    assert [reader.returncode for reader in readers] == [0, 0], told
    wanted = "".join(f"{path} {TokenShard(shards.file(path)).tokens.sum()}\n" for path in paths)
    assert [out for out, _ in told] == [wanted, wanted]
    assert [store.count("GET", path) for path in paths] == [1] * len(paths)


def test_processes_that_fight_over_little_room_all_read_right_and_keep_the_bound(
    store: ObjectStore, shards: Artifact, tmp_path: Path
) -> None:
    push(shards)
    limit = open_cache(shards, tmp_path, shards=1.5).limit_bytes
    sizes: list[int] = []

    def look(method: str, path: str, answer: list[bytes]) -> list[bytes]:
        sizes.append(sum(map(size_of, tmp_path.glob("*.*"))))
        return answer

    store.door = look
    orders = [[f"train/shard-{(7 * step + start) % 8:05d}.arrow" for step in range(16)] for start in (0, 3)]
    readers = [run_reader(shards, tmp_path, *order, shards=1.5) for order in orders]
    for reader in readers:
        go(reader)
    for reader, order in zip(readers, orders, strict=True):
        out, told = reader.communicate()
        assert out == "".join(f"{path} {TokenShard(shards.file(path)).tokens.sum()}\n" for path in order), told
    assert limit / 2 < max(sizes) <= limit


def test_killed_in_the_middle_of_a_fetch_nothing_looks_whole_and_its_room_is_given_back(
    store: ObjectStore, shards: Artifact, tmp_path: Path
) -> None:
    push(shards)
    half, release = threading.Event(), threading.Event()

    def hold_the_second_range(method: str, path: str, answer: list[bytes]) -> list[bytes]:
        if method == "GET" and path.endswith(FIRST) and store.count("GET", FIRST) == 2:
            half.set()
            release.wait(60)
        return answer

    store.door = hold_the_second_range
    small = "import gpt_core.data.remote as remote; remote.RANGE_BYTES = 5_000; remote.RANGES_AT_ONCE = 1"
    reader = run_reader(shards, tmp_path, FIRST, before=small)
    go(reader)
    assert half.wait(60)
    reader.send_signal(signal.SIGKILL)
    reader.communicate()
    release.set()
    assert [file.suffix for file in tmp_path.iterdir() if file.suffix] == [".draft"]

    cache = open_cache(shards, tmp_path, shards=1)
    assert read(cache, SECOND) == shards.file(SECOND).read_bytes()
    assert [file.suffix for file in tmp_path.iterdir() if file.suffix] == [".arrow"]
    assert read(cache, FIRST) == shards.file(FIRST).read_bytes()


def test_a_flipped_byte_in_the_bucket_is_found_and_named(store: ObjectStore, shards: Artifact, tmp_path: Path) -> None:
    push(shards)
    spoil(shards, FIRST, flip)
    (entry,) = [entry for entry in shards.manifest.files if entry.path == FIRST]
    message = (
        rf"^{object_uri(shards, FIRST)}: has SHA-256 (?!{entry.sha256})[0-9a-f]{{64}}, the manifest says {entry.sha256}"
    )
    cache = open_cache(shards, tmp_path)
    store.requests.clear()
    with pytest.raises(ArtifactError, match=message):
        read(cache, FIRST)
    assert store.count("GET", FIRST) == 2  # it was tried once more
    assert [file.name for file in tmp_path.iterdir()] == [".lock"]


def test_a_byte_flipped_on_the_way_is_fetched_once_more(
    store: ObjectStore, shards: Artifact, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    push(shards)
    store.requests.clear()

    def spoil_the_first(method: str, path: str, answer: list[bytes]) -> list[bytes]:
        if method == "GET" and path.endswith(FIRST) and store.count("GET", FIRST) == 1:
            return [bytes(byte ^ 1 for byte in part) for part in answer]
        return answer

    store.door = spoil_the_first
    with caplog.at_level(logging.WARNING, "gptmill"):
        assert read(open_cache(shards, tmp_path), FIRST) == shards.file(FIRST).read_bytes()
    assert "; once more" in caplog.text


def test_a_truncated_object_is_found_before_it_is_fetched(store: ObjectStore, shards: Artifact, tmp_path: Path) -> None:
    push(shards)
    spoil(shards, FIRST, lambda content: content.__delitem__(slice(1000, None)))
    store.requests.clear()
    with pytest.raises(ArtifactError, match=rf"^{object_uri(shards, FIRST)}: has 1000 bytes, the manifest says 9"):
        read(open_cache(shards, tmp_path), FIRST)
    assert store.count("GET", FIRST) == 0
    with pytest.raises(
        ArtifactError, match=r"shard-00000\.arrow: has 1000 bytes, wanted are 9.* put it right: gptmill"
    ):
        require_copy(BUCKET, shards.manifest)
    assert push(shards).sent_files == 1  # and the way out leads out
    assert read(open_cache(shards, tmp_path), FIRST) == shards.file(FIRST).read_bytes()


def test_a_missing_object_is_named(store: ObjectStore, shards: Artifact, tmp_path: Path) -> None:
    push(shards)
    client().rm_file(object_uri(shards, FIRST))
    with pytest.raises(InputError, match=rf"^{object_uri(shards, FIRST)}: there is no such object, or no such bucket"):
        read(open_cache(shards, tmp_path), FIRST)
    with pytest.raises(ArtifactError, match=r"shard-00000\.arrow: is missing, wanted are"):
        require_copy(BUCKET, shards.manifest)


def test_a_file_damaged_on_disk_is_fetched_anew_by_the_next_process(
    store: ObjectStore, shards: Artifact, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    push(shards)
    with open_cache(shards, tmp_path).hold(FIRST) as path:
        arrived = path.stat()
    content = bytearray(path.read_bytes())
    flip(content)
    path.write_bytes(content)
    os.utime(path, ns=(arrived.st_atime_ns, arrived.st_mtime_ns))  # a disk that loses a bit does not say when
    with caplog.at_level(logging.WARNING, "gptmill"):
        assert read(open_cache(shards, tmp_path), FIRST) == shards.file(FIRST).read_bytes()
    assert f"{path}: was damaged on disk; {FIRST} is fetched anew" in caplog.text


def test_a_file_cut_on_disk_is_fetched_anew_at_once(store: ObjectStore, shards: Artifact, tmp_path: Path) -> None:
    push(shards)
    cache = open_cache(shards, tmp_path)
    with cache.hold(FIRST) as path:
        os.truncate(path, 100)
    assert read(cache, FIRST) == shards.file(FIRST).read_bytes()
