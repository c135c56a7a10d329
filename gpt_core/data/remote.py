"""A copy of a stage's output on an object store: s3://, gs:// or file://, through fsspec.

    URI/{first 12 hex digits of the fingerprint}/{every file that the manifest lists}
    URI/{first 12 hex digits of the fingerprint}/manifest.json   written last: with it, the copy is whole

Where an output is copied to, and read from, changes no fingerprint. Credentials and endpoints are those of fsspec,
botocore and google-auth (environment, ~/.aws, ~/.config/fsspec); none is ever taken from a URI, none is ever shown.
"""

import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from gpt_core.artifact import MANIFEST, FileEntry, Manifest
from gpt_core.errors import ArtifactError, InputError, SetupError
from gpt_core.fingerprint import SHORT
from gpt_core.recipe import Recipe

RANGE_BYTES = 8 << 20  # of one request; an object store serves one connection at 50 to 100 MB/s,
RANGES_AT_ONCE = 4  # so several are under way, which also hides their latency
SHARD_FOLDERS = ("train", "validation")  # of a shards output; its other files are small and stay local
INSTALL = {"s3": "pip install 'gptmill[s3]'", "gs": "pip install gcsfs"}
_FOREIGN = frozenset({"aiobotocore", "aiohttp", "botocore", "fsspec", "gcsfs", "google"})  # their errors are no bugs
_WAY_OUT = (
    "check the network, the endpoint (AWS_ENDPOINT_URL, or fsspec's configuration) and the credentials, which come "
    "from the environment, ~/.aws or GOOGLE_APPLICATION_CREDENTIALS"
)


def folders_elsewhere(recipe: Recipe, stage: str) -> tuple[str, ...]:
    """The folders of the stage's output whose files need not stand locally, since `recipe` reads a copy of them."""
    return SHARD_FOLDERS if stage == "shards" and recipe.cluster.train.shards_from is not None else ()


def copy_uri(uri: str, fingerprint: str) -> str:
    """The folder below `uri` that holds the copy of the output with that fingerprint."""
    return f"{uri.rstrip('/')}/{fingerprint[:SHORT]}"


class RemoteFolder:
    """A folder of an object store. Every error is worded for people: it names the object and the way out.

    Raises SetupError where the package of the URI's scheme is not installed.
    """

    def __init__(self, uri: str) -> None:
        import fsspec  # an eighth of a second, for those who use it

        self.uri = uri.rstrip("/")
        scheme = uri.partition("://")[0]
        options: dict[str, object] = {"auto_mkdir": True} if scheme == "file" else {}
        if scheme == "s3":  # what arrives is held against the manifest's SHA-256: the client need not sum it up as well
            configured = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
            options["config_kwargs"] = {"response_checksum_validation": "when_required", **configured}
        try:
            self._store = fsspec.filesystem(scheme, use_listings_cache=False, skip_instance_cache=True, **options)
        except ImportError as error:
            raise SetupError(f"{self.uri}: {scheme}:// needs a package that is missing: {INSTALL[scheme]}") from error

    def sizes(self) -> dict[str, int]:
        """Path below the folder -> bytes, of every object in it; empty where there is no folder."""
        root = str(self._store._strip_protocol(self.uri))
        with self._worded("", "listed"):
            try:
                found = self._store.find(self.uri, detail=True)
            except FileNotFoundError:
                return {}
        return {name.removeprefix(root).lstrip("/"): int(facts["size"]) for name, facts in found.items()}

    def size(self, name: str) -> int:
        """Bytes of the object `name`. Raises InputError where there is none."""
        with self._worded(name, "read"):
            return int(self._store.info(f"{self.uri}/{name}")["size"])

    def read(self, name: str) -> bytes:
        """All of the object `name`. Raises InputError where there is none."""
        with self._worded(name, "read"):
            return bytes(self._store.cat_file(f"{self.uri}/{name}"))

    def stream(self, name: str, size_bytes: int) -> Iterator[bytes]:
        """The first `size_bytes` of the object `name`, in order, as they arrive.

        At most RANGES_AT_ONCE + 1 ranges of RANGE_BYTES are in memory. Raises InputError where there is no object.
        """

        def read(start: int) -> bytes:
            end = min(start + RANGE_BYTES, size_bytes)
            return bytes(self._store.cat_file(f"{self.uri}/{name}", start=start, end=end))

        under_way: deque[Future[bytes]] = deque()
        with self._worded(name, "read"), ThreadPoolExecutor(RANGES_AT_ONCE) as pool:
            for start in range(0, size_bytes, RANGE_BYTES):
                under_way.append(pool.submit(read, start))
                if len(under_way) == RANGES_AT_ONCE:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()

    def put(self, path: Path, name: str, *, sent: Callable[[int], None]) -> None:
        """The object `name` holds the bytes of the local file `path`.

        `sent` hears now and then how many are there, from another thread, where nothing may be raised.
        """
        from fsspec.callbacks import Callback

        callback = Callback(hooks={"sent": lambda _, value, **__: sent(value)})
        with self._worded(name, "written"):
            self._store.put_file(str(path), f"{self.uri}/{name}", callback=callback)

    @contextmanager
    def _worded(self, name: str, verb: str) -> Iterator[None]:
        """What the store raises is raised as InputError or SetupError; a bug stays what it is."""
        uri = f"{self.uri}/{name}" if name else self.uri
        try:
            yield
        except FileNotFoundError as error:
            raise InputError(
                f"{uri}: there is no such object, or no such bucket; check the URI, or copy the shards there: "
                f"gptmill shards push RECIPE {self.uri.rpartition('/')[0]}"
            ) from error
        except PermissionError as error:
            raise InputError(f"{uri}: cannot be {verb}: no permission: {_tell(error)}; {_WAY_OUT}") from error
        except Exception as error:
            if not isinstance(error, OSError) and type(error).__module__.partition(".")[0] not in _FOREIGN:
                raise
            raise SetupError(f"{uri}: cannot be {verb}: {_tell(error)}; {_WAY_OUT}") from error


def listed_in_copy(copy: RemoteFolder, sizes: Mapping[str, int]) -> dict[str, FileEntry] | None:
    """Path -> entry of the manifest of `copy`, which holds objects of those `sizes`; None where it has no manifest."""
    if MANIFEST not in sizes:
        return None
    try:
        return {entry.path: entry for entry in Manifest.model_validate_json(copy.read(MANIFEST)).files}
    except ValidationError:
        return None


def require_copy(uri: str, manifest: Manifest) -> None:
    """Below `uri` stands a whole copy of the shards that `manifest` lists, by size and checksum.

    The checksums are those of the copy's manifest: no shard is read. Raises InputError where there is no copy, and
    ArtifactError that names the first object that is missing or another.
    """
    copy = RemoteFolder(copy_uri(uri, manifest.fingerprint))
    sizes = copy.sizes()
    copied = listed_in_copy(copy, sizes)
    push = f"gptmill shards push RECIPE {uri}"
    if copied is None:
        raise InputError(
            f"cluster.train.shards_from: {copy.uri}: no whole copy of the shards is there; make one: {push}"
        )
    for entry in shard_entries(manifest):
        size = sizes.get(entry.path)
        if size != entry.size_bytes or copied.get(entry.path) != entry:
            found = "is missing" if size is None else f"has {size} bytes" if size != entry.size_bytes else "is another"
            raise ArtifactError(
                f"{copy.uri}/{entry.path}: {found}, wanted are {entry.size_bytes} bytes of SHA-256 {entry.sha256}; "
                f"put it right: {push}"
            )


def shard_entries(manifest: Manifest) -> list[FileEntry]:
    """The train and validation shards that the manifest of a shards output lists."""
    return [entry for entry in manifest.files if entry.path.partition("/")[0] in SHARD_FOLDERS]


def _tell(error: BaseException) -> str:
    """Kind and words of a foreign error, without the user:password@ that an endpoint's URL might have."""
    return re.sub(r"//[^/\s@]*@", "//", f"{type(error).__name__}: {error}".strip())
