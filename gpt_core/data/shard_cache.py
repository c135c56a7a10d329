"""A bounded local cache of shards that stand on an object store, shared by all processes of a host.

    {folder}/{sha256}.arrow   a shard, whole; accessed = last used, modified = arrived
    {folder}/{sha256}.draft   a shard that arrives; locked by the process that fetches it
    {folder}/.lock            held, for a moment, by whoever makes room or puts a shard in its place

Shards are known by their checksum, so outputs share what they have in common and a cache outlives its recipe. The files
together never exceed the bound: room is made before a shard is fetched, of the least recently used. A file may go
while a process has it mapped; its bytes then take up disk until that process closes it, on top of the bound: all
processes of a host together keep no more mapped than the bound holds, so that the worst is twice the bound.
Locks go with their process, however it ends; what a killed one leaves is a draft, which the next to need room removes.
The folder must be on a local disk: the locks are flock's, and times are compared with this host's clock.
"""

import fcntl
import hashlib
import logging
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from gpt_core.artifact import Artifact, FileEntry
from gpt_core.data.batches import TrainingSamples
from gpt_core.data.index import Side
from gpt_core.data.remote import RemoteFolder, copy_uri, shard_entries
from gpt_core.data.shard_set import ShardSet
from gpt_core.errors import ArtifactError, InputError, SetupError
from gpt_core.fingerprint import file_sha256
from gpt_core.recipe import Recipe

FOLDER = "shard-cache"  # in the workspace, unless the recipe says otherwise
POLL_SECONDS = 0.05  # between two looks whether others' fetches have ended and left room

logger = logging.getLogger("gptmill")


class ShardCache:
    """Local files of the shards `entries` in the copy `copy`, fetched when they are first asked for.

    Raises InputError where the bound holds not even the largest of them,
    SetupError where the folder cannot be made.
    """

    def __init__(self, folder: Path, copy: RemoteFolder, entries: Iterable[FileEntry], *, limit_bytes: int) -> None:
        self.folder = folder
        self.copy = copy
        self.limit_bytes = limit_bytes
        self._entries = {entry.path: entry for entry in entries}
        self._verified: set[str] = set()  # by this process
        self._started = time.time()
        largest = max(self._entries.values(), key=lambda entry: entry.size_bytes)
        self._largest_bytes = largest.size_bytes
        if largest.size_bytes > limit_bytes:
            raise InputError(
                f"cluster.train.shard_cache_bytes={limit_bytes} holds less than the largest shard, {largest.path} with "
                f"{largest.size_bytes} bytes; raise it to {largest.size_bytes} or more, or make smaller shards: lower "
                "shards.shard_text_bytes"
            )
        with self._told_of_disk():
            folder.mkdir(parents=True, exist_ok=True)

    @classmethod
    def of_recipe(cls, recipe: Recipe, shards: Artifact) -> "ShardCache | None":
        """The cache that `recipe` reads the shards through; None where it reads them as they stand locally."""
        settings = recipe.cluster.train
        if settings.shards_from is None:
            return None
        folder = Path(settings.shard_cache) if settings.shard_cache else Path(recipe.workspace) / FOLDER
        copy = RemoteFolder(copy_uri(settings.shards_from, shards.manifest.fingerprint))
        return cls(folder, copy, shard_entries(shards.manifest), limit_bytes=settings.shard_cache_bytes)

    def max_open(self, processes: int) -> int:
        """Shards that each of so many processes of this host may keep mapped: together no more than the bound holds."""
        return max(1, self.limit_bytes // (self._largest_bytes * processes))

    def warn_if_short(self, samples: TrainingSamples) -> None:
        """A warning says so where the bound is less than the shards that are shuffled together."""
        together = samples.bytes_together({path: entry.size_bytes for path, entry in self._entries.items()})
        if together > self.limit_bytes:
            fitting = self.limit_bytes // (self._largest_bytes * len(samples.rows))
            logger.warning(
                "cluster.train.shard_cache_bytes=%d holds less than the %d bytes of shards that are shuffled together, "
                "so that they are fetched again and again; raise it%s",
                self.limit_bytes,
                together,
                f", or set pretrain.shuffle_shards to {fitting} or less" if fitting else "",
            )

    @contextmanager
    def hold(self, shard: str) -> Iterator[Path]:
        """Inside, a local file with the manifest's size and SHA-256 of `shard`; it stays at least till the block ends.

        Map it there; the mapping outlives the file. One block at a time: a held file makes no room for another. The
        size is checked every time; the checksum when the shard arrives, and at the first use by a process that was
        started later than that, since only then may the disk have had time to lose a bit. A file that fails is fetched
        anew. Raises ArtifactError for an object that is not what the manifest says, InputError and SetupError for what
        the store or the disk refuses.
        """
        entry = self._entries[shard]
        path = self.folder / f"{entry.sha256}.arrow"
        while True:
            with _locked(path, fcntl.LOCK_SH) as file:
                if file is not None and self._is_whole(path, entry):
                    _mark_used(path)
                    yield path
                    return
            self._bring(entry, path)

    def _is_whole(self, path: Path, entry: FileEntry) -> bool:
        facts = path.stat()
        if facts.st_size != entry.size_bytes:
            return False
        if entry.sha256 not in self._verified and facts.st_mtime < self._started:
            if file_sha256(path) != entry.sha256:
                return False
            self._verified.add(entry.sha256)
        return True

    def _bring(self, entry: FileEntry, path: Path) -> None:
        """The shard stands in `path`: fetched by this process, or meanwhile by another."""
        draft = path.with_suffix(".draft")
        with self._told_of_disk(), _locked(draft, fcntl.LOCK_EX, mode="r+b", make=True) as stream:
            if stream is None:  # another process has just put it in its place, or given it up
                return
            try:
                with _locked(path, fcntl.LOCK_SH) as file:
                    if file is not None and self._is_whole(path, entry):
                        return
                with _locked(path, fcntl.LOCK_EX) as file:
                    if file is not None:
                        logger.warning("%s: was damaged on disk; %s is fetched anew", path, entry.path)
                        path.unlink()
                self._make_room(stream, entry.size_bytes)
                self._fetch(stream, entry)
                _mark_used(draft)
                with self._alone():
                    draft.rename(path)
            finally:
                if _stands(stream, draft):
                    draft.unlink()

    def _make_room(self, draft: IO[bytes], size_bytes: int) -> None:
        """`draft` has `size_bytes` bytes, zeros, and with it all files in the folder keep to the bound."""
        draft.truncate(0)  # of a killed process
        while True:
            with self._alone():
                for other in self.folder.glob("*.draft"):
                    _remove_unless_locked(other)  # a living process's is locked
                excess = sum(size for _, size, _ in _list(self.folder, "*.draft")) + size_bytes - self.limit_bytes
                shards = sorted(_list(self.folder, "*.arrow"))
                excess += sum(size for _, size, _ in shards)
                for _, size, path in shards:
                    if excess > 0 and _remove_unless_locked(path):
                        excess -= size
                if excess <= 0:
                    draft.truncate(size_bytes)
                    return
            time.sleep(POLL_SECONDS)

    def _fetch(self, draft: IO[bytes], entry: FileEntry) -> None:
        """`draft` holds the bytes of `entry`."""
        uri = f"{self.copy.uri}/{entry.path}"
        size = self.copy.size(entry.path)
        if size != entry.size_bytes:
            raise ArtifactError(
                f"{uri}: has {size} bytes, the manifest says {entry.size_bytes}; push the shards again: "
                "gptmill shards push"
            )
        started = time.monotonic()
        found = self._receive(draft, entry)
        if found != entry.sha256:
            logger.warning("%s: arrived with SHA-256 %s instead of %s; once more", uri, found, entry.sha256)
            found = self._receive(draft, entry)
        if found != entry.sha256:
            raise ArtifactError(
                f"{uri}: has SHA-256 {found}, the manifest says {entry.sha256}; remove the object and push the shards "
                "again: gptmill shards push"
            )
        logger.info("%s: %.1f MB in %.1f s", uri, size / 1e6, time.monotonic() - started)

    def _receive(self, draft: IO[bytes], entry: FileEntry) -> str:
        """The SHA-256 of what arrived in `draft`. Not synced: after a power cut, the next process checks it."""
        digest = hashlib.sha256()
        draft.seek(0)
        for part in self.copy.stream(entry.path, entry.size_bytes):
            digest.update(part)
            draft.write(part)
        draft.flush()
        return digest.hexdigest()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else makes room or renames a draft inside the block, which is short."""
        with (self.folder / ".lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _told_of_disk(self) -> Iterator[None]:
        """What the local disk refuses is the user's to put right."""
        try:
            yield
        except OSError as error:
            raise SetupError(
                f"cluster.train.shard_cache: {self.folder}: {(error.strerror or str(error)).lower()}; give a folder "
                "on a local disk with room for cluster.train.shard_cache_bytes, or lower that"
            ) from error


def open_side(
    shards: Artifact,
    side: Side,
    *,
    cache: ShardCache | None,
    processes: int = 1,
    tokenizer_digest: str | None = None,
) -> ShardSet:
    """One side of the shards, read by each of so many processes of this host, through the cache where there is one."""
    if cache is None:
        return ShardSet.open(shards, side, tokenizer_digest=tokenizer_digest)
    return ShardSet.open(
        shards,
        side,
        tokenizer_digest=tokenizer_digest,
        locate=lambda entry: cache.hold(entry.path),
        max_open=cache.max_open(processes),
    )


@contextmanager
def _locked(path: Path, kind: int, *, mode: str = "rb", make: bool = False) -> Iterator[IO[bytes] | None]:
    """The open file in `path`, locked, or None where none stands there, or no longer once the lock is ours.

    With `make`, an empty one is made where none stands.
    """
    if make:
        path.touch()
    try:
        file = path.open(mode)
    except FileNotFoundError:
        yield None
        return
    with file:
        fcntl.flock(file, kind)
        yield file if _stands(file, path) else None


def _stands(file: IO[bytes], path: Path) -> bool:
    """Whether `path` still leads to the open `file`."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False


def _mark_used(path: Path) -> None:
    """The file was last used now; when it arrived stays as it is."""
    os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))


def _list(folder: Path, pattern: str) -> Iterator[tuple[int, int, Path]]:
    """(last used in ns, bytes, path) of each file that fits the pattern; some may go at any time."""
    for path in folder.glob(pattern):
        with suppress(FileNotFoundError):
            facts = path.stat()
            yield facts.st_atime_ns, facts.st_size, path


def _remove_unless_locked(path: Path) -> bool:
    """Whether `path` is gone: removed, or it was. False where a process has it locked."""
    with suppress(FileNotFoundError), path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        if _stands(file, path):
            path.unlink()
    return True
