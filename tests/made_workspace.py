"""A workspace as a run leaves it: the plan's own outputs, with real manifests over made-up files; no engine starts."""

import json
from pathlib import Path

from stage_output import write_output

from gpt_core.artifact import Artifact, write_atomically
from gpt_core.recipe import Recipe
from gpt_core.recipe_file import load_recipe
from pipelines.plan import make_plan, resolve_paths

RECIPE = """
name: tiny
workspace: WORKSPACE
corpus: {inputs: [{path: FOLDER/a.jsonl}, {path: FOLDER/b.jsonl}]}
finetune: {train: FOLDER/train.jsonl, validation: FOLDER/validation.jsonl, test: FOLDER/test.jsonl}
"""
FILES = {
    "pretrain": {"model/model.safetensors": "pre-trained", "model/tokenizer.json": "{}"},
    "finetune": {"model/model.safetensors": "fine-tuned", "scratch/model.safetensors": "from scratch"},
    "tokenizer": {"tokenizer.json": "{}"},
    "shards": {"train/shard-00000.arrow": "tokens"},
}
FIGURES = {"finetune": {"validation_accuracy": 0.75}, "evaluate": {"test_accuracy": 0.7, "validation_loss": 3.0}}


def write_project(folder: Path) -> Path:
    """Raw files, labels and a recipe, whose workspace is `folder`/workspace. Returns the recipe's path."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("a", "b"):
        (folder / f"{name}.jsonl").write_text(json.dumps({"text": f"The text of {name}."}) + "\n")
    for split in ("train", "validation", "test"):
        rows = [{"text": f"{split} {label}", "label": label} for label in ("no", "yes")]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = folder / "tiny.yaml"
    path.write_text(RECIPE.replace("FOLDER", str(folder)).replace("WORKSPACE", str(folder / "workspace")))
    return path


def make_outputs(path: Path, *overrides: str) -> tuple[Recipe, dict[str, Artifact]]:
    """Every stage of the recipe is whole; those that were not yet are linked from runs/{name}."""
    recipe = resolve_paths(load_recipe(path, overrides))
    made: dict[str, Artifact] = {}
    for planned in make_plan(recipe):
        stage = planned.stage.name
        if planned.artifact is not None:
            made[stage] = planned.artifact
            continue
        for name, text in FILES.get(stage, {"part.parquet": stage}).items():
            write_atomically(planned.output / name, text)
        made[stage] = write_output(
            planned.output, stage, identity=planned.identity, inputs=planned.inputs, figures=FIGURES.get(stage)
        )
        write_atomically(planned.output / "recipe.json", recipe.model_dump_json())
        link = Path(recipe.workspace) / "runs" / recipe.name / stage
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(planned.output)
    return recipe, made
