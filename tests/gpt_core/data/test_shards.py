"""A shard is a plain Arrow file; readers map it, and refuse what is not theirs."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from gpt_core.data.shards import ShardMetadata, TokenShard, write_shard
from gpt_core.errors import ArtifactError

METADATA = ShardMetadata(tokenizer_digest="d" * 64, vocab_size=300, end_of_text_id=299, seed=7)


def make_shard(path: Path, documents: list[list[int]], metadata: ShardMetadata = METADATA) -> Path:
    """A shard of the given documents, each without its end-of-text token."""
    closed = [[*ids, metadata.end_of_text_id] for ids in documents]
    tokens = np.array([i for ids in closed for i in ids], dtype=metadata.dtype)
    offsets = np.cumsum([0, *map(len, closed)], dtype=np.int64)
    write_shard(path, pa.array([f"doc-{i}" for i in range(len(documents))]), tokens, offsets, metadata)
    return path


def test_plain_arrow_reads_a_shard(tmp_path: Path) -> None:
    path = make_shard(tmp_path / "train" / "shard-00000.arrow", [[1, 2], [], [3]])
    with pa.ipc.open_file(path) as reader:
        table, schema = reader.read_all(), reader.schema
    assert table.to_pydict() == {"doc_id": ["doc-0", "doc-1", "doc-2"], "tokens": [[1, 2, 299], [299], [3, 299]]}
    assert schema.field("doc_id").type == pa.string()
    assert schema.field("tokens").type == pa.large_list(pa.field("item", pa.uint16(), nullable=False))
    assert schema.metadata == {
        b"gptmill.format_version": b"2",
        b"gptmill.tokenizer_sha256": b"d" * 64,
        b"gptmill.vocab_size": b"300",
        b"gptmill.end_of_text_id": b"299",
        b"gptmill.seed": b"7",
    }
    assert [file.name for file in path.parent.iterdir()] == ["shard-00000.arrow"]


def test_polars_and_datasets_open_a_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets
    import polars as pl

    path = make_shard(tmp_path / "shard-00000.arrow", [[1, 2], [3]])
    rows = [{"doc_id": "doc-0", "tokens": [1, 2, 299]}, {"doc_id": "doc-1", "tokens": [3, 299]}]
    table = pl.read_ipc(path)
    assert table.to_dicts() == rows
    assert table.schema == {"doc_id": pl.String, "tokens": pl.List(pl.UInt16)}
    assert pl.scan_ipc(path).select(pl.col("tokens").list.len().sum()).collect().item() == 5
    dataset = datasets.load_dataset("arrow", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    assert dataset.to_list() == rows
    assert dataset.features["tokens"] == datasets.LargeList(datasets.Value("uint16"))


def test_a_shard_takes_two_bytes_a_token_and_four_above_65535_ids(tmp_path: Path) -> None:
    documents = [list(range(200))] * 500
    small = make_shard(tmp_path / "small.arrow", documents, ShardMetadata("d", 65_535, 65_534, 0))
    large = make_shard(tmp_path / "large.arrow", documents, ShardMetadata("d", 65_536, 65_535, 0))
    assert TokenShard(small).tokens.dtype == np.uint16
    assert TokenShard(large).tokens.dtype == np.uint32
    assert small.stat().st_size < 2.2 * 201 * 500
    assert large.stat().st_size - small.stat().st_size == pytest.approx(2 * 201 * 500, rel=0.01)


def test_the_mapped_tokens_are_views_that_outlive_the_shard(tmp_path: Path) -> None:
    shard = TokenShard(make_shard(tmp_path / "s.arrow", [[1, 2], [3]]))
    tokens, offsets = shard.tokens, shard.offsets
    assert shard.doc_ids.to_pylist() == ["doc-0", "doc-1"]
    assert shard.metadata == METADATA
    del shard
    (tmp_path / "s.arrow").unlink()
    assert tokens.tolist() == [1, 2, 299, 3, 299]
    assert offsets.tolist() == [0, 3, 5]
    assert not tokens.flags.owndata
    assert not tokens.flags.writeable


def test_the_same_documents_give_the_same_bytes(tmp_path: Path) -> None:
    one = make_shard(tmp_path / "a.arrow", [[1, 2], [3]])
    assert one.read_bytes() == make_shard(tmp_path / "b.arrow", [[1, 2], [3]]).read_bytes()


@pytest.mark.parametrize(
    ("tokens", "offsets"), [([1, 2, 299], [0, 2, 3]), ([1, 2], [0, 2]), ([299, 1, 299], [0, 3]), ([1, 299], [1, 2])]
)
def test_a_document_is_closed_once(tmp_path: Path, tokens: list[int], offsets: list[int]) -> None:
    with pytest.raises(ValueError, match="not every document is closed by one end-of-text token"):
        write_shard(tmp_path / "s", ["d"], np.array(tokens, np.uint16), np.array(offsets, np.int64), METADATA)


def test_a_shard_of_another_format_is_refused(tmp_path: Path) -> None:
    schema = METADATA.schema()
    newer = schema.with_metadata({**schema.metadata, b"gptmill.format_version": b"3"})
    for number, other in enumerate((newer, schema.remove_metadata())):
        with pa.ipc.new_file(tmp_path / f"{number}.arrow", other) as writer:
            writer.write_table(other.empty_table())
    with pytest.raises(ArtifactError, match=r"0\.arrow: is a token shard of format 3, this gptmill reads format 2"):
        TokenShard(tmp_path / "0.arrow")
    with pytest.raises(ArtifactError, match=r"1\.arrow: is a token shard of format unknown"):
        TokenShard(tmp_path / "1.arrow")


def test_other_columns_are_refused(tmp_path: Path) -> None:
    schema = pa.schema([("tokens", pa.list_(pa.uint16()))], metadata=METADATA.schema().metadata)
    with pa.ipc.new_file(tmp_path / "s.arrow", schema) as writer:
        writer.write_table(schema.empty_table())
    with pytest.raises(ArtifactError, match=r"s\.arrow: has the columns of no token shard: \['tokens'\]"):
        TokenShard(tmp_path / "s.arrow")


def test_several_record_batches_are_refused(tmp_path: Path) -> None:
    with pa.ipc.open_file(make_shard(tmp_path / "s.arrow", [[1]])) as reader:
        batch = reader.get_batch(0)
    with pa.ipc.new_file(tmp_path / "two.arrow", batch.schema) as writer:
        writer.write_batch(batch)
        writer.write_batch(batch)
    with pytest.raises(ArtifactError, match=r"two\.arrow: has 2 record batches, a shard has one"):
        TokenShard(tmp_path / "two.arrow")


def test_a_cut_or_absent_shard_is_named(tmp_path: Path) -> None:
    path = make_shard(tmp_path / "s.arrow", [[1, 2]])
    path.write_bytes(path.read_bytes()[:-20])
    for name in ("s.arrow", "absent.arrow"):
        with pytest.raises(ArtifactError, match=rf"{name}: cannot be read as a token shard"):
            TokenShard(tmp_path / name)
