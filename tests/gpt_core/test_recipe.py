"""The recipe refuses what cannot be, field by field, and says the way out."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from gpt_core.errors import RecipeError
from gpt_core.recipe import C4, Classifier, Fields, FineWeb, LineDedup, MixtureSource, Pii, Recipe, UrlRules
from gpt_core.recipe_file import load_recipe, parse_recipe

DEMO = Path(__file__).parents[2] / "recipes" / "demo.yaml"


def resolved_demo() -> dict[str, Any]:
    """Every field of the demo, defaults written out, with every section that it leaves out."""
    tree = load_recipe(DEMO).model_dump(mode="json")
    tree["corpus"]["inputs"][0]["fields"] = Fields().model_dump(mode="json")
    tree["clean"] |= {
        "url": UrlRules().model_dump(mode="json"),
        "c4": C4().model_dump(mode="json"),
        "fineweb": FineWeb().model_dump(mode="json"),
        "classifier": Classifier(model="model.bin").model_dump(mode="json"),
        "pii": Pii().model_dump(mode="json"),
    }
    tree["pretrain"]["mixture"] = {"novels": MixtureSource(weight=1).model_dump(mode="json")}
    tree["dedup"]["lines"] = LineDedup().model_dump(mode="json")
    return tree


def paths_in(tree: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(tree, dict):
        return [path for key, value in tree.items() for path in [(*prefix, key), *paths_in(value, (*prefix, key))]]
    if isinstance(tree, list):
        return [path for i, value in enumerate(tree) for path in [(*prefix, i), *paths_in(value, (*prefix, i))]]
    return []


def look(tree: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def put(tree: Any, path: tuple[Any, ...], value: Any) -> Any:
    copy = json.loads(json.dumps(tree))
    look(copy, path[:-1])[path[-1]] = value
    return copy


ALL_FIELDS = paths_in(resolved_demo())
BY_NAME = {("clean", "min_language_scores"), ("pretrain", "mixture")}  # their keys are languages and sources
SECTIONS = [(), *(p for p in ALL_FIELDS if isinstance(look(resolved_demo(), p), dict) and p not in BY_NAME)]


@pytest.mark.parametrize("path", ALL_FIELDS, ids=lambda path: ".".join(map(str, path)))
def test_every_field_of_the_demo_refuses_a_value_of_another_type(path: tuple[Any, ...]) -> None:
    with pytest.raises(RecipeError) as refusal:
        parse_recipe(put(resolved_demo(), path, {"neither": ["this", "nor that"]}), origin="demo")
    assert ".".join(map(str, path)) in str(refusal.value)


@pytest.mark.parametrize("path", SECTIONS, ids=lambda path: ".".join(map(str, path)) or "top")
def test_every_section_of_the_demo_refuses_an_unknown_key(path: tuple[Any, ...]) -> None:
    tree = resolved_demo()
    look(tree, path)["no_such_key"] = 1
    with pytest.raises(RecipeError, match=r"no_such_key: unknown field; .*allowed: "):
        parse_recipe(tree, origin="demo")


def bounded_fields(model: type[BaseModel], prefix: str = "") -> list[tuple[str, Any]]:
    """(path, a value just outside) for every bound in the JSON schema."""
    schema = model.model_json_schema()

    def walk(node: dict[str, Any], path: str) -> list[tuple[str, Any]]:
        if "$ref" in node:
            return walk(schema["$defs"][node["$ref"].rsplit("/", 1)[1]], path)
        found = [hit for option in node.get("anyOf", []) for hit in walk(option, path)]
        found += [hit for key, child in node.get("properties", {}).items() for hit in walk(child, f"{path}.{key}")]
        outside = {
            "minimum": lambda bound: bound - 1,
            "maximum": lambda bound: bound + 1,
            "exclusiveMinimum": lambda bound: bound,
            "exclusiveMaximum": lambda bound: bound,
            "minLength": lambda _: "",
            "pattern": lambda _: "?",
            "enum": lambda _: "no such choice",
        }
        return found + [(path.lstrip("."), make(node[bound])) for bound, make in outside.items() if bound in node]

    return walk(schema, prefix)


@pytest.mark.parametrize(("path", "value"), bounded_fields(Recipe), ids=lambda value: str(value))
def test_every_bound_is_held_at_its_edge(path: str, value: Any) -> None:
    tree = put(resolved_demo(), tuple(path.split(".")), value)
    with pytest.raises(RecipeError) as refusal:
        parse_recipe(tree, origin="demo")
    assert f"{path}: " in str(refusal.value)
    assert "is refused" in str(refusal.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.n_head=3"], r"model.n_embd=\d+ must be a multiple of model.n_head=3"),
        (["model.architecture=gpt2", "model.n_kv_head=2"], "needs model.architecture: qwen3"),
        (["model.architecture=gpt1", "model.n_inner=100"], "model.n_inner=100 must be 4 x model.n_embd"),
        (
            ["model.architecture=qwen3", "model.n_embd=12", "model.n_head=4", "model.dropout=0.0"],
            "must be even for rotary",
        ),
        (["model.architecture=qwen3", "model.dropout=0.1"], "model.dropout=0.1 must be 0"),
        (["pretrain.tokens=10"], "less than one step"),
        (["pretrain.warmup_tokens=999999999"], "exceeds pretrain.tokens"),
        (["pretrain.batch_sequences=15"], "must be a multiple of cluster.train.processes=2"),
        (["finetune.batch_sequences=15"], "finetune.batch_sequences=15 must be a multiple"),
        (["finetune.task=completion", "finetune.trainable=head"], "finetune.trainable=head is not for .* has no head"),
        (["pretrain.mixture={}"], r"pretrain\.mixture: no source has a weight > 0; give one, or leave the mixture out"),
        (["pretrain.mixture={a: {weight: 0}}"], r"pretrain\.mixture: no source has a weight > 0"),
        (
            ["pretrain.mixture={a: {weight: 1}, b: {weight: 0.0001}}"],
            r"pretrain\.mixture\.b\.weight=0\.0001 is less than 1/5000 of all weights, 1\.0001; raise it, or leave",
        ),
        (["finetune.max_tokens=100000"], "exceeds model.context_length"),
        (["tokenizer.special_tokens=[<a>, <b>, <a>]"], "special_tokens: '<a>' is given twice; name every token once"),
        (
            ["tokenizer.special_tokens=[<a>]", "tokenizer.end_of_text=<a>"],
            r"tokenizer\.special_tokens: '<a>' is tokenizer\.end_of_text; name every token once",
        ),
        (
            ["tokenizer.special_tokens=[<a>, <b>]", "tokenizer.vocab_size=258"],
            r"tokenizer\.vocab_size=258 must be at least 259: 256 bytes, 2 special tokens and the end of text",
        ),
        (
            ["tokenizer.path=t"],
            r"tokenizer\.vocab_size is given beside tokenizer\.path='t', whose files say all but end_of_text; "
            "leave out vocab_size and sample_bytes, or the path to learn a tokenizer",
        ),
    ],
)
def test_impossible_pairs_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(DEMO, overrides)


def test_a_misspelt_key_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(RecipeError, match=r"pretrain\.learning_rat: unknown field; did you mean 'learning_rate'\?"):
        load_recipe(DEMO, ["pretrain.learning_rat=1"])


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(RecipeError) as refusal:
        load_recipe(DEMO, ["pretrain.beta1=2", "shards.seed=-1", "name=''"])
    assert len(refusal.value.problems) == 3


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        ("{a: {weight: -1}}", r"pretrain\.mixture\.a\.weight: -1 is refused"),
        ("{a: {}}", r"pretrain\.mixture\.a\.weight: is required and missing"),
        ("{a: {weight: 1, max_epochs: 0}}", r"pretrain\.mixture\.a\.max_epochs: 0 is refused"),
        ("{a: {wieght: 1}}", r"pretrain\.mixture\.a\.wieght: unknown field; did you mean 'weight'\?"),
        ("{'': {weight: 1}}", r"pretrain\.mixture\."),
    ],
)
def test_a_source_of_the_mixture_is_refused_by_its_name(mixture: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(DEMO, [f"pretrain.mixture={mixture}"])


def test_a_missing_section_is_named(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("name: x\n")
    with pytest.raises(RecipeError, match="corpus: is required and missing"):
        load_recipe(tmp_path / "r.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", r"line \d+, column \d+"),
        ("name: a\nname: b", "key 'name' is given twice"),
        ("- a", "not a mapping of sections"),
    ],
)
def test_broken_yaml_is_refused_where_it_breaks(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(RecipeError, match=message):
        load_recipe(tmp_path / "r.yaml")


def test_bytes_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_bytes(b"name: \xff")
    with pytest.raises(RecipeError, match="is not UTF-8 at byte 6"):
        load_recipe(tmp_path / "r.yaml")


def test_a_recipe_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read: No such file"):
        load_recipe(tmp_path / "none.yaml")


@pytest.mark.parametrize("override", ["pretrain.seed", "=1", "a..b=1"])
def test_a_malformed_override_is_refused(override: str) -> None:
    with pytest.raises(RecipeError, match=r"write it as section\.field=value"):
        load_recipe(DEMO, [override])


def test_scalars_mean_what_yaml_1_2_says(tmp_path: Path) -> None:
    recipe = load_recipe(DEMO, ["pretrain.learning_rate=3e-4", "clean.languages=[no, en]", "pretrain.tokens=2_000_000"])
    assert recipe.pretrain.learning_rate == 0.0003
    assert recipe.clean.languages == ("no", "en")
    assert recipe.pretrain.tokens == 2_000_000


@pytest.mark.parametrize("value", [".inf", ".nan", "-.inf"])
def test_infinities_are_refused(value: str) -> None:
    with pytest.raises(RecipeError, match=r"pretrain\.learning_rate"):
        load_recipe(DEMO, [f"pretrain.learning_rate={value}"])


def test_a_resolved_recipe_reads_back_as_itself(tmp_path: Path) -> None:
    recipe = load_recipe(DEMO)
    (tmp_path / "r.json").write_text(recipe.model_dump_json())
    assert load_recipe(tmp_path / "r.json") == recipe


@pytest.mark.parametrize(
    "given", [{"vocab_size": 300}, {"min_frequency": 2}, {"sample_bytes": 1}, {"special_tokens": []}]
)
def test_what_is_learned_is_refused_beside_an_existing_tokenizer(given: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=rf"tokenizer\.{next(iter(given))} is given beside tokenizer\.path='t'"):
        parse_recipe({**resolved_demo(), "tokenizer": {"path": "t", **given}}, origin="demo")


def test_a_resolved_recipe_with_an_existing_tokenizer_reads_back_as_itself(tmp_path: Path) -> None:
    recipe = load_recipe(DEMO, ["tokenizer={path: t, end_of_text: </s>}"])
    assert recipe.tokenizer.model_dump() == {"path": "t", "end_of_text": "</s>"}
    (tmp_path / "r.json").write_text(recipe.model_dump_json())
    assert load_recipe(tmp_path / "r.json") == recipe


def test_every_field_has_a_description() -> None:
    schema = Recipe.model_json_schema()
    bare = [
        f"{name}.{field}"
        for name, section in [("Recipe", schema), *schema["$defs"].items()]
        for field, facts in section["properties"].items()
        if "description" not in facts and "$ref" not in facts
    ]
    assert bare == []


def test_every_recipe_of_the_project_is_valid() -> None:
    for path in DEMO.parent.glob("*.yaml"):
        assert load_recipe(path).name == path.stem
        assert yaml.safe_load(path.read_text())


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("http://host/x", "is no s3://bucket/folder, gs://bucket/folder or file:///folder"),
        ("bucket/x", "is no s3://bucket/folder"),
        ("s3:///x", "names no bucket; write s3://bucket/folder"),
        ("file://folder/x", "is no absolute folder; write file:///folder"),
        ("s3://key:hush@bucket/x", "leave out user:password@, port and query: credentials and the endpoint come from"),
        ("s3://key:hu/sh@bucket/x", "leave out user:password@"),
        ("s3://hush@bucket/x", "leave out user:password@"),
        ("s3://bucket/x?secret=hush", "leave out user:password@, port and query"),
    ],
)
def test_a_place_for_copies_is_a_folder_without_a_secret(uri: str, problem: str) -> None:
    with pytest.raises(RecipeError) as error:
        parse_recipe(put(resolved_demo(), ("cluster", "train", "shards_from"), uri), origin="r")
    assert "cluster.train.shards_from: " in str(error.value)
    assert problem in str(error.value)
    assert "hush" not in str(error.value)


@pytest.mark.parametrize("uri", ["s3://bucket", "s3://bucket/a/b/", "gs://bucket/x", "file:///mnt/x"])
def test_a_place_for_copies_is_taken_as_it_is(uri: str) -> None:
    recipe = parse_recipe(put(resolved_demo(), ("cluster", "train", "shards_from"), uri), origin="r")
    assert recipe.cluster.train.shards_from == uri
