from pathlib import Path

import pytest

from gpt_core.recipe import Recipe
from gpt_core.recipe_file import load_recipe, parse_recipe
from gpt_core.report.recipe_text import recipe_yaml

DEMO = Path(__file__).parents[3] / "recipes" / "demo.yaml"
ODD = {
    "name": "1e5",
    "corpus": {"inputs": [{"path": "a b, [c].jsonl", "source": "no"}]},
    "clean": {"languages": ["no", "en"], "gopher_repetition": None},
    "tokenizer": {"path": "a b/tokenizer.json", "end_of_text": "</s>"},
    "evaluate": {"prompts": ['say "so": #1', "\u96ea \n", "null", "3e-4", "- x"]},
    "pretrain": {"learning_rate": 3e-4, "eps": 1e-12},
    "finetune": {"train": "t", "validation": "v", "test": "{x}"},
}


@pytest.mark.parametrize("recipe", [load_recipe(DEMO), parse_recipe(ODD, origin="a test")], ids=["demo", "odd"])
@pytest.mark.parametrize("decisions_only", [True, False])
def test_the_yaml_reads_back_to_the_same_recipe(recipe: Recipe, decisions_only: bool, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe_yaml(recipe, decisions_only=decisions_only), encoding="utf-8")
    assert load_recipe(path) == recipe


def test_decisions_are_the_fields_that_differ_from_their_defaults() -> None:
    tree = {"name": "x", "corpus": {"inputs": [{"path": "a"}]}, "dedup": {"bands": 14, "seed": 7}}
    yaml = recipe_yaml(parse_recipe(tree, origin="a test"), decisions_only=True)
    assert yaml == "name: x\ncorpus:\n  inputs:\n    - {path: a}\ndedup:\n  seed: 7\n"
