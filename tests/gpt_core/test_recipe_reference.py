import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from gpt_core.recipe import Recipe
from gpt_core.recipe_file import _Loader
from gpt_core.recipe_reference import recipe_json_schema, recipe_markdown

ROOT = Path(__file__).parents[2]


def test_docs_recipe_md_is_the_reference_of_this_recipe() -> None:
    committed = (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8")
    assert committed == recipe_markdown(), "write it anew: gptmill schema --markdown > docs/recipe.md"


def test_every_field_has_a_row_under_its_section() -> None:
    sections = recipe_markdown().split("\n## ")
    for name, field in Recipe.model_fields.items():
        if isinstance(field.default, (str, int)) or name == "name":
            assert f"| `{name}` |" in sections[0]
            continue
        (section,) = [text for text in sections if text.startswith(f"`{name}`\n")]
        values = getattr(Recipe.model_fields[name].annotation, "model_fields", {})
        assert [key for key in values if f"| `{key}` |" not in section and f"`{name}.{key}`" not in section] == []


@pytest.mark.parametrize(
    "row",
    [
        "| `learning_rate` | number | `6.25e-05` | > 0 | Peak learning rate. |",
        "| `vocab_size` | integer | `32_768` | >= 257, <= 1_000_000 | Tokens, special ones in. |",
        "| `architecture` | `gpt1` or `gpt2` or `qwen3` | `gpt2` |  | Which block. |",
        "| `inputs` | list of sections | required |  | Where the raw documents are. |",
        "| `gopher_quality` | section or null | see below |  | Quality statistics; presets: gopher, fineweb. |",
        "| `mixture` | section by name or null | null |  | Shares of the training tokens by source; "
        "default: every source as large as it is. |",
        "| `seed` | integer | `0` | >= 0, < 2^63 | Seed of the permutations. |",
        '| `end_of_text` | string | `"<\\|endoftext\\|>"` | not empty | The token that closes every document. |',
    ],
)
def test_a_row_says_type_default_bounds_and_meaning(row: str) -> None:
    assert row in recipe_markdown().splitlines()


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.name)
def test_the_schema_accepts_every_recipe(path: Path) -> None:
    recipe = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506  a SafeLoader
    jsonschema.validate(recipe, recipe_json_schema(), cls=jsonschema.Draft202012Validator)


@pytest.mark.parametrize(
    "change", [{"pretrain": {"lr": 1}}, {"dedup": {"bands": 0}}, {"model": {"architecture": "gpt9"}}, {"name": ""}]
)
def test_the_schema_refuses_what_gptmill_refuses(change: dict[str, object]) -> None:
    recipe = {"name": "x", "corpus": {"inputs": [{"path": "a"}]}, **change}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(recipe, recipe_json_schema(), cls=jsonschema.Draft202012Validator)


def test_the_schema_is_json_with_a_dialect() -> None:
    assert json.loads(json.dumps(recipe_json_schema()))["$schema"].endswith("2020-12/schema")
