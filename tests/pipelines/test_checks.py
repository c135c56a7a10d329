"""What can be known before anything starts is said before anything starts."""

import json
from pathlib import Path

import pytest
from stage_output import write_output

from gpt_core.data.push import push_output
from gpt_core.errors import InputError, RecipeError, SetupError, UserError
from gpt_core.model.config import DecoderConfig
from gpt_core.model.decoder import Decoder
from gpt_core.model.hf import save_language_model
from gpt_core.recipe_file import load_recipe
from pipelines.checks import check_before_start, check_labels, prepare_workspace, require_inputs, require_shards
from pipelines.plan import make_plan, resolve_paths

ROOT = Path(__file__).parents[2]


def demo(tmp_path: Path, *overrides: str):
    return resolve_paths(load_recipe(ROOT / "recipes/demo.yaml", [f"workspace={tmp_path}/w", *overrides]))


@pytest.fixture(autouse=True)
def in_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_the_demo_passes_every_check(tmp_path: Path) -> None:
    recipe = demo(tmp_path)
    check_before_start(recipe, make_plan(recipe))


def test_a_bad_label_is_told_with_its_line_before_the_first_stage(tmp_path: Path) -> None:
    rows = [{"text": "a", "label": "People"}, {"text": "b", "label": "Poeple"}]
    (tmp_path / "validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match=r"validation\.jsonl:2: the label 'Poeple' is none of the training split's"):
        check_labels(demo(tmp_path, f"finetune.validation={tmp_path}/validation.jsonl"))


def test_a_tokenizer_that_cannot_be_used_is_told_before_the_first_stage(tmp_path: Path) -> None:
    recipe = demo(tmp_path, "tokenizer.special_tokens=[pad]")
    with pytest.raises(UserError, match=r"tokenizer\.special_tokens='pad' could be a token of text; take a mark"):
        check_before_start(recipe, make_plan(recipe))
    (tmp_path / "tokenizer.json").write_text("{}")
    recipe = demo(tmp_path, f"tokenizer={{path: {tmp_path}/tokenizer.json}}")
    with pytest.raises(InputError, match=r"tokenizer\.path: .*/tokenizer\.json: is not a tokenizer: it has no model"):
        check_before_start(recipe, make_plan(recipe))


def test_a_model_to_go_on_from_of_another_shape_is_told_before_the_first_stage(tmp_path: Path) -> None:
    decoder = Decoder(DecoderConfig("gpt2", 256, 2, 4, 4, 32, 128, 24, 0.0, 10_000.0))
    save_language_model(decoder, tmp_path / "model")
    recipe = demo(tmp_path, f"pretrain.init_from={tmp_path}/model", "model.architecture=gpt2")
    with pytest.raises(RecipeError, match=rf"init_from={tmp_path}/model: (?s:.*)\n  model\.n_embd: 128, but 32 in the"):
        check_before_start(recipe, make_plan(recipe))


def test_without_java_nothing_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = demo(tmp_path)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(SetupError, match="openjdk-17"):
        check_before_start(recipe, make_plan(recipe))


def test_a_stage_alone_needs_its_inputs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="dedup: its input clean is not made yet; run with --until dedup"):
        require_inputs(make_plan(demo(tmp_path), only="dedup"))


def test_shards_are_looked_for_in_their_copy_before_anything_starts(tmp_path: Path) -> None:
    recipe = demo(tmp_path, f"cluster.train.shards_from=file://{tmp_path}/copies")
    with pytest.raises(UserError, match=r"shards_from: .*: the shards are not made yet; run with --until shards, then"):
        require_shards(recipe, make_plan(recipe))
    require_shards(recipe, make_plan(recipe, until="shards"))  # that way out is open

    (shards,) = [planned for planned in make_plan(recipe) if planned.stage.name == "shards"]
    (shards.output / "train").mkdir(parents=True)
    (shards.output / "train" / "shard-00000.arrow").write_text("tokens")
    artifact = write_output(shards.output, "shards", identity=shards.identity)
    with pytest.raises(InputError, match="no whole copy of the shards is there; make one: gptmill shards push"):
        require_shards(recipe, make_plan(recipe))
    push_output(artifact, f"file://{tmp_path}/copies", report=lambda *_: None)
    require_shards(recipe, make_plan(recipe))


def test_a_workspace_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w").write_text("in the way")
    with pytest.raises(SetupError, match=r"workspace: .*/w: file exists; set `workspace:`"):
        prepare_workspace(tmp_path / "w")
