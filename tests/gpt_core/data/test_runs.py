"""However documents are dealt into blocks, the shards are the same, and hold every document once."""

import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_core.data.placement import Placement, SourceShards
from gpt_core.data.runs import (
    BlockTokenizer,
    RunSummary,
    SourceCount,
    merge_shard,
    metadata_of,
    read_merged,
    read_run,
    require_both_sides,
)
from gpt_core.data.shards import TokenShard
from gpt_core.errors import UserError
from gpt_core.recipe import Tokenizer as Settings
from gpt_core.tokenizer.encoder import ProvenEncoder
from gpt_core.tokenizer.tokenizer import Tokenizer
from gpt_core.tokenizer.train import train_tokenizer

PLACEMENT = Placement(5, 0.3, (SourceShards("source-0", 2, 1), SourceShards("source-1", 1, 1)))
TEXTS = ["", "a", "the cat", "<|endoftext|>", "caf\u00e9 " * 5, "two\nlines"]
DOCUMENTS = [(f"id-{i}", TEXTS[i % 6] + str(i // 6), f"source-{i % 2}") for i in range(40)]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([["the cat sat on the mat", "a caf\u00e9"]], Settings(vocab_size=270))


@pytest.fixture(scope="module")
def blocks(tokenizer: Tokenizer) -> BlockTokenizer:
    return BlockTokenizer(ProvenEncoder(tokenizer, "auto"), metadata_of(tokenizer, PLACEMENT), PLACEMENT)


def make_block(documents: list[tuple[str, str, str]]) -> pa.Table:
    ids, texts, sources = zip(*documents, strict=True)
    return pa.table({"id": ids, "text": texts, "source": sources})


def write_run(blocks: BlockTokenizer, documents: list[tuple[str, str, str]], path: Path) -> RunSummary:
    path.parent.mkdir(parents=True, exist_ok=True)
    return blocks.write_run(make_block(documents), path, started=time.process_time())


def merge_all(blocks: BlockTokenizer, runs: list[RunSummary], folder: Path) -> dict[int, Path]:
    shards = {}
    for shard in sorted({shard for run in runs for shard in run.shards}):
        shards[shard] = folder / PLACEMENT.path_of(shard)
        summary = folder / f"shard-{shard}.json"
        merged = merge_shard(runs, shard, path=shards[shard], summary=summary, metadata=blocks.metadata)
        assert read_merged(shards[shard], summary=summary) == merged
    return shards


def make_shards(blocks: BlockTokenizer, folder: Path, parts: list[list[tuple[str, str, str]]]) -> dict[int, Path]:
    runs = [write_run(blocks, part, folder / f"runs/block-{i}.arrow") for i, part in enumerate(parts)]
    return merge_all(blocks, runs, folder)


@pytest.fixture(scope="module")
def whole(blocks: BlockTokenizer, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The shards of all documents, made of one block."""
    return make_shards(blocks, tmp_path_factory.mktemp("whole"), [DOCUMENTS])


@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_any_blocks_give_byte_identical_shards(
    blocks: BlockTokenizer, whole: dict[int, Path], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(DOCUMENTS))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(DOCUMENTS) - 1), max_size=6)))
    parts = [shuffled[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(shuffled)], strict=True)]
    shards = make_shards(blocks, tmp_path_factory.mktemp("parts"), parts)
    assert {shard: path.read_bytes() for shard, path in shards.items()} == {
        shard: path.read_bytes() for shard, path in whole.items()
    }


def test_every_document_is_in_a_shard_of_its_source_as_its_ids_and_the_mark(
    tokenizer: Tokenizer, blocks: BlockTokenizer, whole: dict[int, Path]
) -> None:
    assert sorted(whole) == [0, 1, 2, 3, 4]
    found = []
    for number, path in whole.items():
        shard = TokenShard(path)
        assert shard.metadata == blocks.metadata
        parts = np.split(shard.tokens, shard.offsets[1:-1])
        source = PLACEMENT.source_of(number)
        found += [
            (doc_id, part.tolist(), source) for doc_id, part in zip(shard.doc_ids.to_pylist(), parts, strict=True)
        ]
    mark = tokenizer.end_of_text_id
    assert sorted(found) == sorted((doc_id, [*tokenizer.encode(text), mark], name) for doc_id, text, name in DOCUMENTS)


def test_the_summary_counts_by_source_and_side(tokenizer: Tokenizer, blocks: BlockTokenizer, tmp_path: Path) -> None:
    documents = [("id-0", "a", "source-0"), ("id-1", "caf\u00e9", "source-0"), ("id-2", "bb", "source-1")]
    run = write_run(blocks, documents, tmp_path / "run.arrow")
    n_tokens = {text: len(tokenizer.encode(text)) + 1 for _, text, _ in documents}
    by_source = {
        source: tuple(
            sum(getattr(count, unit) for count in run.counts if count.source == source)
            for unit in ("documents", "tokens", "text_bytes")
        )
        for source in ("source-0", "source-1")
    }
    assert by_source == {"source-0": (2, n_tokens["a"] + n_tokens["caf\u00e9"], 6), "source-1": (1, n_tokens["bb"], 2)}
    assert {count.validation for count in run.counts} <= {PLACEMENT.is_validation(shard) for shard in run.shards}
    assert run.proof.encoder == "fast"
    assert (run.proof.documents, run.proof.text_bytes) == (3, 8)


def test_a_run_is_whole_with_its_summary_and_its_size(blocks: BlockTokenizer, tmp_path: Path) -> None:
    path = tmp_path / "run.arrow"
    assert read_run(path) is None
    run = write_run(blocks, DOCUMENTS, path)
    assert read_run(path) == run
    assert sorted(file.name for file in tmp_path.iterdir()) == ["run.arrow", "run.json"]
    path.write_bytes(path.read_bytes()[:-1])
    assert read_run(path) is None
    path.with_suffix(".json").write_text("{")
    assert read_run(path) is None


def test_an_empty_side_names_the_field() -> None:
    train, held_out = (
        SourceCount("s", validation, documents=2, tokens=9, text_bytes=9) for validation in (False, True)
    )
    require_both_sides([train, held_out], PLACEMENT)
    with pytest.raises(
        UserError, match=r"validation_fraction=0\.3 holds out none for validation of 2 documents; raise"
    ):
        require_both_sides([train], PLACEMENT)
    with pytest.raises(
        UserError, match=r"shards\.validation_fraction=0\.3 leaves none to train on of 4 documents; lower"
    ):
        require_both_sides([held_out, held_out], PLACEMENT)
