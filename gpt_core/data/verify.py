"""Are the shards of an output what its manifest, its index and its tokenizer say?"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpt_core.artifact import FileEntry, Manifest, find_damage
from gpt_core.data.index import INDEX, ShardEntry, ShardIndex, read_index
from gpt_core.data.shards import TokenShard
from gpt_core.errors import ArtifactError


@dataclass(frozen=True)
class Verdict:
    """On one listed file; `problem` is empty for one that is well."""

    entry: FileEntry
    problem: str


def verify_shards(root: Path, manifest: Manifest, *, tokenizer_digest: str) -> Iterator[Verdict]:
    """A verdict on every file that the manifest lists: there, of its size and checksum, and as a shard well formed.

    A shard is well formed if it opens, was made with the tokenizer of `tokenizer_digest` (SHA-256 of tokenizer.json),
    holds the documents and tokens that index.json tells, closes every document with its only end-of-text token, and
    has no id beyond the vocabulary. Reads every byte once or twice.
    """
    entries = _listed_shards(root)
    for entry in manifest.files:
        problem = find_damage(root, entry) or ""
        if not problem and entry.path.endswith(".arrow"):
            problem = _find_problem(root, entry.path, entries.pop(entry.path, None), tokenizer_digest)
        yield Verdict(entry, problem)
    for path in sorted(entries):
        if all(path != entry.path for entry in manifest.files):
            yield Verdict(FileEntry(path=path, size_bytes=0, sha256=""), f"{INDEX} lists it, the manifest does not")


def _listed_shards(root: Path) -> dict[str, ShardEntry]:
    try:
        index: ShardIndex = read_index(root / INDEX)
    except ArtifactError:  # the verdict on the index itself says so
        return {}
    return {entry.path: entry for entry in (*index.train, *index.validation)}


def _find_problem(root: Path, path: str, listed: ShardEntry | None, tokenizer_digest: str) -> str:
    try:
        shard = TokenShard(root / path)
    except ArtifactError as error:
        return str(error).partition(": ")[2]
    made_with = shard.metadata.tokenizer_digest
    if made_with != tokenizer_digest:
        return f"was made with the tokenizer {made_with[:12]}, not {tokenizer_digest[:12]}"
    if listed is None:
        return f"{INDEX} does not list it"
    if (len(shard.doc_ids), len(shard.tokens)) != (listed.documents, listed.tokens):
        return (
            f"holds {len(shard.doc_ids):,} documents and {len(shard.tokens):,} tokens, {INDEX} says "
            f"{listed.documents:,} and {listed.tokens:,}"
        )
    ends = np.flatnonzero(shard.tokens == shard.metadata.end_of_text_id)
    if not np.array_equal(ends, shard.offsets[1:] - 1):
        return "not every document is closed by its only end-of-text token"
    greatest = int(shard.tokens.max(initial=0))
    if greatest >= shard.metadata.vocab_size:
        return f"holds the id {greatest}, the vocabulary has {shard.metadata.vocab_size}"
    return ""
