"""index.json of a shards output: every shard with its source and sizes, so that a set of shards opens at once.

    {"format_version": 2, "tokenizer_sha256": "...", "vocab_size": 4096, "end_of_text_id": 4095, "seed": 0,
     "train": [{"path": "train/novels/shard-00000.arrow", "source": "novels", "documents": 404, "tokens": 1234567}],
     "validation": [...]}

Shards stand in the order of (source, path); that order, side by side, is the row of tokens that windows are cut from.
Ten thousand shards are a file of a megabyte, and no shard is opened before a token of it is asked for.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from gpt_core.artifact import write_json
from gpt_core.data.shards import FORMAT_VERSION, ShardMetadata
from gpt_core.errors import ArtifactError
from gpt_core.fingerprint import Json

INDEX = "index.json"
Side = Literal["train", "validation"]
SIDES: tuple[Side, ...] = get_args(Side)


@dataclass(frozen=True)
class ShardEntry:
    """One shard. `path` is relative to the shards output, with forward slashes."""

    path: str
    source: str  # whose documents it holds; "" where small sources share shards
    documents: int
    tokens: int


@dataclass(frozen=True)
class ShardIndex:
    """All shards of an output, and what their ids mean."""

    metadata: ShardMetadata
    train: tuple[ShardEntry, ...]
    validation: tuple[ShardEntry, ...]

    def side(self, side: Side) -> tuple[ShardEntry, ...]:
        """The shards of one side, in their order."""
        return self.train if side == "train" else self.validation


def write_index(folder: Path, index: ShardIndex) -> Path:
    """index.json stands in `folder`; it is returned."""
    metadata = index.metadata
    tree: dict[str, Json] = {
        "format_version": FORMAT_VERSION,
        "tokenizer_sha256": metadata.tokenizer_digest,
        "vocab_size": metadata.vocab_size,
        "end_of_text_id": metadata.end_of_text_id,
        "seed": metadata.seed,
        "train": _tell(index.train),
        "validation": _tell(index.validation),
    }
    return write_json(folder / INDEX, tree)


def read_index(path: Path) -> ShardIndex:
    """The inverse of write_index, from the file `path`. Raises ArtifactError for what is no index of this format."""
    try:
        tree = json.loads(path.read_bytes())
        if tree["format_version"] != FORMAT_VERSION:
            raise ArtifactError(
                f"{path}: is an index of format {tree['format_version']}, this gptmill reads format {FORMAT_VERSION}; "
                "run the stage shards again"
            )
        metadata = ShardMetadata(tree["tokenizer_sha256"], tree["vocab_size"], tree["end_of_text_id"], tree["seed"])
        train, validation = (tuple(ShardEntry(**entry) for entry in tree[side]) for side in SIDES)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path}: is no index of shards: {error}; run the stage shards again") from None
    return ShardIndex(metadata, train, validation)


def _tell(entries: Sequence[ShardEntry]) -> list[Json]:
    return [dict(asdict(entry)) for entry in entries]
