"""Rows of every task are read from every format, and what cannot be used is refused with its place."""

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_core.errors import InputError, RecipeError
from gpt_core.recipe import Finetune
from gpt_core.tasks.labelled import (
    Row,
    draw_rows,
    label_names,
    read_rows,
    read_splits,
    require_known_labels,
    row_of,
)
from gpt_core.tasks.spec import Marks, TaskSpec

Record = dict[str, Any]

ROWS: dict[str, tuple[Record, list[Record]]] = {  # task -> (settings, rows of it)
    "class": ({}, [{"text": 'a, "b"\nc', "label": "x"}, {"text": "d", "label": "y"}]),
    "classes": ({"labels": "classes"}, [{"text": "a", "label": ["x", "y"]}, {"text": "b", "label": []}]),
    "number": ({"labels": "number"}, [{"text": "a", "label": 0.5}, {"text": "b", "label": -2.0}]),
    "entailment": ({"task": "entailment"}, [{"premise": "a", "hypothesis": "b", "label": "yes"}]),
    "similarity": ({"task": "similarity", "labels": "number"}, [{"first": "a", "second": "b", "label": 4.0}]),
    "choice": (
        {"task": "multiple_choice"},
        [
            {"context": "a", "choices": ["b", "c", "d"], "label": "c"},
            {"context": "e", "choices": ["f", "g"], "label": "g"},
        ],
    ),
    "completion": ({"task": "completion"}, [{"prompt": "a", "completion": "b"}]),
}
EXPECTED = {
    "class": [(('a, "b"\nc',), "x"), (("d",), "y")],
    "classes": [(("a",), ("x", "y")), (("b",), ())],
    "number": [(("a",), 0.5), (("b",), -2.0)],
    "entailment": [(("a", "b"), "yes")],
    "similarity": [(("a", "b"), 4.0)],
    "choice": [(("a", "b", "c", "d"), 1), (("e", "f", "g"), 1)],
    "completion": [(("a", "b"), None)],
}


def settings(**fields: object) -> Finetune:
    return Finetune.model_validate({"train": "train.jsonl", "test": "test.jsonl", **fields})


def write(path: Path, *lines: str) -> Path:
    text = "\n".join(lines) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def write_jsonl(path: Path, records: list[Record]) -> Path:
    return write(path, *map(json.dumps, records))


def write_csv(path: Path, records: list[Record]) -> Path:
    with gzip.open(path, "wt", newline="") if path.suffix == ".gz" else path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, records[0].keys())
        writer.writeheader()
        for record in records:
            writer.writerow({name: json.dumps(it) if isinstance(it, list) else it for name, it in record.items()})
    return path


def write_parquet(path: Path, records: list[Record]) -> Path:
    pq.write_table(pa.Table.from_pylist(records), path)
    return path


WRITERS = {
    "rows.jsonl": write_jsonl,
    "rows.jsonl.gz": write_jsonl,
    "rows.csv": write_csv,
    "rows.CSV.gz": write_csv,
    "rows.parquet": write_parquet,
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("task", ROWS)
def test_every_format_gives_the_rows_of_every_task(task: str, name: str, tmp_path: Path) -> None:
    given, records = ROWS[task]
    rows = read_rows(WRITERS[name](tmp_path / name, records), settings(**given))
    assert [(row.texts, row.label) for row in rows] == EXPECTED[task]


def test_fields_are_those_that_the_recipe_names(tmp_path: Path) -> None:
    named = settings(task="entailment", text_field="a", second_field="b", label_field="c")
    record = {"a": "one", "b": "two", "c": "three", "premise": "no", "label": "no"}
    for name, writer in WRITERS.items():
        (row,) = read_rows(writer(tmp_path / name, [record]), named)
        assert (row.texts, row.label) == (("one", "two"), "three")


def test_a_row_knows_its_line_and_blank_lines_count(tmp_path: Path) -> None:
    path = write(tmp_path / "l.jsonl", '{"text": "a", "label": "x"}', "", '{"text": "b", "label": "y"}')
    assert read_rows(path, settings()) == [Row(f"{path}:1", ("a",), "x"), Row(f"{path}:3", ("b",), "y")]


def test_a_row_of_a_table_knows_where_it_begins(tmp_path: Path) -> None:
    path = write(tmp_path / "l.csv", "\ufefftext,label", '"a', 'b",x', "", "c,y")
    assert [(row.where, row.texts) for row in read_rows(path, settings())] == [
        (f"{path}:2", ("a\nb",)),
        (f"{path}:5", ("c",)),
    ]
    path = write_parquet(tmp_path / "l.parquet", ROWS["class"][1])
    assert [row.where for row in read_rows(path, settings())] == [f"{path} row 1", f"{path} row 2"]


def test_a_cell_may_be_as_long_as_a_document(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    (row,) = read_rows(write(tmp_path / "l.csv", "text,label", f"{'a' * 200_000},x"), settings())
    assert len(row.texts[0]) == 200_000
    assert csv.field_size_limit() == before


def test_whole_numbers_are_classes_by_their_digits(tmp_path: Path) -> None:
    records = [{"text": "a", "label": 1}, {"text": "b", "label": 0}]
    for name, writer in WRITERS.items():
        rows = read_rows(writer(tmp_path / name, records), settings())
        assert [row.label for row in rows] == ["1", "0"]
    assert label_names(rows, "class") == ("0", "1")


def test_a_choice_is_told_by_its_text_or_its_place(tmp_path: Path) -> None:
    choice = settings(task="multiple_choice")
    for name, writer in WRITERS.items():
        for label, place in (("c", 1), (2, 2)):
            record = {"context": "a", "choices": ["b", "c", "d"], "label": label}
            assert read_rows(writer(tmp_path / name, [record]), choice)[0].label == place
    digits = {"context": "a", "choices": ["1", "2", "0"], "label": "2"}
    assert read_rows(write_jsonl(tmp_path / "d.jsonl", [digits]), choice)[0].label == 1
    assert read_rows(write_jsonl(tmp_path / "d.jsonl", [digits | {"label": 2}]), choice)[0].label == 2
    with pytest.raises(InputError, match=r"d\.csv:2: 'label' is \"2\"; it must be the text or the place of one choice"):
        read_rows(write_csv(tmp_path / "d.csv", [digits]), choice)


SAYS = "it must be a string that says something"
BAD = [  # task, what is wrong with its first row, what is said
    ("class", {"label": None}, rf"'label' is null; {SAYS}, or a whole number"),
    ("class", {"label": True}, "'label' is true; it must be a string"),
    ("class", {"label": 1.5}, r"'label' is 1\.5; it must be a string"),
    ("class", {"label": " "}, "'label' is \" \"; it must be a string"),
    ("class", {"text": 7}, f"'text' is 7; {SAYS}"),
    ("class", {"text": " "}, f"'text' is \" \"; {SAYS}"),
    ("class", {"text": "\ud800"}, r"'text' is \"\\ud800\"; it must be text: half a surrogate pair is no character"),
    ("classes", {"label": "x"}, "'label' is \"x\"; it must be a list of classes"),
    ("classes", {"label": ["x", "x"]}, '\'label\' is \\["x", "x"\\]; it must be a list that names a class once'),
    ("classes", {"label": ["x", ""]}, f"'label' is \"\"; {SAYS}"),
    ("number", {"label": "0.5"}, "'label' is \"0.5\"; it must be a finite number of 32 bits"),
    ("number", {"label": float("nan")}, "'label' is NaN; it must be a finite number"),
    ("number", {"label": 1e39}, r"'label' is 1e\+39; it must be a finite number"),
    ("number", {"label": 10**400}, "'label' is 10+; it must be a finite number"),
    ("number", {"label": False}, "'label' is false; it must be a finite number"),
    ("entailment", {"hypothesis": ""}, f"'hypothesis' is \"\"; {SAYS}"),
    ("similarity", {"second": None}, f"'second' is null; {SAYS}"),
    ("choice", {"choices": ["b"]}, "'choices' is .*; it must be a list of two or more choices"),
    ("choice", {"choices": "b"}, "'choices' is \"b\"; it must be a list of two or more choices"),
    ("choice", {"choices": ["b", ""]}, f"'choices' is \"\"; {SAYS}"),
    ("choice", {"label": "z"}, "'label' is \"z\"; it must be the text of a choice, or its place from 0 to 2"),
    ("choice", {"label": 3}, "'label' is 3; it must be the text of a choice, or its place from 0 to 2"),
    ("choice", {"label": -1}, "'label' is -1; it must be the text of a choice"),
    ("choice", {"choices": ["b", "c", "c"]}, "'label' is \"c\"; it must be the text or the place of one choice"),
    ("completion", {"completion": ""}, f"'completion' is \"\"; {SAYS}"),
]


@pytest.mark.parametrize(("task", "change", "message"), BAD, ids=[f"{task}-{message}" for task, _, message in BAD])
def test_a_bad_row_is_refused_with_file_line_field_and_value(
    task: str, change: Record, message: str, tmp_path: Path
) -> None:
    given, records = ROWS[task]
    path = write_jsonl(tmp_path / "l.jsonl", [*records, records[0] | change])
    with pytest.raises(InputError, match=rf"l\.jsonl:{len(records) + 1}: {message}"):
        read_rows(path, settings(**given))


def test_a_missing_field_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"l\.jsonl:1: 'label' is missing; it must be a string"):
        read_rows(write(tmp_path / "l.jsonl", '{"text": "a"}'), settings())
    told = r": has no column 'label' among 'text', 'topic'; rename one, or set finetune\.text_field, second_field or la"
    record = {"text": "a", "topic": "x"}
    for path in (write_csv(tmp_path / "l.csv", [record]), write_parquet(tmp_path / "l.parquet", [record])):
        with pytest.raises(InputError, match=path.name + told):
            read_rows(path, settings())


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["text,label", "a,b,c"], r"l\.csv:2: has 3 cells, the header 2; quote cells with commas"),
        (["text,label", "a"], r"l\.csv:2: has 1 cells, the header 2"),
        (["text,label,label", "a,b,c"], r"l\.csv: has two columns 'label' among 'text', 'label', 'label'"),
        (["text,label", "a,b", '"a,b'], r"l\.csv:3: cannot be read on: unexpected end of data"),
        ([], r"l\.csv: has no column 'text' among none"),
        (["text,label"], r"l\.csv: holds no row; give records with 'text', 'label'"),
    ],
)
def test_a_table_that_is_none_is_refused_where_it_breaks(lines: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("".join(f"{line}\n" for line in lines))
    with pytest.raises(InputError, match=message):
        read_rows(tmp_path / "l.csv", settings())


def test_a_cell_holds_lists_as_json_and_numbers_as_digits(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"l\.csv:2: 'label' is \"x, y\"; it must be a list of classes, as JSON"):
        read_rows(write(tmp_path / "l.csv", "text,label", 'a,"x, y"'), settings(labels="classes"))
    with pytest.raises(InputError, match=r"l\.csv:2: 'label' is \"many\"; it must be a finite number"):
        read_rows(write(tmp_path / "l.csv", "text,label", "a,many"), settings(labels="number"))


def test_what_is_no_file_of_rows_is_refused(tmp_path: Path) -> None:
    for line, message in (("{", "is no JSON: "), ("[1]", "is no JSON object; give one object a line")):
        with pytest.raises(InputError, match=rf"l\.jsonl:2: {message}"):
            read_rows(write(tmp_path / "l.jsonl", '{"text": "a", "label": "x"}', line), settings())
    with pytest.raises(InputError, match=r"l\.jsonl: holds no row"):
        read_rows(write(tmp_path / "l.jsonl"), settings())
    with pytest.raises(InputError, match=r"l\.txt: its ending says no format; give \.jsonl, \.csv"):
        read_rows(write(tmp_path / "l.txt"), settings())
    with pytest.raises(InputError, match=r"l\.parquet row 1: cannot be read on: "):
        read_rows(write(tmp_path / "l.parquet", "PAR1"), settings())
    with pytest.raises(InputError, match=r"gone\.jsonl:1: cannot be read on: .*No such file"):
        read_rows(tmp_path / "gone.jsonl", settings())


@pytest.mark.parametrize(("ending", "row"), [("jsonl", b'{"text": "a", "label": "x"}\n'), ("csv", b"text,label\n")])
def test_a_broken_gzip_is_refused_where_it_breaks(ending: str, row: bytes, tmp_path: Path) -> None:
    whole = gzip.compress(row * 5_000)
    path = tmp_path / f"l.{ending}.gz"
    for damaged in (whole[: len(whole) // 2], whole[:20] + b"\xff" * 9 + whole[29:]):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=rf"l\.{ending}\.gz:\d+: cannot be read on"):
            read_rows(path, settings())


def test_labels_are_sorted_and_one_is_too_few() -> None:
    rows = [Row("f:1", ("",), "b"), Row("f:2", ("",), "a"), Row("f:3", ("",), "b")]
    assert label_names(rows, "class") == ("a", "b")
    with pytest.raises(InputError, match="f:1: every row has the label 'b'; a classifier needs two or more"):
        label_names(rows[:1], "class")
    several = [Row("f:1", ("",), ()), Row("f:2", ("",), ("b", "a"))]
    assert label_names(several, "classes") == ("a", "b")
    assert label_names([*several[:1], Row("f:2", ("",), ("a",))], "classes") == ("a",)
    with pytest.raises(InputError, match="f:1: no row has a class"):
        label_names(several[:1], "classes")
    assert label_names([Row("f:1", ("",), 1.0)], "number") == ()


def test_a_label_that_training_never_saw_is_refused_with_its_line() -> None:
    told = r"f:9: the label 'c' is none of the training split's: a, b; correct the row, or add rows with it"
    for label in ("c", ("a", "c")):
        with pytest.raises(InputError, match=told):
            require_known_labels([Row("f:8", ("",), "a"), Row("f:9", ("",), label)], ["a", "b"])
    require_known_labels([Row("f:1", ("",), 0.5), Row("f:2", ("",), 2), Row("f:3", ("",), None)], [])


def test_a_drawn_sample_keeps_the_order_and_depends_on_the_seed_alone() -> None:
    rows = [Row(f"f:{number}", ("a",), "x") for number in range(100)]
    drawn = draw_rows(rows, 10, seed=3)
    assert len(drawn) == 10
    assert drawn == sorted(drawn, key=rows.index) == draw_rows(rows, 10, seed=3) != draw_rows(rows, 10, seed=4)
    assert draw_rows(rows, None, seed=0) == rows == draw_rows(rows, 1_000, seed=0)


def write_splits(folder: Path, train: int, **fields: object) -> Finetune:
    labelled = [{"text": f"text {number}", "label": "ab"[number % 2]} for number in range(train)]
    paths = {
        "train": write_jsonl(folder / "train.jsonl", labelled),
        "test": write_jsonl(folder / "test.jsonl", labelled[:2]),
    }
    return settings(**{split: str(path) for split, path in paths.items()}, **fields)


@given(st.integers(4, 60), st.floats(0.01, 0.7), st.integers(0, 3), st.none() | st.integers(1, 60))
def test_without_a_file_validation_is_drawn_from_train_and_nothing_is_lost(
    tmp_path_factory: pytest.TempPathFactory, train: int, share: float, seed: int, most: int | None
) -> None:
    folder = tmp_path_factory.mktemp("splits")
    given = write_splits(folder, train, validation_fraction=share, seed=seed, max_examples=most)
    splits, again = read_splits(given), read_splits(given)
    assert splits == again
    assert len(splits.validation) == max(1, round(share * train))
    left = train - len(splits.validation)
    assert len(splits.train) == min(left, most or left)
    lines = [int(row.where.rpartition(":")[2]) for row in (*splits.train, *splits.validation)]
    assert len(set(lines)) == len(lines)  # no row stands in both
    if most is None:
        assert sorted(lines) == list(range(1, train + 1))
    assert splits.labels == ("a", "b")  # of all rows, whichever were drawn


def test_validation_that_leaves_nothing_to_train_on_is_refused(tmp_path: Path) -> None:
    told = r"train\.jsonl: finetune\.validation_fraction=0\.9 of its 3 rows leaves none to train on; give more rows"
    with pytest.raises(InputError, match=told):
        read_splits(write_splits(tmp_path, 3, validation_fraction=0.9))


def test_a_label_of_either_split_must_stand_in_train(tmp_path: Path) -> None:
    odd = write_jsonl(tmp_path / "odd.jsonl", [{"text": "a", "label": "c"}])
    for split in ("validation", "test"):
        given = write_splits(tmp_path, 9).model_copy(update={split: str(odd)})
        with pytest.raises(InputError, match=r"odd\.jsonl:1: the label 'c' is none of the training split's: a, b"):
            read_splits(given)


def test_weights_are_of_classes_that_occur(tmp_path: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"finetune\.class_weights\.c: is no class of finetune\.train, which has a, b"
    ):
        read_splits(write_splits(tmp_path, 9, class_weights={"a": 2.0, "c": 1.0}))
    assert read_splits(write_splits(tmp_path, 9, class_weights={"a": 2.0})).labels == ("a", "b")


def spec_of(task: str, *labels: str) -> TaskSpec:
    return TaskSpec.of_recipe(settings(**ROWS[task][0]), labels, max_tokens=16, vocab_size=300)


def test_a_request_needs_no_label_and_may_be_blank() -> None:
    assert row_of({"text": ""}, spec_of("class", "x", "y"), "row 0") == Row("row 0", ("",), None)
    asked = {"context": "a", "choices": ("b", "c")}
    assert row_of(asked, spec_of("choice"), "row 0").texts == ("a", "b", "c")
    assert row_of({"prompt": "a"}, spec_of("completion"), "row 0").texts == ("a",)
    with pytest.raises(InputError, match="row 3: 'hypothesis' is missing; it must be a string"):
        row_of({"premise": "a"}, spec_of("entailment", "x", "y"), "row 3")
    assert spec_of("class", "x", "y").marks == Marks(300, 301, 302, 303)
