"""What a shards output holds, source by source."""

import json
from collections.abc import Iterable
from dataclasses import dataclass

from gpt_core.artifact import Artifact
from gpt_core.data.index import INDEX, ShardEntry, read_index
from gpt_core.data.placement import REST


@dataclass(frozen=True)
class SourceStats:
    """One source, or all of them together."""

    source: str
    shards: int
    documents: int
    train_tokens: int
    validation_tokens: int
    text_bytes: int
    disk_bytes: int

    @property
    def tokens(self) -> int:
        """Of both sides."""
        return self.train_tokens + self.validation_tokens


def source_stats(artifact: Artifact) -> list[SourceStats]:
    """A row for each group of shards, those with the most tokens first, then one for all of them."""
    index = read_index(artifact.file(INDEX))
    told = json.loads(artifact.file("stats.json").read_text(encoding="utf-8"))["sources"]
    sizes = {entry.path: entry.size_bytes for entry in artifact.manifest.files}
    own = {entry.source for entry in (*index.train, *index.validation)}
    text_bytes = dict.fromkeys(own, 0)
    for name, counts in told.items():
        text_bytes[name if name in own else REST] += counts["text_bytes"]

    def row(source: str, train: Iterable[ShardEntry], validation: Iterable[ShardEntry], held_bytes: int) -> SourceStats:
        sides = (list(train), list(validation))
        entries = [*sides[0], *sides[1]]
        return SourceStats(
            source=source,
            shards=len(entries),
            documents=sum(entry.documents for entry in entries),
            train_tokens=sum(entry.tokens for entry in sides[0]),
            validation_tokens=sum(entry.tokens for entry in sides[1]),
            text_bytes=held_bytes,
            disk_bytes=sum(sizes[entry.path] for entry in entries),
        )

    rows = [
        row(
            name,
            (entry for entry in index.train if entry.source == name),
            (entry for entry in index.validation if entry.source == name),
            text_bytes[name],
        )
        for name in own
    ]
    rows.sort(key=lambda it: (-it.tokens, it.source))
    return [*rows, row("all", index.train, index.validation, sum(text_bytes.values()))]
