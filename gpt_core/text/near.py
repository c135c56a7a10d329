"""The per-document halves of `dedup` over Arrow batches: sketch every document, and verify candidate pairs.

A document's key orders documents by preference: the longest text first, then the least id. Of duplicates, the
one with the least key is kept.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa

from gpt_core.recipe import Dedup
from gpt_core.text.minhash import MinHasher, exact_key, jaccard, shingles
from gpt_core.text.words import Hashes, Splitter

SKETCH = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("exact", pa.string(), nullable=False),  # equal for texts that differ in case and white space alone
        pa.field("bands", pa.list_(pa.int64()), nullable=False),
    ]
)
PAIR = pa.schema(
    [
        pa.field("member", pa.string(), nullable=False),
        pa.field("head", pa.string(), nullable=False),
        pa.field("jaccard", pa.float64(), nullable=False),
    ]
)
KEY_DIGITS = 10
_LONGEST = 10**KEY_DIGITS - 1


def preference_key(id_: str, text: str) -> str:
    """Sorts longer texts first, equally long ones by id."""
    return f"{_LONGEST - len(text):0{KEY_DIGITS}d}{id_}"


def id_of(key: str) -> str:
    """The id in a preference key."""
    return key[KEY_DIGITS:]


def sketch_batches(batches: Iterable[pa.RecordBatch], dedup: Dedup) -> Iterator[pa.RecordBatch]:
    """Batches of SKETCH, row by row, for batches with columns `id` and `text`."""
    splitter = Splitter()
    hasher = MinHasher(bands=dedup.bands, rows_per_band=dedup.rows_per_band, seed=dedup.seed)
    for batch in batches:
        keys, exact, bands = [], [], []
        for id_, text in zip(batch.column("id").to_pylist(), batch.column("text").to_pylist(), strict=True):
            keys.append(preference_key(id_, text))
            exact.append(exact_key(text))
            bands.append(hasher.band_hashes(shingles(splitter.split(text).words, dedup.ngram_words)))
        yield pa.RecordBatch.from_arrays([pa.array(keys), pa.array(exact), pa.array(bands)], schema=SKETCH)


def verify_batches(batches: Iterable[pa.RecordBatch], *, ngram_words: int) -> Iterator[pa.RecordBatch]:
    """Batches of PAIR: the exact Jaccard similarity of the shingles of every pair.

    Input columns: `head` and `member` (keys), `text`. Rows come head by head: first the head's own text, its member
    null, then its members' texts. So a head with millions of members costs no memory.
    """
    splitter = Splitter()
    head: str | None = None
    of_head: Hashes = np.empty(0, np.uint64)
    for batch in batches:
        found: list[tuple[str, str, float]] = []
        for row in batch.to_pylist():
            own = shingles(splitter.split(row["text"]).words, ngram_words)
            if row["member"] is None:
                head, of_head = row["head"], own
                continue
            assert row["head"] == head, f"the text of {row['head']} must come before its members'"
            found.append((row["member"], row["head"], jaccard(own, of_head)))
        if found:
            columns = [pa.array(column) for column in zip(*found, strict=True)]
            yield pa.RecordBatch.from_arrays(columns, schema=PAIR)
