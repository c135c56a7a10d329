"""A document is found by its id, and every stretch of the row by its documents."""

from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_core.data.find import DocumentPart, documents_between, find_document
from gpt_core.data.index import ShardEntry
from gpt_core.data.placement import Placement, SourceShards
from gpt_core.data.runs import order_documents
from gpt_core.data.shard_set import ShardSet, locate_in
from gpt_core.data.shards import ShardMetadata, write_shard
from gpt_core.tokenizer.documents import hash_strings

METADATA = ShardMetadata(tokenizer_digest="d" * 64, vocab_size=300, end_of_text_id=299, seed=7)
PLACEMENT = Placement(7, 0.001, (SourceShards("a", 5, 1), SourceShards("b", 1, 1)))
IDS = {"a": [f"a-{i}" for i in range(60)], "b": ["b-0", "b-1"]}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """Train shards as the placement deals their documents; the one of id X-N has N mod 4 tokens and the mark."""
    root = tmp_path_factory.mktemp("shards")
    entries = []
    for source, ids in IDS.items():
        hashes = hash_strings(pa.array(ids), seed=7)
        numbers = PLACEMENT.shards_of(hashes, pa.array([source] * len(ids)))
        for shard in np.unique(numbers).tolist():
            rows = np.flatnonzero(numbers == shard)
            held = [ids[rows[place]] for place in order_documents(hashes[rows], pa.array(ids).take(rows))]
            documents = [[*range(int(name[2:]) % 4), 299] for name in held]
            tokens = np.array([token for document in documents for token in document], np.uint16)
            path = PLACEMENT.path_of(shard)
            write_shard(root / path, pa.array(held), tokens, np.cumsum([0, *map(len, documents)]), METADATA)
            entries.append(ShardEntry(path, source, len(held), len(tokens)))
    assert len(entries) == 6
    return ShardSet(entries, METADATA, locate=locate_in(root))


@pytest.mark.parametrize("doc_id", [*IDS["a"], *IDS["b"]])
def test_every_document_is_found_whole(shards: ShardSet, doc_id: str) -> None:
    part = find_document(shards, doc_id)
    assert part is not None
    assert (part.doc_id, part.entry.source, part.first_token) == (doc_id, doc_id[0], 0)
    assert part.tokens.tolist() == [*range(int(doc_id[2:]) % 4), 299]
    assert part.document_tokens == len(part.tokens)


def test_a_document_is_found_by_opening_few_shards(tmp_path: Path, shards: ShardSet) -> None:
    opened: list[str] = []

    def locate(entry: ShardEntry) -> AbstractContextManager[Path]:
        opened.append(entry.path)
        return shards._locate(entry)

    fresh = ShardSet(shards.entries, METADATA, locate=locate)
    assert find_document(fresh, "nobody's") is None
    assert len(opened) <= 5  # of six: three to bisect five and one beside, and the only one of b


@given(data=st.data())
def test_the_documents_of_a_stretch_are_its_tokens(shards: ShardSet, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, shards.n_tokens - 1))
    stop = data.draw(st.integers(start, shards.n_tokens))
    parts = list(documents_between(shards, start, stop))
    assert [token for part in parts for token in part.tokens.tolist()] == (
        shards.gather(np.array([start]), stop - start)[0].tolist()
    )
    assert all(map(is_of_its_document, parts))
    assert len({part.doc_id for part in parts}) == len(parts)


def is_of_its_document(part: DocumentPart) -> bool:
    document = [*range(int(part.doc_id[2:]) % 4), 299]
    found = document[part.first_token : part.first_token + len(part.tokens)]
    return part.tokens.tolist() == found and part.document_tokens == len(document)
