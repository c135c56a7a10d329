"""Why a stage must run: which field or file differs, of the stage or of what it reads, with both values."""

import json
import shutil
from pathlib import Path

import pytest
from made_workspace import make_outputs, write_project
from typer.testing import CliRunner

from gpt_core.errors import RecipeError
from gpt_core.fingerprint import file_sha256
from gpt_core.recipe_file import load_recipe
from pipelines.cli import app
from pipelines.explain import Explanation, explain_stage, explanation_json
from pipelines.plan import make_plan, resolve_paths


@pytest.fixture
def project(tmp_path: Path) -> Path:
    path = write_project(tmp_path)
    make_outputs(path)
    return path


def explain(path: Path, stage: str, *overrides: str) -> Explanation:
    recipe = resolve_paths(load_recipe(path, overrides))
    return explain_stage(stage, make_plan(recipe), recipe)


def lines(found: Explanation) -> list[str]:
    return [str(difference) for difference in found.differences]


def test_a_stages_own_field_is_told_with_both_values_and_what_it_is_compared_with(project: Path) -> None:
    found = explain(project, "pretrain", "pretrain.learning_rate=0.5", "pretrain.seed=9")
    assert found.why == "differs"
    assert lines(found) == ["pretrain.learning_rate: 0.0006 -> 0.5", "pretrain.seed: 0 -> 9"]
    assert found.last is not None
    assert str(found).splitlines()[:2] == [
        "pretrain   must run: 2 difference(s) from the last result of recipe tiny",
        f"           {found.root}, made {found.last.created_at} on here",
    ]


def test_an_input_is_told_with_the_field_that_made_it_another_one_and_the_stage_that_has_it(project: Path) -> None:
    found = explain(project, "pretrain", "dedup.seed=5", "tokenizer.vocab_size=512")
    assert lines(found) == [
        "input shards: dedup.seed of dedup: 0 -> 5",
        "input shards: tokenizer.vocab_size of tokenizer: 32768 -> 512",
        "input tokenizer: dedup.seed of dedup: 0 -> 5",
        "input tokenizer: tokenizer.vocab_size: 32768 -> 512",
    ]
    assert explanation_json(found)["differences"][0] == {  # type: ignore[index,call-overload]
        "stage": "dedup",
        "through": ["shards", "dedup"],
        "section": "recipe",
        "field": "dedup.seed",
        "old": 0,
        "new": 5,
    }


def test_a_raw_file_is_told_by_its_name_and_checksums(project: Path) -> None:
    raw = project.with_name("b.jsonl")
    old = file_sha256(raw)
    raw.write_text('{"text": "Another one."}\n')
    new = file_sha256(raw)
    assert lines(explain(project, "clean")) == [f'corpus file b.jsonl, sha256: "{old}" -> "{new}"']
    assert lines(explain(project, "dedup")) == [f'input clean: corpus file b.jsonl, sha256: "{old}" -> "{new}"']


def test_an_input_whose_former_result_is_gone_is_told_by_its_fingerprint(project: Path) -> None:
    recipe = resolve_paths(load_recipe(project))
    former = {planned.stage.name: planned.output for planned in make_plan(recipe)}
    shutil.rmtree(former["dedup"])
    changed = resolve_paths(load_recipe(project, ["dedup.seed=5"]))
    now = {planned.stage.name: planned.output for planned in make_plan(changed)}
    assert lines(explain(project, "tokenizer", "dedup.seed=5")) == [
        f'input dedup: fingerprint (what made the former is gone): "{former["dedup"].name}" -> "{now["dedup"].name}"'
    ]


def test_what_is_whole_never_made_gone_or_damaged_is_said_to_be(project: Path) -> None:
    found = explain(project, "clean")
    assert (found.why, found.told) == ("whole", "whole: nothing differs from what recipe test made")
    never = explain(project, "clean", "name=other", "clean.min_language_score=0.5")
    assert (never.why, never.last, never.differences) == ("never made", None, [])
    assert found.root is not None
    (found.root / "part.parquet").write_text("cut short or not")
    damaged = explain(project, "clean")
    assert damaged.why == "damaged"
    assert "part.parquet: has 16 bytes, the manifest says 5" in damaged.told
    shutil.rmtree(found.root)
    assert explain(project, "clean").told == f"gone: recipe tiny made {found.root}, which is no more"


def test_the_last_result_is_found_where_links_do_not_exist(project: Path) -> None:
    folder = project.parent / "workspace" / "runs" / "tiny"
    outputs = {link.name: str(link.resolve()) for link in folder.iterdir()}
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "outputs.json").write_text(json.dumps(outputs))
    assert lines(explain(project, "dedup", "dedup.seed=5")) == ["dedup.seed: 0 -> 5"]


def test_the_command_line_explains_in_text_and_in_json_and_refuses_a_strange_stage(project: Path) -> None:
    change = ["--set", "dedup.seed=5"]
    shown = CliRunner().invoke(app, ["plan", str(project), "--explain", "dedup", *change])
    assert shown.output.splitlines()[-1] == "           dedup.seed: 0 -> 5"
    told = json.loads(CliRunner().invoke(app, ["plan", str(project), "--explain", "dedup", "--json", *change]).output)
    assert (told["stage"], told["why"], told["last"]["host"]) == ("dedup", "differs", "here")
    with pytest.raises(RecipeError, match=r"--explain: .*\n  nothing is no stage of this recipe; it has clean, dedup"):
        explain(project, "nothing")
