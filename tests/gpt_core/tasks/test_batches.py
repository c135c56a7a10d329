"""Batches depend on the seed alone; ranks share them out; arrays are as worked out by hand."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gpt_core.tasks.batches import epoch_batches, make_batch, share_of
from gpt_core.tasks.sequences import Examples
from gpt_core.tasks.spec import IGNORED

X = IGNORED


def examples(*sequences: tuple[tuple[int, ...], ...], labels: np.ndarray, loss_from: int = 1) -> Examples:
    return Examples(sequences, labels, np.full(len(sequences), loss_from), ("",) * len(sequences))


@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=200),
    st.integers(1, 4),
    st.integers(1, 8),
    st.integers(1, 5),
    st.integers(0, 3),
)
def test_an_epoch_shows_every_example_to_one_rank_once(
    lengths: list[int], each: int, world_size: int, micro_batch: int, seed: int
) -> None:
    size = each * world_size
    batches = epoch_batches(np.array(lengths), batch_sequences=size, seed=seed, epoch=0)
    assert len(batches) == -(-len(lengths) // size)
    assert sum(len(rows) < size for rows in batches) <= 1
    made = examples(*(((1,) * length,) for length in lengths), labels=np.arange(len(lengths)))
    seen, calls = [], set()
    for rows in batches:
        for rank in range(world_size):
            part = share_of(rank, world_size, rows, size=size)
            calls.add(len(part))
            for start in range(0, len(part), micro_batch):
                batch = make_batch(made, part[start : start + micro_batch], pad_id=0)
                seen += batch.labels[batch.labels != IGNORED].tolist()
    assert sorted(seen) == list(range(len(lengths)))
    assert calls == {each}  # all ranks step equally often


def test_epochs_differ_and_repeat_by_seed() -> None:
    lengths = np.arange(100) % 7
    first, again, second = (epoch_batches(lengths, batch_sequences=8, seed=1, epoch=e) for e in (0, 0, 1))
    assert first == again != second


def test_a_batch_of_single_sequences_worked_out_by_hand() -> None:
    made = examples(((9, 1, 8),), ((9, 1, 2, 3, 8),), labels=np.array([4, 5]))
    batch = make_batch(made, [1, 0, -1], pad_id=7)
    assert batch.ids.tolist() == [[[9, 1, 2, 3, 8]], [[9, 1, 8, 7, 7]], [[7, 7, 7, 7, 7]]]
    assert batch.lengths.tolist() == [[5], [3], [1]]
    assert batch.targets.tolist() == [[[1, 2, 3, 8, X]], [[1, 8, X, X, X]], [[X, X, X, X, X]]]
    assert batch.labels.tolist() == [5, 4, X]


def test_examples_of_two_and_three_choices_stand_in_one_batch() -> None:
    made = examples(((9, 1, 8), (9, 2, 8)), ((9, 3, 8), (9, 4, 5, 8), (9, 6, 8)), labels=np.array([1, 2]))
    batch = make_batch(made, [0, 1], pad_id=7)
    assert batch.ids.tolist() == [
        [[9, 1, 8, 7], [9, 2, 8, 7], [7, 7, 7, 7]],
        [[9, 3, 8, 7], [9, 4, 5, 8], [9, 6, 8, 7]],
    ]
    assert batch.lengths.tolist() == [[3, 3, 0], [3, 4, 3]]
    assert batch.targets.tolist() == [
        [[1, 8, X, X], [2, 8, X, X], [X, X, X, X]],
        [[3, 8, X, X], [4, 5, 8, X], [6, 8, X, X]],
    ]
    assert batch.labels.tolist() == [1, 2]


def test_of_a_completion_the_prompt_is_no_target() -> None:
    made = examples(((0, 1, 2, 3, 4, 0),), labels=np.zeros(1, np.int64), loss_from=3)
    batch = make_batch(made, [0], pad_id=0)
    assert batch.targets.tolist() == [[[X, X, 3, 4, 0, X]]]


def test_a_row_that_fills_has_no_number_and_no_classes() -> None:
    numbers = examples(((9, 1, 8),), labels=np.array([0.5], np.float32))
    np.testing.assert_array_equal(make_batch(numbers, [0, -1], pad_id=7).labels, [0.5, np.nan])
    classes = examples(((9, 1, 8),), labels=np.array([[1, 0]], np.float32))
    np.testing.assert_array_equal(make_batch(classes, [-1, 0], pad_id=7).labels, [[np.nan, np.nan], [1, 0]])
    assert classes.labels.tolist() == [[1, 0]]
