"""What is checked before anything starts, so that nobody learns after hours what was known at once."""

import os
from collections.abc import Sequence
from pathlib import Path

from gpt_core.errors import InputError, SetupError, UserError
from gpt_core.model.hf_config import LANGUAGE_MODEL, WEIGHTS, read_config, require_shape
from gpt_core.recipe import Recipe
from jobs.launch.slurm import check_slurm
from pipelines.java import java_problem
from pipelines.machines import check_machines
from pipelines.plan import PlannedStage
from pipelines.training_plan import plan_training, require_memory


def check_before_start(recipe: Recipe, plan: Sequence[PlannedStage]) -> None:
    """The inputs of what will run are there; all that it needs can be used.

    That is Java, Ray's Jobs API, Slurm, the machines that train, the tokenizer, the labels, the model to fine-tune and
    the remote shards.
    Raises UserError where not, and ArtifactError for a copy of the shards that is not whole.
    """
    require_inputs(plan)
    waiting = [planned for planned in plan if planned.action == "run"]
    if any(planned.stage.engine == "spark" for planned in waiting):
        require_java()
    if any(planned.stage.name == "tokenizer" for planned in waiting):
        check_tokenizer(recipe)
    if any(planned.stage.engine == "ray" for planned in waiting):
        check_ray_jobs(recipe)
    if any(planned.stage.name == "pretrain" for planned in waiting) and recipe.pretrain.init_from is not None:
        require_shape(recipe.model, Path(recipe.pretrain.init_from))
    if waiting:
        check_slurm(recipe)
    if any(planned.stage.engine == "deepspeed" for planned in waiting):
        check_machines(recipe)
    if any(planned.stage.name in ("finetune", "evaluate") for planned in waiting):
        check_labels(recipe)
        check_model(recipe)
    require_shards(recipe, plan)
    training = plan_training(recipe, plan)
    if training is not None:
        require_memory(training)


def prepare_workspace(workspace: Path) -> None:
    """`workspace` is a folder that can be written. Raises SetupError that says why not."""
    probe = workspace / f".write-{os.getpid()}"
    try:
        workspace.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        reason = (error.strerror or "refused").lower()
        raise SetupError(f"workspace: {workspace}: {reason}; set `workspace:` to a folder you can write") from None


def check_tokenizer(recipe: Recipe) -> None:
    """An existing tokenizer can be taken over, and no text can spell a special token. Raises UserError where not."""
    from gpt_core.tokenizer.existing import adopt_tokenizer  # tokenizers
    from gpt_core.tokenizer.train import require_marks

    settings = recipe.tokenizer
    if settings.path is None:
        require_marks(settings)
    else:
        adopt_tokenizer(Path(settings.path), end_of_text=settings.end_of_text)


def check_labels(recipe: Recipe) -> None:
    """Every labelled row can be read and training saw its label. Raises InputError with file and line."""
    from gpt_core.tasks.labelled import read_splits  # numpy

    if recipe.finetune is not None:
        read_splits(recipe.finetune)


def check_model(recipe: Recipe) -> None:
    """The model that finetune.model names, if any, can be loaded, and its tokenizer used. Raises UserError where not.

    Of the weights the header alone is read.
    """
    settings = recipe.finetune
    if settings is None or settings.model is None:
        return
    from safetensors import SafetensorError, safe_open

    from gpt_core.tokenizer.existing import open_model_tokenizer  # tokenizers

    folder = Path(settings.model)
    config, _ = read_config(folder, LANGUAGE_MODEL)
    try:
        safe_open(folder / WEIGHTS, framework="numpy")
    except (OSError, SafetensorError) as error:
        raise InputError(f"finetune.model: {folder / WEIGHTS}: is not a safetensors file: {error}") from None
    tokenizer = open_model_tokenizer(folder, field="finetune.model")
    if tokenizer.vocab_size > config.vocab_size:
        raise InputError(
            f"finetune.model: {folder}: its tokenizer has {tokenizer.vocab_size} tokens, but the model "
            f"{config.vocab_size} rows for them; give the tokenizer of that model"
        )
    if (settings.max_tokens or 0) > config.context_length:
        raise UserError(
            f"finetune.max_tokens={settings.max_tokens} exceeds the context of finetune.model, {config.context_length}"
        )


def require_shards(recipe: Recipe, plan: Sequence[PlannedStage]) -> None:
    """Where a stage that will run reads the shards from a copy, the copy is whole and the cache can hold a shard."""
    uri = recipe.cluster.train.shards_from
    readers = [planned for planned in plan if planned.action == "run" and "shards" in planned.inputs]
    if uri is None or not readers:
        return
    (shards,) = [planned for planned in plan if planned.stage.name == "shards"]
    if shards.artifact is None:
        raise UserError(
            f"cluster.train.shards_from: {uri}: the shards are not made yet; run with --until shards, then copy them "
            f"there: gptmill shards push RECIPE {uri}"
        )
    from gpt_core.data.remote import require_copy  # fsspec

    require_copy(uri, shards.artifact.manifest)


def check_ray_jobs(recipe: Recipe) -> None:
    """The recipe's Jobs API, if it names one, lets us in. Raises SetupError that says why not."""
    if recipe.cluster.ray.jobs_address is not None:
        from jobs.ray_submission import connect  # loads ray

        connect(recipe.cluster.ray.jobs_address)


def require_java() -> None:
    """Java 17 or newer answers. Raises SetupError that says how to get one."""
    problem = java_problem()
    if problem is not None:
        raise SetupError(problem)


def require_inputs(plan: Sequence[PlannedStage]) -> None:
    """With --only, the stages before must be whole already."""
    whole = {planned.output for planned in plan if planned.artifact}
    for planned in plan:
        if planned.action != "run":
            whole |= {planned.output} if planned.artifact else set()
            continue
        for name, path in planned.inputs.items():
            if path not in whole:
                raise UserError(
                    f"{planned.stage.name}: its input {name} is not made yet; run with --until {planned.stage.name}"
                )
        whole.add(planned.output)
