"""Notes are whole tables whatever stands in their cells, link to the runs they tell of, and fit into a tag."""

import json
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from stage_output import write_output

from jobs.run_note import MemberNote, StageNote, key_figures, pipeline_note, sweep_note
from jobs.run_records import MAX_TAG_CHARACTERS


def member(name: str, *, run_id: str | None = "ab", value: float | None = 0.5, **facts: object) -> MemberNote:
    figures = {} if value is None else {"validation_accuracy": value}
    return MemberNote(
        name=name,
        values=[name],
        run_id=run_id,
        figures=figures,
        error=str(facts["error"]) if "error" in facts else None,
        best=bool(facts.get("best")),
    )


def cells(line: str) -> list[str]:
    """The cells of a table's line: a bar behind a backslash parts nothing."""
    inner = line.replace(r"\|", "\0").strip("|").split("|")
    return [cell.replace("&emsp;", "").replace("&nbsp;", " ").strip().replace("\0", r"\|") for cell in inner]


def table(note: str) -> list[list[str]]:
    return [cells(line) for line in note.splitlines() if line.startswith("|")]


def test_a_pipelines_note_has_a_row_for_each_stage_the_last_first_that_leads_to_its_run(tmp_path: Path) -> None:
    (tmp_path / "clean").mkdir()
    clean = write_output(tmp_path / "clean", "clean", {"documents_kept": 1234})
    notes = [StageNote("clean", "was there", "ab", clean), StageNote("dedup", "failed", None, None)]
    assert table(pipeline_note(notes, experiment_id="7")) == [
        ["stage", "", "output", "figures", "took"],
        ["---"] * 5,
        ["dedup", "failed", "", "", ""],
        [
            "[clean](#/experiments/7/runs/ab)",
            "was there",
            f"`{clean.manifest.fingerprint[:12]}`",
            "documents kept 1,234",
            "0.0 s",
        ],
    ]


def test_key_figures_are_the_headlines_of_the_test_first_without_parts_and_bounds(tmp_path: Path) -> None:
    figures = {
        "validation_loss": 3.14159,
        "validation_bits_per_byte.novels": 1.0,
        "test_accuracy": 0.75,
        "test_accuracy_low": 0.7,
        "lift": 0.1,
    }
    manifest = write_output(tmp_path, "evaluate", figures=figures).manifest
    assert key_figures(manifest) == "test accuracy 0.75, validation loss 3.142"


def test_the_best_run_stands_first_and_all_can_be_compared() -> None:
    members = [
        member("a", run_id="aa"),
        member("b", run_id="bb", value=0.75, best=True),
        member("c", run_id=None, value=None),
    ]
    note = sweep_note(["finetune.epochs"], members, judged_by="Judged by it.", experiment_id="7")
    assert table(note)[0] == ["run", "finetune.epochs", "validation accuracy", ""]
    assert table(note)[2:] == [
        ["[b](#/experiments/7/runs/bb)", "b", "0.75", "**best**"],
        ["[a](#/experiments/7/runs/aa)", "a", "0.5", ""],
        ["c", "c", "", ""],
    ]
    link = note.split("[Compare these runs](#")[1].split(")")[0]
    asked = parse_qs(urlsplit(link).query)
    assert json.loads(unquote(asked["runs"][0])) == ["aa", "bb"]
    assert note.endswith("Judged by it.")


@pytest.mark.parametrize(
    "value", ["a|b", "[x](http://evil)", "`code", "**bold**", "<img src=x>", "two\nlines", "\\|", "#"]
)
def test_no_value_or_error_breaks_the_table_or_becomes_markup(value: str) -> None:
    note = sweep_note(["field"], [member(value, error=value)], judged_by="", experiment_id="7")
    assert {len(row) for row in table(note)} == {4}
    assert len(note.splitlines()) == 3
    for mark in "[]`*<>#":
        for cell in table(note)[2][1:]:
            assert cell.count(mark) == cell.count(f"\\{mark}")


def test_a_note_of_many_runs_fits_into_a_tag_keeps_the_best_and_says_how_many_it_leaves_out() -> None:
    members = [member(f"learning_rate=1e-{n} and_more={n}", run_id="a" * 32, best=n == 299) for n in range(300)]
    note = sweep_note(["finetune.learning_rate"], members, judged_by="Judged.", experiment_id="7")
    assert MAX_TAG_CHARACTERS - 200 < len(note) <= MAX_TAG_CHARACTERS
    rows = table(note)[2:]
    assert rows[0][-1] == "**best**"
    assert f"and {300 - len(rows)} further runs, below this one" in note
