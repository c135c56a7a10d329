"""A set of shards is one row of ids; what is not read is not opened."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stage_output import write_output

from gpt_core.data.index import ShardEntry, ShardIndex, write_index
from gpt_core.data.shard_set import ShardSet, locate_in
from gpt_core.data.shards import ShardMetadata
from gpt_core.errors import ArtifactError, UserError
from tiny_shards import METADATA, count_up, open_train, write_documents, write_shards

SIZES = [5, 1, 7, 2, 9]
LARGE = replace(METADATA, vocab_size=70_000)  # four bytes an id


@pytest.fixture(scope="module", params=[METADATA, LARGE], ids=["uint16", "uint32"])
def shards(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    root = tmp_path_factory.mktemp("shards")
    return open_train(root, write_shards(root, {"a": count_up(SIZES)}, metadata=request.param))


def row_of(shards: ShardSet) -> list[int]:
    return [i for number in range(len(shards.entries)) for i in shards.shard(number).tokens.tolist()]


def test_the_row_is_the_shards_in_the_order_of_the_index(shards: ShardSet) -> None:
    assert shards.borders.tolist() == [0, 5, 6, 13, 15, 24]
    assert (shards.n_tokens, shards.n_documents) == (24, 5)
    assert row_of(shards) == [1, 2, 3, 4, 0, 0, 7, 8, 9, 10, 11, 12, 0, 14, 0, 16, 17, 18, 19, 20, 21, 22, 23, 0]


@given(data=st.data(), length=st.integers(0, 24), native=st.booleans())
def test_windows_begin_anywhere_and_cross_borders(
    shards: ShardSet, data: st.DataObject, length: int, native: bool
) -> None:
    starts = data.draw(st.lists(st.integers(0, 24 - length), max_size=9))
    out = np.empty((len(starts), length), dtype=shards.dtype) if native else None
    found = shards.gather(np.array(starts, dtype=np.int64), length, out)
    row = row_of(shards)
    assert found.tolist() == [row[start : start + length] for start in starts]
    assert found.dtype == (shards.dtype if native else np.int64)
    assert out is None or found is out


def test_pieces_stand_where_they_are_wanted(shards: ShardSet) -> None:
    out = np.full((2, 5), -1, dtype=np.int64)
    shards.gather_pieces(np.array([3, 22, 0]), np.array([3, 2, 1]), np.array([0, 4, 8]), out)
    assert out.tolist() == [[4, 0, 0, -1, 23], [0, -1, -1, 1, -1]]


@pytest.mark.parametrize(("start", "length"), [(-1, 2), (20, 5), (25, 0)])
def test_a_window_that_leaves_the_row_is_an_index_error(shards: ShardSet, start: int, length: int) -> None:
    with pytest.raises(IndexError, match=rf"tokens {start} to {start + length} of 24"):
        shards.gather(np.array([0, start]), length)


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (np.empty((2, 3), dtype=np.int64), r"out has the shape \(2, 3\), the windows \(2, 4\)"),
        (np.empty((2, 4), dtype=np.int32), "out must be contiguous and int64 or uint"),
        (np.empty((4, 2), dtype=np.int64).T, "out must be contiguous and int64 or uint"),
    ],
)
def test_what_cannot_hold_the_windows_is_refused(shards: ShardSet, out: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        shards.gather(np.array([0, 1]), 4, out)


def test_pieces_beyond_the_end_of_out_are_refused(shards: ShardSet) -> None:
    for places in ([3], [-1]):
        with pytest.raises(ValueError, match="pieces leave the 4 places of out"):
            shards.gather_pieces(np.array([0]), np.array([2]), np.array(places), np.empty(4, dtype=np.int64))


def test_a_shard_is_located_when_a_token_of_it_is_read(tmp_path: Path) -> None:
    index = write_shards(tmp_path, {"a": count_up(SIZES)})
    located: list[str] = []

    def locate(entry: ShardEntry) -> AbstractContextManager[Path]:
        located.append(entry.path[-7:-6])
        return nullcontext(tmp_path / entry.path)

    shards = ShardSet(index.train, METADATA, locate=locate)
    assert located == []
    shards.gather(np.array([7, 14]), 1)
    assert located == ["2", "3"]
    shards.gather(np.array([4]), 8)  # the shard with the number 2 stands already
    assert located == ["2", "3", "0", "1"]


def test_ten_thousand_shards_open_in_a_moment() -> None:
    entries = [ShardEntry(f"train/s/{number}.arrow", "s", 10**5, 10**8) for number in range(10_000)]
    started = time.process_time()
    shards = ShardSet(entries, METADATA, locate=locate_in(Path()))
    assert time.process_time() - started < 0.5
    assert shards.n_tokens == 10**12


def test_the_mappings_used_least_recently_are_dropped(tmp_path: Path) -> None:
    index = write_shards(tmp_path, {"a": count_up([4] * 6)})
    located: list[int] = []

    def locate(entry: ShardEntry) -> AbstractContextManager[Path]:
        located.append(index.train.index(entry))
        return nullcontext(tmp_path / entry.path)

    shards = ShardSet(index.train, METADATA, locate=locate, max_open=2)
    row = [i for number in range(6) for i in (4 * number + 1, 4 * number + 2, 4 * number + 3, 0)]

    def read(*starts: int) -> list[int]:
        del located[:]
        assert shards.gather(np.array(starts), 2).tolist() == [row[start : start + 2] for start in starts]
        return located

    assert read(0) == [0]
    assert read(4) == [1]
    assert read(0) == []  # now 1 is the one not used for longest
    assert read(8) == [2]
    assert read(0) == []
    assert read(4) == [1]
    assert read(*range(0, 24, 4)) == [2, 3, 4, 5]  # more than max_open at once: all of them stand while they are read
    assert read(20) == []  # and all but two go with the next read
    assert read(0) == [0]
    assert read(20) == []
    assert read(16) == [4]


def test_threads_that_read_with_few_mappings_read_right(tmp_path: Path) -> None:
    index = write_shards(tmp_path, {"a": count_up([50] * 8)})
    shards = open_train(tmp_path, index, max_open=1)
    row = np.array(row_of(shards))
    starts = np.random.default_rng(0).integers(0, 350, (200, 3))
    with ThreadPoolExecutor(4) as threads:
        for begin, found in zip(starts, threads.map(lambda begin: shards.gather(begin, 50), starts), strict=True):
            assert np.array_equal(found, row[begin[:, None] + np.arange(50)])


def test_chosen_shards_are_a_row_of_their_own(shards: ShardSet) -> None:
    chosen = shards.choose([3, 0])
    assert chosen.gather(np.array([0]), 7).tolist() == [[14, 0, 1, 2, 3, 4, 0]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer_digest": "e" * 64}, r"its tokenizer is dddddddddddd, index\.json says eeeeeeeeeeee"),
        ({"vocab_size": 50_000}, r"its vocabulary is 60000, index\.json says 50000"),
        ({"end_of_text_id": 1}, r"its end-of-text token is 0, index\.json says 1"),
    ],
)
def test_a_shard_that_is_not_what_the_index_says_is_named(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    index = write_shards(tmp_path, {"a": count_up([4, 4])})
    shards = ShardSet(index.train, replace(METADATA, **change), locate=locate_in(tmp_path))
    with pytest.raises(ArtifactError, match=rf"shard-00001\.arrow: {message}; run the stage shards again"):
        shards.gather(np.array([4]), 2)


def test_a_shard_of_other_sizes_is_named(tmp_path: Path) -> None:
    index = write_shards(tmp_path, {"a": count_up([4])})
    shards = open_train(tmp_path, index)
    for documents, message in (([[1, 2]], "token count is 3, index"), ([[1], [1]], "document count is 2, index")):
        write_documents(tmp_path / index.train[0].path, documents)
        with pytest.raises(ArtifactError, match=message):
            shards.gather(np.array([0]), 2)


def test_a_shard_that_is_gone_is_named(tmp_path: Path) -> None:
    shards = open_train(tmp_path, write_shards(tmp_path, {"a": count_up([4])}))
    (tmp_path / "train/a/shard-00000.arrow").unlink()
    with pytest.raises(ArtifactError, match=r"shard-00000\.arrow: cannot be read as a token shard"):
        shards.gather(np.array([0]), 2)


def test_an_output_opens_by_side_and_source(tmp_path: Path) -> None:
    write_shards(tmp_path, {"a": count_up([4]), "b": count_up([3, 5])}, {"b": count_up([6])})
    output = write_output(tmp_path, "shards")
    assert ShardSet.open(output, "train").n_tokens == 12
    assert ShardSet.open(output, "validation").n_tokens == 6
    assert ShardSet.open(output, "train", source="b", tokenizer_digest="d" * 64).gather(np.array([2]), 2).tolist() == [
        [0, 4]
    ]
    with pytest.raises(UserError, match=r"no validation shard holds the source 'a'; there are: b"):
        ShardSet.open(output, "validation", source="a")
    with pytest.raises(ArtifactError, match=r"made with the tokenizer dddddddddddd, not ffffffffffff; run the stage"):
        ShardSet.open(output, "train", tokenizer_digest="f" * 64)


def test_no_shard_at_all_is_an_error(tmp_path: Path) -> None:
    write_index(tmp_path, ShardIndex(METADATA, (), ()))
    with pytest.raises(ArtifactError, match="there is no token shard to read; run the stage shards again"):
        ShardSet.open(write_output(tmp_path, "shards"), "train")


def test_metadata_decides_the_width_of_an_id() -> None:
    assert (METADATA.dtype, LARGE.dtype) == (np.uint16, np.uint32)
    assert ShardMetadata("d", 65_535, 0, 0).dtype == np.uint16
