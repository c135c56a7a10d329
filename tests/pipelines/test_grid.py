"""A sweep's grid: how listed values are told apart, what every combination is called, and what is refused."""

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from made_workspace import write_project

from gpt_core.errors import RecipeError
from pipelines.grid import Combination, read_grid, split_values

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-999, 999)
    | st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs"))),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1e-4,3e-4", ["1e-4", "3e-4"]),
        (" 1e-4 , 3e-4 ", ["1e-4", "3e-4"]),
        ('["a","b"]', ['["a","b"]']),
        ('["a", "b"],["c"]', ['["a", "b"]', '["c"]']),
        ("[[1,2],[3]],[]", ["[[1,2],[3]]", "[]"]),
        ("{path: x, source: y},{path: z}", ["{path: x, source: y}", "{path: z}"]),
        ("'a,b',c", ["'a,b'", "c"]),
        (r'"a,\",b",c', [r'"a,\",b"', "c"]),
        ("it's,that's", ["it's", "that's"]),
        ('a "quoted, b', ['a "quoted', "b"]),
        ("The whale,In mathematics", ["The whale", "In mathematics"]),
        ("http://host:5000/a,b", ["http://host:5000/a", "b"]),
        ("~,null,1", ["~", "null", "1"]),
        ("1_000,-2,+3,.5", ["1_000", "-2", "+3", ".5"]),
        ("a # and no more, b", ["a"]),
        ("none", ["none"]),
        ("", [""]),
        ("  ", [""]),
    ],
)
def test_values_are_split_at_commas_outside_brackets_braces_and_quotes(text: str, values: list[str]) -> None:
    assert split_values(text) == values


@given(st.lists(VALUES, min_size=1, max_size=5))
def test_any_values_written_as_json_come_back_one_by_one(values: list[object]) -> None:
    assert [
        yaml.safe_load(text)
        for text in split_values(", ".join(json.dumps(value, ensure_ascii=False) for value in values))
    ] == values


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1,", "ends with a comma"),
        ("[1],", "ends with a comma"),
        (",1", "is no list of values"),
        ("1,,2", "is no list of values"),
        ("a]", "is no list of values"),
        ("1], [2", "is no list of values"),
        ("[1", "is no list of values"),
        ('"a', "is no list of values"),
        ('"a"b', "is no list of values"),
        ("{a: 1", "is no list of values"),
        ("@a,b", "is no list of values"),
        ("a\0,b", "is no list of values"),
    ],
)
def test_what_is_no_list_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        split_values(text)


def grid(folder: Path, *overrides: str) -> list[Combination]:
    return read_grid(write_project(folder), overrides)[1]


def test_every_combination_is_a_recipe_of_its_own_the_last_field_varying_fastest(tmp_path: Path) -> None:
    found = grid(tmp_path, "finetune.learning_rate=1e-4,3e-4", "finetune.epochs=2", "dedup.bands=16,32")
    assert [c.label for c in found] == [
        "learning_rate=1e-4 bands=16",
        "learning_rate=1e-4 bands=32",
        "learning_rate=3e-4 bands=16",
        "learning_rate=3e-4 bands=32",
    ]
    made = [(c.recipe.finetune and c.recipe.finetune.learning_rate, c.recipe.dedup.bands) for c in found]
    assert made == [(1e-4, 16), (1e-4, 32), (3e-4, 16), (3e-4, 32)]
    assert {c.recipe.finetune.epochs for c in found if c.recipe.finetune} == {2}
    assert found[0].recipe.name == "tiny-learning_rate-1e-4-bands-16"


def test_fields_of_one_name_are_told_apart_by_their_sections(tmp_path: Path) -> None:
    found = grid(tmp_path, "pretrain.learning_rate=1e-3,2e-3", "finetune.learning_rate=1e-4,2e-4")
    assert found[3].label == "pretrain.learning_rate=2e-3 finetune.learning_rate=2e-4"
    assert len({c.recipe.name for c in found}) == 4


def test_a_list_may_be_one_of_the_values(tmp_path: Path) -> None:
    found = grid(tmp_path, 'evaluate.prompts=["a, b", "c"],["d"]')
    assert [c.recipe.evaluate.prompts for c in found] == [("a, b", "c"), ("d",)]
    names = [c.recipe.name for c in found]
    assert len(set(names)) == 2
    assert all(len(name) == len("tiny-") + 12 for name in names)  # a digest, where the values cannot stand in a name


def test_a_name_that_the_values_would_make_too_long_ends_in_a_digest(tmp_path: Path) -> None:
    found = grid(tmp_path, f"name={'n' * 48}", "finetune.learning_rate=1e-4,2e-4")
    assert [len(c.recipe.name) for c in found] == [48 + 1 + 12] * 2
    assert len({c.recipe.name for c in found}) == 2


def test_all_combinations_register_versions_of_the_same_models(tmp_path: Path) -> None:
    tracking = [c.recipe.tracking for c in grid(tmp_path, "dedup.bands=16,32")]
    assert {(t.registered_model, t.registered_language_model) for t in tracking} == {
        ("tiny-classifier", "tiny-language-model")
    }
    own = grid(tmp_path, "dedup.bands=16,32", "tracking.registered_model=topics")
    assert {c.recipe.tracking.registered_model for c in own} == {"topics"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "no field has several values"),
        (["dedup.bands=16"], "no field has several values"),
        (["dedup.bands=16,32", "dedup.bands=8"], r"dedup\.bands is given twice; list all its values at once"),
        (
            [f"pretrain.seed={','.join(map(str, range(40)))}", f"dedup.bands={','.join(map(str, range(1, 41)))}"],
            "1,600",
        ),
        (["dedup.bands=16,"], r"--set dedup\.bands=16,: 1 problem\(s\)\n  ends with a comma"),
        (["dedup.bands=16,many"], r'dedup\.bands: "many" is refused'),
        (["dedup.band=16,32"], "did you mean 'bands'"),
        (
            ["dedup.bands=16,32", "dedup.rows_per_band"],
            r"--set dedup\.rows_per_band: .*\n  write it as section\.field=",
        ),
    ],
)
def test_a_grid_that_cannot_be_run_is_refused_before_anything_starts(
    tmp_path: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        grid(tmp_path, *overrides)


def test_a_problem_of_all_combinations_is_told_once_and_of_several_each(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as refused:
        grid(tmp_path, "dedup.bands=0,-1", "dedup.rows_per_band=8,16")
    assert len(refused.value.problems) == 2
