"""A recipe that takes a tiny corpus through all seven stages, with every engine, in a minute; and how to run it."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from gpt_core.artifact import Artifact, open_artifact
from gpt_core.recipe_file import load_recipe
from pipelines.plan import PlannedStage, make_plan, resolve_paths

ROOT = Path(__file__).parents[1]

RECIPE = """
name: tiny
corpus: {inputs: [{path: CORPUS}]}
clean: {gopher_quality: {min_words: 20}}
tokenizer: {vocab_size: 512, sample_bytes: 1_000_000}
shards: {validation_fraction: 0.1}
model: {n_layer: 2, n_head: 2, n_embd: 32, context_length: 64}
pretrain:
  tokens: 40_960
  batch_sequences: 8
  learning_rate: 3e-3
  warmup_tokens: 5_000
  validate_every_steps: 20
  validation_tokens: 4_000
  precision: fp32
finetune: {train: TRAIN, validation: VALIDATION, test: TEST, epochs: 1, batch_sequences: 16, precision: fp32}
evaluate: {prompts: [The], sample_tokens: 8}
cluster:
  spark: {master: "local[2]", driver_memory: 1g, partitions: 2}
  ray: {cpus: 2, object_store_bytes: 100_000_000}
  train: {processes: 2, zero_stage: 2, checkpoint_every_steps: 10, threads_per_process: 1}
"""


@dataclass(frozen=True)
class Project:
    """A folder with a recipe; its workspace is wherever a test says."""

    recipe: Path

    def command(self, verb: str, workspace: Path, *arguments: str) -> list[str]:
        recipe = [str(self.recipe), "--set", f"workspace={workspace}"]
        return [sys.executable, "-m", "pipelines", verb, *recipe, *arguments]

    def start(self, workspace: Path, *arguments: str) -> "subprocess.Popen[str]":
        command = self.command("run", workspace, *arguments)
        return subprocess.Popen(
            command,
            cwd=self.recipe.parent,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, workspace: Path, *arguments: str) -> str:
        process = self.start(workspace, *arguments)
        out, err = process.communicate()
        assert process.returncode == 0, out + err
        return out

    def plan(self, workspace: Path) -> dict[str, PlannedStage]:
        recipe = resolve_paths(load_recipe(self.recipe, [f"workspace={workspace}"]))
        return {planned.stage.name: planned for planned in make_plan(recipe)}

    def artifact(self, workspace: Path, stage: str) -> Artifact:
        artifact = open_artifact(self.plan(workspace)[stage].output)
        assert artifact is not None, f"{stage} is not whole"
        return artifact


def environment() -> dict[str, str]:
    """This one's, with the project importable from anywhere and no tracking server of somebody else's."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "GPTMILL_"))}
    return {**ours, "PYTHONPATH": str(ROOT)}
