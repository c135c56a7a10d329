"""Packed sequences have every document whole, every target once, and little padding."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_core.data.packing import Sequences, join, pack_documents
from gpt_core.data.shard_set import ShardSet
from tiny_shards import open_train, write_shards

IGNORED = -100
LENGTHS = st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=12), min_size=1, max_size=4)


def make(folder: Path, lengths: list[list[int]]) -> ShardSet:
    """Documents of so many ids, the end-of-text token 0 in, by shard; all other ids are different."""
    number = iter(range(1, 60_000))
    shards = [[[next(number) for _ in range(length - 1)] for length in shard] for shard in lengths]
    return open_train(folder, write_shards(folder, {"s": shards}))


def pieces_of(packed: Sequences, number: int) -> list[tuple[int, int, bool]]:
    span = slice(*packed.firsts[number : number + 2])
    return list(
        zip(packed.starts[span].tolist(), packed.lengths[span].tolist(), packed.cut[span].tolist(), strict=True)
    )


def test_by_hand(tmp_path: Path) -> None:
    """Documents of 3, 2, 7, 1, 4 ids at 0, 3, 5, 12, 13; that of 7 is cut into 5 and 3, one id in both."""
    shards = make(tmp_path, [[3, 2, 7], [1, 4]])
    packed = pack_documents(shards, range(2), width=5)
    assert [pieces_of(packed, number) for number in range(len(packed))] == [
        [(5, 5, False)],
        [(13, 4, False), (12, 1, False)],
        [(0, 3, False)],
        [(9, 3, True), (3, 2, False)],
    ]
    ids, targets = packed.gather(shards, np.arange(4), ignored=IGNORED)
    row = shards.gather(np.array([0]), shards.n_tokens)[0]
    a, b, c, d = row[0:2].tolist(), row[3:4].tolist(), row[5:11].tolist(), row[13:16].tolist()
    assert ids.tolist() == [c[:5], [*d, 0, 0], [*a, 0, 0, 0], [*c[4:], 0, *b, 0]]
    assert targets.tolist() == [
        c[1:5],
        [*d[1:], 0, 0],
        [a[1], 0, IGNORED, IGNORED],
        [c[5], 0, b[0], 0],
    ]
    assert packed.count_targets(np.arange(4)) == np.count_nonzero(targets != IGNORED) == 14
    assert packed.padding == 2


def test_the_first_id_of_a_later_piece_is_no_target_twice(tmp_path: Path) -> None:
    shards = make(tmp_path, [[6, 3]])  # of width 5: 5 and 2 ids of the first, 3 of the second
    packed = pack_documents(shards, range(1), width=5)
    assert pieces_of(packed, 1) == [(6, 3, False), (4, 2, True)]
    ids, targets = packed.gather(shards, np.array([1]), ignored=IGNORED)
    first, second = shards.gather(np.array([6, 3]), 2).tolist()
    assert ids.tolist() == [[*first, 0, second[1], 0]]
    assert targets.tolist() == [[first[1], 0, IGNORED, 0]]
    assert packed.count_targets(np.array([1])) == 3


@settings(max_examples=60)
@given(lengths=LENGTHS, width=st.integers(2, 17))
def test_every_id_but_a_documents_first_is_a_target_once(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[list[int]], width: int
) -> None:
    shards = make(tmp_path_factory.mktemp("shards"), lengths)
    packed = pack_documents(shards, range(len(lengths)), width=width)
    numbers = np.arange(len(packed))
    ids, targets = packed.gather(shards, numbers, ignored=IGNORED)
    learned = targets != IGNORED
    assert packed.count_targets(numbers) == np.count_nonzero(learned)
    assert np.array_equal(targets[learned], ids[:, 1:][learned])
    assert packed.padding == ids.size - packed.lengths.sum()

    row = shards.gather(np.array([0]), shards.n_tokens)[0]
    documents = [part.tolist() for part in np.split(row, np.flatnonzero(row == 0) + 1)[:-1]]
    pairs = [pair for document in documents for pair in itertools.pairwise(document)]
    within = [(a, b) for a, b in zip(ids[:, :-1][learned].tolist(), targets[learned].tolist(), strict=True) if a != 0]
    assert sorted(within) == sorted(pairs)
    begins = {document[0] for document in documents}
    behind_end = targets[learned & (ids[:, :-1] == 0)].tolist()
    assert set(behind_end) <= begins  # an end-of-text token foretells the beginning of a document, or nothing


@settings(max_examples=60)
@given(lengths=LENGTHS, width=st.integers(2, 17))
def test_the_fit_is_the_best(tmp_path_factory: pytest.TempPathFactory, lengths: list[list[int]], width: int) -> None:
    """Against the plain algorithm: the tightest sequence that holds the piece, of several the last with that room."""
    shards = make(tmp_path_factory.mktemp("shards"), lengths)
    packed = pack_documents(shards, range(len(lengths)), width=width)
    pieces, start = [], 0
    for length in (length for shard in lengths for length in shard):
        begin, stop = start, start + length
        while stop - begin > width:
            pieces.append((begin, width, begin > start))
            begin += width - 1
        pieces.append((begin, stop - begin, begin > start))
        start = stop
    sequences: list[list[tuple[int, int, bool]]] = []
    rooms: list[tuple[int, int]] = []  # (room, sequence), by when it came to have it
    for piece in sorted(pieces, key=lambda piece: -piece[1]):
        fitting = [room for room, _ in rooms if room >= piece[1]]
        if fitting:
            place = max(index for index, (room, _) in enumerate(rooms) if room == min(fitting))
            room, home = rooms.pop(place)
        else:
            room, home = width, len(sequences)
            sequences.append([])
        sequences[home].append(piece)
        rooms.append((room - piece[1], home))
    assert [pieces_of(packed, number) for number in range(len(packed))] == sequences


def test_little_is_padding(tmp_path: Path) -> None:
    lengths = np.maximum(1, np.random.default_rng(0).lognormal(4, 1, 400)).astype(int).tolist()
    packed = pack_documents(make(tmp_path, [lengths]), range(1), width=257)
    assert packed.padding < 0.01 * 257 * len(packed)


def test_parts_are_joined_with_their_sequences_unchanged(tmp_path: Path) -> None:
    shards = make(tmp_path, [[3, 2, 7], [1, 4], [9]])
    parts = [pack_documents(shards, numbers, width=5) for numbers in (range(2), range(2, 3))]
    whole = join(parts)
    assert len(whole) == 6
    for number in range(4):
        assert pieces_of(whole, number) == pieces_of(parts[0], number)
    for number in range(2):
        assert pieces_of(whole, 4 + number) == pieces_of(parts[1], number)
    assert whole.padding == parts[0].padding + parts[1].padding


def test_a_piece_takes_13_bytes_and_a_sequence_8(tmp_path: Path) -> None:
    packed = pack_documents(make(tmp_path, [[3, 2, 7], [1, 4]]), range(2), width=5)
    per_piece = packed.starts.itemsize + packed.lengths.itemsize + packed.cut.itemsize
    assert (per_piece, packed.firsts.itemsize) == (13, 8)
