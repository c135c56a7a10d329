"""However documents are dealt into blocks, the shards are the same, and hold every document once."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_core.data import runs as runs_module
from gpt_core.data.placement import Placement
from gpt_core.data.runs import RunSummary, SourceCount, load_once, merge_shard, metadata_of, tokenize_block
from gpt_core.data.shards import TokenShard
from gpt_core.errors import ArtifactError, UserError
from gpt_core.recipe import Tokenizer as Settings
from gpt_core.tokenizer.tokenizer import Tokenizer
from gpt_core.tokenizer.train import train_tokenizer

PLACEMENT = Placement(seed=5, validation_fraction=0.3, train_shards=3, validation_shards=1)
TEXTS = ["", "a", "the cat", "<|endoftext|>", "caf\u00e9 " * 5, "two\nlines"]
DOCUMENTS = [(f"id-{i}", TEXTS[i % 6] + str(i // 6), f"source-{i % 2}") for i in range(40)]
DOCUMENTS += [("same", "one of two with an id", "source-0"), ("same", "the other of the two", "source-1")]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([["the cat sat on the mat", "a caf\u00e9"]], Settings(vocab_size=270))


def make_block(documents: list[tuple[str, str, str]]) -> pa.Table:
    ids, texts, sources = zip(*documents, strict=True)
    return pa.table({"id": ids, "text": pa.array(texts, pa.large_string()), "source": sources})


def make_shards(folder: Path, blocks: list[list[tuple[str, str, str]]], tokenizer: Tokenizer) -> dict[int, Path]:
    folder.mkdir(parents=True)
    summaries = [
        tokenize_block(make_block(block), tokenizer=tokenizer, placement=PLACEMENT, folder=folder) for block in blocks
    ]
    shards = {}
    for shard in sorted({shard for run in summaries for shard in run.shards}):
        shards[shard] = folder / PLACEMENT.path_of(shard)
        merge_shard(summaries, shard, path=shards[shard], metadata=metadata_of(tokenizer, PLACEMENT))
    return shards


@pytest.fixture(scope="module")
def whole(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The shards of all documents, made of one block."""
    return make_shards(tmp_path_factory.mktemp("whole") / "run", [DOCUMENTS], tokenizer)


@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_any_blocks_give_byte_identical_shards(
    tokenizer: Tokenizer, whole: dict[int, Path], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(DOCUMENTS))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(DOCUMENTS) - 1), max_size=6)))
    blocks = [shuffled[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(shuffled)], strict=True)]
    shards = make_shards(tmp_path_factory.mktemp("parts") / "run", blocks, tokenizer)
    assert {shard: path.read_bytes() for shard, path in shards.items()} == {
        shard: path.read_bytes() for shard, path in whole.items()
    }


def test_every_document_is_in_one_shard_as_its_ids_and_the_mark(tokenizer: Tokenizer, whole: dict[int, Path]) -> None:
    assert sorted(whole) == [0, 1, 2, 3]
    found = []
    for path in whole.values():
        shard = TokenShard(path)
        assert shard.metadata == metadata_of(tokenizer, PLACEMENT)
        parts = np.split(shard.tokens, shard.offsets[1:-1])
        found += [(doc_id, part.tolist()) for doc_id, part in zip(shard.doc_ids.to_pylist(), parts, strict=True)]
    mark = tokenizer.end_of_text_id
    assert sorted(found) == sorted((doc_id, [*tokenizer.encode(text), mark]) for doc_id, text, _ in DOCUMENTS)


def test_a_text_beyond_a_chunk_changes_nothing(
    tokenizer: Tokenizer, whole: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs_module, "CHUNK_BYTES", 10)
    shards = make_shards(tmp_path / "run", [DOCUMENTS], tokenizer)
    assert [path.read_bytes() for path in shards.values()] == [path.read_bytes() for path in whole.values()]


def test_the_summary_counts_by_source_and_side(tokenizer: Tokenizer, tmp_path: Path) -> None:
    documents = [("id-0", "a", "s"), ("id-1", "caf\u00e9", "s"), ("id-2", "bb", "t")]
    run = tokenize_block(make_block(documents), tokenizer=tokenizer, placement=PLACEMENT, folder=tmp_path)
    n_tokens = {text: len(tokenizer.encode(text)) + 1 for _, text, _ in documents}
    by_source = {
        source: (
            sum(count.documents for count in run.counts if count.source == source),
            sum(count.tokens for count in run.counts if count.source == source),
            sum(count.text_bytes for count in run.counts if count.source == source),
        )
        for source in ("s", "t")
    }
    assert by_source == {"s": (2, n_tokens["a"] + n_tokens["caf\u00e9"], 6), "t": (1, n_tokens["bb"], 2)}
    assert {count.validation for count in run.counts} <= {shard == 3 for shard in run.shards}
    assert RunSummary.from_json(run.to_json()) == run
    assert isinstance(run.counts[0], SourceCount)


def test_an_empty_side_names_the_field() -> None:
    train, held_out = (
        SourceCount("s", validation, documents=2, tokens=9, text_bytes=9) for validation in (False, True)
    )
    runs_module.require_both_sides([train, held_out], PLACEMENT)
    with pytest.raises(
        UserError, match=r"validation_fraction=0\.3 holds out none for validation of 2 documents; raise"
    ):
        runs_module.require_both_sides([train], PLACEMENT)
    with pytest.raises(
        UserError, match=r"shards\.validation_fraction=0\.3 leaves none to train on of 4 documents; lower"
    ):
        runs_module.require_both_sides([held_out, held_out], PLACEMENT)


def test_a_run_that_nobody_vouches_for_is_not_merged(tokenizer: Tokenizer, tmp_path: Path) -> None:
    def work() -> RunSummary:
        block = make_block(DOCUMENTS[:3])
        return tokenize_block(block, tokenizer=tokenizer, placement=PLACEMENT, folder=tmp_path)

    work()  # of an attempt that was repeated
    run = work()
    metadata = metadata_of(tokenizer, PLACEMENT)
    merged = [merge_shard([run], shard, path=tmp_path / f"{shard}", metadata=metadata) for shard in run.shards]
    assert sum(documents for documents, _ in merged) == 3
    assert len(list(tmp_path.glob("*.arrow"))) == 2


def test_a_worker_keeps_its_tokenizer_and_refuses_another(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    path = str(tmp_path / "tokenizer.json")
    assert load_once(path, tokenizer.digest) is load_once(path, tokenizer.digest)
    with pytest.raises(ArtifactError, match=r"tokenizer\.json: is not the tokenizer that the job began with"):
        load_once(path, "0" * 64)
