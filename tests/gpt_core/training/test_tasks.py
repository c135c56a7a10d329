"""Labels are read with their lines, and cut into batches that depend on the seed alone."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_core.errors import InputError
from gpt_core.training.tasks import (
    IGNORED,
    Examples,
    Labelled,
    draw_rows,
    epoch_batches,
    label_names,
    make_batch,
    read_labelled,
    require_known_labels,
    share_of,
)


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def read(path: Path) -> list[Labelled]:
    return read_labelled(path, text_field="text", label_field="label")


def test_rows_come_with_their_line_and_blank_lines_count(tmp_path: Path) -> None:
    path = write(tmp_path / "l.jsonl", '{"text": "a", "label": "x"}', "", '{"text": "b", "label": "y"}')
    assert read(path) == [Labelled(f"{path}:1", "a", "x"), Labelled(f"{path}:3", "b", "y")]


def test_gzip_is_read_as_plain_text_is(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "l.jsonl.gz", "wt") as stream:
        stream.write(json.dumps({"text": "a", "label": "x"}))
    assert [row.text for row in read(tmp_path / "l.jsonl.gz")] == ["a"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"l\.jsonl:2: is no JSON"),
        ("[1]", r"l\.jsonl:2: is no JSON object"),
        ('{"text": "a"}', r"l\.jsonl:2: 'label' is missing; it must be a string"),
        ('{"text": 7, "label": "x"}', r"l\.jsonl:2: 'text' is 7; it must be a string"),
        ('{"text": " ", "label": "x"}', r"l\.jsonl:2: 'text' is "),
    ],
)
def test_a_bad_row_is_refused_with_file_and_line(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(write(tmp_path / "l.jsonl", '{"text": "a", "label": "x"}', line))


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no row"):
        read(write(tmp_path / "l.jsonl"))


def test_a_truncated_gzip_is_refused_where_it_breaks(tmp_path: Path) -> None:
    whole = gzip.compress(b'{"text": "a", "label": "x"}\n' * 5_000)
    (tmp_path / "l.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"l\.jsonl\.gz:\d+: cannot be read on"):
        read(tmp_path / "l.jsonl.gz")


def test_labels_are_sorted_and_one_is_too_few() -> None:
    assert label_names([Labelled("", "", "b"), Labelled("", "", "a"), Labelled("", "", "b")]) == ["a", "b"]
    with pytest.raises(InputError, match="a classifier needs two or more"):
        label_names([Labelled("f:1", "", "b")])


def test_a_label_that_training_never_saw_is_refused_with_its_line() -> None:
    with pytest.raises(InputError, match=r"f:9: the label 'c' is none of the training split's: a, b"):
        require_known_labels([Labelled("f:8", "", "a"), Labelled("f:9", "", "c")], ["a", "b"])


def test_a_drawn_sample_keeps_the_order_and_depends_on_the_seed_alone() -> None:
    rows = [Labelled(f"f:{number}", "a", "x") for number in range(100)]
    drawn = draw_rows(rows, 10, seed=3)
    assert len(drawn) == 10
    assert drawn == sorted(drawn, key=rows.index) == draw_rows(rows, 10, seed=3) != draw_rows(rows, 10, seed=4)
    assert draw_rows(rows, None, seed=0) == rows == draw_rows(rows, 1_000, seed=0)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=200), st.integers(1, 9), st.integers(0, 3))
def test_an_epoch_has_every_example_once(lengths: list[int], batch: int, seed: int) -> None:
    batches = epoch_batches(np.array(lengths), batch_sequences=batch, seed=seed, epoch=0)
    assert sorted(row for rows in batches for row in rows) == list(range(len(lengths)))
    assert len(batches) == -(-len(lengths) // batch)
    assert sum(len(rows) < batch for rows in batches) <= 1


def test_epochs_differ_and_repeat_by_seed() -> None:
    lengths = np.arange(100) % 7
    first, again, second = (epoch_batches(lengths, batch_sequences=8, seed=1, epoch=e) for e in (0, 0, 1))
    assert first == again != second


@given(st.integers(0, 8), st.sampled_from([1, 2, 4, 8]))
def test_ranks_share_a_batch_out_evenly_and_completely(n_rows: int, world_size: int) -> None:
    shares = [share_of(rank, world_size, range(n_rows), size=8) for rank in range(world_size)]
    assert {len(share) for share in shares} == {8 // world_size}
    assert sorted(row for share in shares for row in share if row >= 0) == list(range(n_rows))


def test_a_batch_worked_out_by_hand() -> None:
    examples = Examples(ids=((9, 1, 9), (9, 1, 2, 3, 9)), labels=(4, 5), where=("", ""))
    batch = make_batch(examples, [1, 0, -1], pad_id=7)
    assert batch.ids.tolist() == [[9, 1, 2, 3, 9], [9, 1, 9, 7, 7], [7, 7, 7, 7, 7]]
    assert batch.lengths.tolist() == [5, 3, 1]
    x = IGNORED
    assert batch.targets.tolist() == [[1, 2, 3, 9, x], [1, 9, x, x, x], [x, x, x, x, x]]
    assert batch.labels.tolist() == [5, 4, x]
