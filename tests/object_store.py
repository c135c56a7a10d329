"""An S3 server on loopback: moto's, behind a door that counts requests and lets a test hold, spoil or refuse them."""

import os
import threading
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import fsspec
import numpy as np
from moto.server import DomainDispatcherApplication, create_backend_app
from stage_output import write_output
from werkzeug.serving import make_server

from gpt_core.artifact import Artifact
from gpt_core.data.index import ShardEntry, ShardIndex, write_index
from gpt_core.data.push import Pushed, push_output
from gpt_core.data.remote import RemoteFolder, copy_uri, shard_entries
from gpt_core.data.shard_cache import ShardCache
from gpt_core.data.shards import ShardMetadata, write_shard

METADATA = ShardMetadata(tokenizer_digest="d" * 64, vocab_size=300, end_of_text_id=299, seed=7)
SHARD_TOKENS = 4_000
BUCKET = "s3://bucket/shards"
FIRST, SECOND = "train/shard-00000.arrow", "train/shard-00001.arrow"

Door = Callable[[str, str, list[bytes]], list[bytes]]  # method, path, answer -> answer


class ObjectStore:
    """Runs inside its `with` block. `door` sees every answer before it goes out, in the request's own thread."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []  # method, path
        self.door: Door = _let_pass
        self.refuse = False  # every request, for want of permission
        self.app = DomainDispatcherApplication(create_backend_app)
        self.server = make_server("127.0.0.1", 0, self.answer, threaded=True)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.requests.append((method, path))
        if self.refuse:
            start_response("403 Forbidden", [("Content-Type", "application/xml")])
            return [b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"]
        return self.door(method, path, list(self.app(environ, start_response)))

    def count(self, method: str, end: str) -> int:
        return sum(1 for verb, path in self.requests if verb == method and path.endswith(end))

    def __enter__(self) -> "ObjectStore":
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        reset = urllib.request.Request(f"{self.url}/moto-api/reset", method="POST")  # noqa: S310  moto keeps all it has
        urllib.request.urlopen(reset).close()  # noqa: S310  it is our own
        self.requests.clear()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.shutdown()
        self.server.server_close()

    def environment(self) -> dict[str, str]:
        """What a client needs to know; the credentials are nobody's."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "nobody",
            "AWS_SECRET_ACCESS_KEY": "nothing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


def _let_pass(method: str, path: str, answer: list[bytes]) -> list[bytes]:
    return answer


def make_shards(root: Path, *, train: int = 8, tokens: int = SHARD_TOKENS) -> Artifact:
    """A whole shards output of `train` shards and one for validation, of random tokens; no two are the same."""
    sides: dict[str, list[ShardEntry]] = {"train": [], "validation": []}
    for side, number in [*(("train", number) for number in range(train)), ("validation", 0)]:
        path = f"{side}/shard-{number:05d}.arrow"
        ids = np.random.default_rng([number, len(side)]).integers(0, 299, tokens).astype(METADATA.dtype)
        ids[-1] = METADATA.end_of_text_id
        write_shard(root / path, [f"{side}-{number}"], ids, np.array([0, tokens]), METADATA)
        sides[side].append(ShardEntry(path, source="", documents=1, tokens=tokens))
    write_index(root, ShardIndex(METADATA, tuple(sides["train"]), tuple(sides["validation"])))
    return write_output(root, "shards")


def child_environment() -> dict[str, str]:
    """For a process of the test's own, which imports from here."""
    tests = Path(__file__).parent
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests.parent), str(tests)])}


def client() -> fsspec.AbstractFileSystem:
    return fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False)


def push(artifact: Artifact, uri: str = BUCKET) -> Pushed:
    return push_output(artifact, uri, report=lambda *_: None)


def copy_of(artifact: Artifact, uri: str = BUCKET) -> RemoteFolder:
    return RemoteFolder(copy_uri(uri, artifact.manifest.fingerprint))


def object_uri(artifact: Artifact, path: str) -> str:
    return f"{copy_uri(BUCKET, artifact.manifest.fingerprint)}/{path}"


def open_cache(artifact: Artifact, folder: Path, *, uri: str = BUCKET, shards: float = 100) -> ShardCache:
    """A cache that holds so many shards."""
    entries = shard_entries(artifact.manifest)
    limit = int(shards * max(entry.size_bytes for entry in entries))
    return ShardCache(folder, copy_of(artifact, uri), entries, limit_bytes=limit)


def read(cache: ShardCache, path: str) -> bytes:
    with cache.hold(path) as file:
        return file.read_bytes()


def spoil(artifact: Artifact, path: str, change: Callable[[bytearray], object]) -> None:
    """The object in the bucket is changed behind everybody's back."""
    content = bytearray((artifact.root / path).read_bytes())
    change(content)
    client().pipe_file(object_uri(artifact, path), bytes(content))


def flip(content: bytearray) -> None:
    content[len(content) // 2] ^= 1
