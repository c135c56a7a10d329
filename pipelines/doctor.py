"""Does this machine have what gptmill needs? Every finding says what was found and, if it is bad, the way out."""

import importlib.metadata
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from gpt_core.errors import GptmillError
from gpt_core.recipe import Recipe
from jobs.launch.slurm import check_slurm
from pipelines.checks import check_labels, check_model, check_ray_jobs, prepare_workspace
from pipelines.java import java_problem
from pipelines.machines import check_machines
from pipelines.plan import make_plan

ENGINES = ("pyspark", "ray", "torch", "deepspeed", "mlflow", "pyarrow")
NEEDED_MEMORY_BYTES = 6 * 2**30  # what the demo may take
NEEDED_DISK_BYTES = 2 * 2**30


@dataclass(frozen=True)
class Finding:
    """One line of the examination."""

    subject: str
    well: bool
    text: str


def examine(recipe: Recipe | None) -> list[Finding]:
    """All findings, good and bad, in a fixed order. Only a recipe's servers need an engine: MLflow, and Ray's jobs."""
    needs_java = recipe is None or recipe.corpus is not None
    return [*_machine(needs_java=needs_java), *(_recipe_findings(recipe) if recipe else ())]


def _machine(*, needs_java: bool) -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    right = (3, 11) <= sys.version_info[:2] <= (3, 13)
    yield Finding("python", right, f"{version} at {sys.executable}" + ("" if right else "; take 3.11 to 3.13"))
    problem = java_problem() if needs_java else None
    yield Finding("java", problem is None, problem or ("17 or newer" if needs_java else "not needed: no corpus"))
    for name in ENGINES:
        found = importlib.util.find_spec(name) is not None
        yield Finding(name, found, importlib.metadata.version(name) if found else "not installed; run make install")
    memory = psutil.virtual_memory()
    yield Finding(
        "memory",
        memory.total >= NEEDED_MEMORY_BYTES,
        f"{memory.total / 2**30:.1f} GiB, {memory.available / 2**30:.1f} free; the demo takes up to 6",
    )
    yield Finding(
        "cores", True, f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()}"
    )


def _recipe_findings(recipe: Recipe) -> Iterator[Finding]:
    workspace = Path(recipe.workspace)
    yield _try("workspace", f"{workspace} can be written", lambda: prepare_workspace(workspace))
    if workspace.is_dir():
        free = shutil.disk_usage(workspace).free
        yield Finding("disk", free >= NEEDED_DISK_BYTES, f"{free / 2**30:.1f} GiB free below {workspace}")
    yield _try("inputs", "every file of the recipe can be read", lambda: make_plan(recipe))
    yield _try("labels", "every row can be read and its label used", lambda: check_labels(recipe))
    if recipe.finetune is not None and recipe.finetune.model is not None:
        yield _try("model", "can be fine-tuned", lambda: check_model(recipe))
    yield _try("tracking", "answers", lambda: _check_tracking(recipe))
    train = recipe.cluster.train
    if train.launcher == "torchrun" and (train.nodes > 1 or train.hostfile is not None):
        where = train.hostfile or train.rendezvous
        yield _try("machines", f"{train.nodes} x {train.processes} ranks, {where}", lambda: check_machines(recipe))
    if "slurm" in (recipe.cluster.process.launcher, train.launcher):
        yield _try("slurm", "answers and would take the stages", lambda: check_slurm(recipe))
    if recipe.cluster.ray.jobs_address is not None:
        yield _ray_jobs(recipe, recipe.cluster.ray.jobs_address)


def _ray_jobs(recipe: Recipe, address: str) -> Finding:
    from jobs.ray_submission import asks_for_token

    finding = _try("ray jobs", "answers and lets us in", lambda: check_ray_jobs(recipe))
    if finding.well and not asks_for_token(address):
        text = "answers anybody: whoever reaches it runs code there; start its nodes with RAY_AUTH_MODE=token"
        return Finding("ray jobs", True, text)
    return finding


def _check_tracking(recipe: Recipe) -> None:
    from jobs.tracking_check import check_tracking  # loads mlflow

    check_tracking(recipe)


def _try(subject: str, well: str, check: Callable[[], object]) -> Finding:
    try:
        check()
    except GptmillError as error:
        return Finding(subject, False, str(error))
    return Finding(subject, True, well)
