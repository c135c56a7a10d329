"""A recipe without a corpus: two stages, which begin with a model that stands already."""

import json
import shutil
from pathlib import Path

import pytest
from tiny_decoder import make_decoder
from tiny_model import CONTEXT, write_model
from typer.testing import CliRunner

from gpt_core.errors import InputError, UserError
from gpt_core.fingerprint import fingerprint
from gpt_core.model.hf import save_language_model
from gpt_core.recipe import Recipe
from gpt_core.recipe_file import load_recipe
from pipelines.checks import check_before_start, check_model
from pipelines.cli import app
from pipelines.doctor import Finding
from pipelines.doctor import _recipe_findings as examine_recipe
from pipelines.machine_checks import machine_findings
from pipelines.machines import check_machines
from pipelines.plan import make_plan, resolve_paths
from pipelines.training_plan import plan_training
from tiny_training import write_labels

STAGES = ["finetune", "evaluate"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model/, train.jsonl, test.jsonl and the shortest recipe."""
    folder = tmp_path_factory.mktemp("project")
    write_model(folder / "model")
    for split, seeds in (("train", range(20)), ("test", range(20, 24))):
        write_labels(folder / f"{split}.jsonl", seeds)
    (folder / "recipe.yaml").write_text("{name: it, finetune: {model: model, train: train.jsonl, test: test.jsonl}}\n")
    return folder


@pytest.fixture
def here(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(project)
    return project


def resolve(*overrides: str) -> Recipe:
    return resolve_paths(load_recipe(Path("recipe.yaml"), overrides))


def fingerprints(recipe: Recipe) -> dict[str, str]:
    return {planned.stage.name: fingerprint(planned.identity) for planned in make_plan(recipe)}


def copy_model(here: Path, folder: Path) -> Path:
    shutil.copytree(here / "model", folder)
    return folder


def test_the_shortest_recipe_has_two_stages_and_absolute_paths(here: Path) -> None:
    recipe = resolve()
    finetune, evaluate = make_plan(recipe)
    assert [finetune.stage.name, evaluate.stage.name] == STAGES
    assert (finetune.inputs, list(evaluate.inputs)) == ({}, ["finetune"])
    settings = recipe.finetune
    assert settings is not None
    paths = (settings.model, settings.train, settings.validation, settings.test)
    assert paths == (f"{here}/model", f"{here}/train.jsonl", None, f"{here}/test.jsonl")
    roles = {role: [entry["name"] for entry in entries] for role, entries in finetune.identity["files"].items()}
    assert roles == {
        "init": ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"],
        "train": ["train.jsonl"],
    }
    assert [*evaluate.identity["files"]] == ["test"]
    assert plan_training(recipe, make_plan(recipe)) is None
    check_before_start(recipe, make_plan(recipe))


def test_the_model_counts_by_its_bytes_and_not_by_its_place(here: Path, tmp_path: Path) -> None:
    copy = copy_model(here, tmp_path / "elsewhere")
    first = fingerprints(resolve())
    assert fingerprints(resolve(f"finetune.model={copy}")) == first
    for name in ("config.json", "tokenizer_config.json"):
        with (copy / name).open("a") as stream:
            stream.write(" ")
        changed = fingerprints(resolve(f"finetune.model={copy}"))
        assert [stage for stage in STAGES if changed[stage] != first[stage]] == STAGES
        first = changed


@pytest.mark.parametrize(
    ("change", "rerun"),
    [
        ("finetune.validation=test.jsonl", STAGES),
        ("finetune.train=test.jsonl", STAGES),
        ("finetune.validation_fraction=0.2", STAGES),
        ("finetune.test=train.jsonl", ["evaluate"]),
        ("pretrain.tokens=1_000_000", []),
        ("tokenizer.vocab_size=999", []),
    ],
)
def test_one_changed_field_reruns_exactly_what_reads_it(here: Path, change: str, rerun: list[str]) -> None:
    before, after = fingerprints(resolve()), fingerprints(resolve(change))
    assert [stage for stage in STAGES if before[stage] != after[stage]] == rerun


def test_a_folder_that_is_no_model_is_told_before_anything_starts(here: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"finetune\.model: .*/nowhere/config\.json: no such file"):
        make_plan(resolve("finetune.model=nowhere"))
    config = json.loads((here / "model/config.json").read_text())
    cases = [
        ("config.json", json.dumps(config | {"architectures": ["GPT2ForSequenceClassification"]}), "architectures is"),
        (
            "config.json",
            json.dumps(config | {"model_type": "llama"}),
            "model_type is 'llama'; this gptmill loads openai",
        ),
        (
            "config.json",
            json.dumps(config | {"activation_function": "relu"}),
            "activation_function is 'relu'; the decode",
        ),
        ("model.safetensors", "version https://git-lfs", r"finetune\.model: .* is not a safetensors file: "),
        ("tokenizer.json", "{}", r"finetune\.model: .*tokenizer\.json: is not a tokenizer: it has no model; give a"),
        (
            "tokenizer_config.json",
            '{"eos_token": "</s>"}',
            r"finetune\.model: .* has no special token '</s>'; .*; name",
        ),
    ]
    for number, (name, text, message) in enumerate(cases):
        folder = copy_model(here, tmp_path / str(number))
        (folder / name).write_text(text)
        recipe = resolve(f"finetune.model={folder}")
        with pytest.raises(InputError, match=message):
            check_before_start(recipe, make_plan(recipe))


def test_a_tokenizer_or_a_length_that_the_model_has_no_room_for_is_refused(here: Path, tmp_path: Path) -> None:
    folder = copy_model(here, tmp_path / "small")
    save_language_model(make_decoder("gpt2", vocab_size=100, context_length=CONTEXT), folder)
    with pytest.raises(InputError, match=r"finetune\.model: .*: its tokenizer has 313 tokens, but the model 128 rows"):
        check_model(resolve(f"finetune.model={folder}"))
    check_model(resolve(f"finetune.max_tokens={CONTEXT}"))
    with pytest.raises(UserError, match=r"finetune\.max_tokens=65 exceeds the context of finetune\.model, 64"):
        check_model(resolve("finetune.max_tokens=65"))


def test_a_bad_row_is_told_with_its_line_before_anything_starts(here: Path, tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text("text,label\na ship,sea\na cloud,sky\n")
    recipe = resolve(f"finetune.test={tmp_path}/test.csv")
    with pytest.raises(InputError, match=r"test\.csv:3: the label 'sky' is none of the training split's: land, sea"):
        check_before_start(recipe, make_plan(recipe))


def invoke(*arguments: str) -> str:
    """What the command prints, or what it says as it refuses."""
    done = CliRunner().invoke(app, arguments)
    if isinstance(done.exception, UserError):
        return f"error: {done.exception}"
    assert done.exit_code == 0, done.output
    return done.output


def test_every_command_works_or_says_that_there_is_no_corpus(here: Path, tmp_path: Path) -> None:
    recipe = ("recipe.yaml", "--set", f"workspace={tmp_path}")
    assert [row["stage"] for row in json.loads(invoke("plan", *recipe, "--json"))] == STAGES
    assert invoke("status", *recipe) == "".join(f"{stage:<10} not made: never made\n" for stage in STAGES)
    told = "error: the recipe has no corpus, and so no {}; it fine-tunes finetune.model as it stands"
    assert invoke("shards", "stats", *recipe) == told.format("shards")
    assert invoke("shards", "verify", *recipe) == told.format("shards")
    assert invoke("shards", "push", recipe[0], "s3://bucket/x", *recipe[1:]) == told.format("shards")
    assert invoke("shards", "show", *recipe, "--document", "x") == told.format("dedup")
    assert invoke("shards", "trace", *recipe, "--sample", "0") == told.format("dedup")
    assert "pretrain is no stage of this recipe; it has finetune, evaluate" in invoke(
        "plan", *recipe, "--only", "pretrain"
    )
    assert "no stage is made yet" in invoke("report", *recipe)


def test_the_doctor_asks_for_no_java_and_looks_at_the_model(here: Path, tmp_path: Path) -> None:
    java = next(it for it in machine_findings(needs_java=False, needs_page=False, train=None) if it.subject == "java")
    assert java == Finding("java", True, "not needed: no corpus")
    for model, told in (("model", "can be fine-tuned"), ("nowhere", "config.json: cannot be read")):
        recipe = resolve(f"workspace={tmp_path}/w", f"finetune.model={model}")
        found = next(it for it in examine_recipe(recipe) if it.subject == "model")
        assert found.well == (model == "model")
        assert told in found.text


def test_only_the_batch_that_is_trained_must_fit_the_machines(here: Path) -> None:
    """pretrain.batch_sequences, which nobody reads, is a multiple of neither 3 ranks nor 5 machines."""
    ranks = "{processes: 3, nodes: 5, min_nodes: 4, max_restarts: 1, rendezvous: 'localhost:29400'}"
    recipe = resolve("finetune.batch_sequences=60", f"cluster.train={ranks}")
    with pytest.raises(UserError, match="which no other can reach"):  # the last check: the loopback
        check_machines(recipe)
