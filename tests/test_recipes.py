"""The recipes of the published runs: they plan as they stand, and train, made small."""

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from tiny_model import write_model
from typer.testing import CliRunner

from gpt_core.artifact import Artifact
from gpt_core.model.config import DecoderConfig
from gpt_core.recipe_file import load_recipe
from pipelines.checks import check_before_start
from pipelines.cli import app
from pipelines.plan import make_plan, resolve_paths
from tiny_project import environment
from tiny_training import finish, make_inputs, start_training

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "recipes"
STEPS, BATCH, CONTEXT = 20, 8, 32
SMALL = (
    "model.n_layer=2",
    "model.n_head=2",
    "model.n_embd=32",
    f"model.context_length={CONTEXT}",
    f"pretrain.batch_sequences={BATCH}",
    f"pretrain.tokens={STEPS * BATCH * CONTEXT}",
    f"pretrain.warmup_tokens={2 * BATCH * CONTEXT}",
    "pretrain.validate_every_steps=10",
    "cluster.train.processes=2",
    "cluster.train.threads_per_process=1",
)
PUBLISHED = {  # parameters and tokens of a step, as the papers and nanoGPT count them, our padded rows in
    "gpt1-117m": (116_413_440, 64 * 512),
    "gpt2-124m": (124_475_904, 480 * 1024),
    "modern-124m": (123_588_864, 480 * 1024),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_it_states_the_published_size_and_step(name: str) -> None:
    recipe = load_recipe(RECIPES / f"{name}.yaml", [])
    parameters, step_tokens = PUBLISHED[name]
    assert DecoderConfig.from_recipe(recipe.model, recipe.tokenizer.vocab_size).n_parameters == parameters
    assert recipe.step_tokens == step_tokens


@pytest.mark.parametrize("name", PUBLISHED)
def test_it_plans_as_it_stands(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    recipe = str(RECIPES / f"{name}.yaml")
    settings = [f"workspace={tmp_path}", "cluster.train.memory_bytes=80_000_000_000"]  # of one GPU
    told = CliRunner().invoke(app, ["plan", recipe, *(part for each in settings for part in ("--set", each))])
    assert told.exit_code == 0, told.output
    assert f"parameters      {PUBLISHED[name][0]:,}" in told.output


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In the place of models/gpt2, which everyone downloads for themselves."""
    return write_model(tmp_path_factory.mktemp("models") / "model")


def test_without_a_corpus_a_model_and_two_files_are_enough(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    recipe = load_recipe(RECIPES / "finetune-only.yaml")
    assert recipe.model_fields_set == {"name", "finetune"}
    assert recipe.finetune is not None
    assert recipe.finetune.model_fields_set == {"model", "train", "test"}
    resolved = resolve_paths(load_recipe(RECIPES / "finetune-only.yaml", [f"finetune.model={model}"]))
    plan = make_plan(resolved)
    assert [planned.stage.name for planned in plan] == ["finetune", "evaluate"]
    check_before_start(resolved, plan)


@pytest.mark.pipeline
def test_without_a_corpus_it_runs_to_the_report(model: Path, tmp_path: Path) -> None:
    small = ["max_examples=64", "epochs=1", "max_tokens=24", "from_scratch_baseline=false", "precision=fp32"]
    settings = [f"workspace={tmp_path}", f"finetune.model={model}", *(f"finetune.{each}" for each in small)]
    overrides = [part for setting in settings for part in ("--set", setting)]
    command = [sys.executable, "-m", "pipelines", "run", str(RECIPES / "finetune-only.yaml"), *overrides]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "made now   finetune, evaluate" in done.stdout
    assert re.search(r"test accuracy, fine-tuned +\d+\.\d%", done.stdout)
    assert "11 " in (tmp_path / "runs/finetune-only/report.html").read_text()
    for stage in ("finetune", "evaluate"):
        assert (tmp_path / "runs/finetune-only" / stage / "manifest.json").exists()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Artifact]:
    return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.mark.train
@pytest.mark.parametrize("name", PUBLISHED)
def test_made_small_it_trains_twenty_steps(name: str, inputs: Mapping[str, Artifact], tmp_path: Path) -> None:
    recipe = load_recipe(RECIPES / f"{name}.yaml", SMALL)
    output = tmp_path / "pretrain"
    manifest = finish(start_training("pretrain", output, recipe, inputs), output).manifest
    assert manifest.counts["steps"] == STEPS
    assert manifest.counts["skipped_steps"] == 0
    assert 0 < manifest.figures["validation_loss"] < 5.9  # ln 340 = 5.83 for random weights
