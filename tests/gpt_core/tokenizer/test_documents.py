"""What a stage may expect of the documents that a former stage left."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash

from gpt_core.errors import ArtifactError, UserError
from gpt_core.tokenizer.documents import hash_strings, plan_blocks, read_batches, require_documents


def write_table(path: Path, *, rows: int, row_group_size: int = 100, **columns: pa.Array) -> Path:
    table = pa.table({name: [f"{name}{i}" for i in range(rows)] for name in ("id", "text", "source")} | columns)
    pq.write_table(table, path, row_group_size=row_group_size)
    return path


def test_whole_documents_pass(tmp_path: Path) -> None:
    paths = [write_table(tmp_path / "a.parquet", rows=2), write_table(tmp_path / "b.parquet", rows=3)]
    require_documents(paths, documents=5)


def test_a_corpus_that_cleaning_emptied_is_the_users_to_mend(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no document is left to train on; loosen clean\.languages"):
        require_documents([write_table(tmp_path / "a.parquet", rows=0)], documents=0)


def test_a_file_that_is_no_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(ArtifactError, match=r"a\.parquet: cannot be read as Parquet: .*; run the stage dedup again"):
        require_documents([tmp_path / "a.parquet"], documents=1)


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"a\.parquet: cannot be read as Parquet: .*No such file"):
        require_documents([tmp_path / "a.parquet"], documents=1)


def test_a_column_of_another_type_is_named(tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.parquet", rows=1, source=pa.array([1]))
    with pytest.raises(ArtifactError, match=r"a\.parquet: has no text column source"):
        require_documents([path], documents=1)


def test_documents_that_do_not_balance_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="the documents of dedup are 2, its manifest says 3"):
        require_documents([write_table(tmp_path / "a.parquet", rows=2)], documents=3)


def test_the_blocks_are_every_row_group_once(tmp_path: Path) -> None:
    one = write_table(tmp_path / "a.parquet", rows=50, row_group_size=10)
    other = write_table(tmp_path / "b.parquet", rows=5)
    metadata = pq.ParquetFile(one).metadata
    two_groups = 2 * max(metadata.row_group(i).total_byte_size for i in range(5))
    blocks = plan_blocks([one, other], block_bytes=two_groups)
    assert [(Path(block.path).name, block.row_groups) for block in blocks] == [
        ("a.parquet", [0, 1]),
        ("a.parquet", [2, 3]),
        ("a.parquet", [4]),
        ("b.parquet", [0]),
    ]
    rows = pa.concat_tables([block.read() for block in blocks])
    assert rows.equals(pa.Table.from_batches(read_batches([one, other], columns=["id", "text", "source"])))
    assert len(plan_blocks([one], block_bytes=1)) == 5  # a row group is never split


def test_a_hash_is_the_xxh3_of_the_utf8_under_the_seed() -> None:
    column = pa.chunked_array([["caf\u00e9"], ["", "x"]])
    expected = [xxhash.xxh3_64_intdigest(value.encode(), 7) for value in ("caf\u00e9", "", "x")]
    assert hash_strings(column, seed=7).tolist() == expected
    assert hash_strings(column).tolist() != expected
    assert hash_strings(pa.array(["a"], pa.large_string())).tolist() == [0xE6C632B61E964E1F]
