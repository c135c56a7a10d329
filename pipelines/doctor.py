"""Does this machine have what gptmill needs? Every finding says what was found and, if it is bad, the way out."""

from collections.abc import Callable, Iterator
from pathlib import Path

from gpt_core.errors import GptmillError
from gpt_core.recipe import Recipe
from gpt_core.report.units import size
from jobs.tracking import SERVERS, tracking_uri
from pipelines.checks import check_labels, check_model, check_ray_jobs, prepare_workspace
from pipelines.disk_checks import check_commits, clock_finding, disk_finding
from pipelines.finding import Finding
from pipelines.machine_checks import machine_findings
from pipelines.machines import check_machines
from pipelines.plan import make_plan
from pipelines.training_plan import plan_training, require_memory


def examine(recipe: Recipe | None) -> list[Finding]:
    """All findings, good and bad: this machine, the workspace, the recipe's files, tracking, then each cluster.

    Only a recipe's servers need an engine: MLflow, and Ray's jobs.
    """
    trains_here = recipe is not None and recipe.cluster.train.launcher == "torchrun"
    return [
        *machine_findings(
            needs_java=recipe is None or recipe.corpus is not None,
            needs_page=recipe is None or not tracking_uri(recipe).startswith(SERVERS),
            train=recipe.cluster.train if recipe is not None and trains_here else None,
        ),
        *(_recipe_findings(recipe) if recipe else ()),
    ]


def _recipe_findings(recipe: Recipe) -> Iterator[Finding]:
    workspace = Path(recipe.workspace)
    yield _try("workspace", f"{workspace} can be written", lambda: prepare_workspace(workspace))
    if workspace.is_dir():
        yield _try("commit", "fsync, rename, links and locks hold", lambda: check_commits(workspace))
        clock = clock_finding(workspace)
        yield from [clock] if clock else []
    inputs = _try("inputs", "every file of the recipe can be read", lambda: make_plan(recipe))
    yield inputs
    if inputs.well:
        yield from _room(recipe, workspace)
    yield _try("labels", "every row can be read and its label used", lambda: check_labels(recipe))
    if recipe.finetune is not None and recipe.finetune.model is not None:
        yield _try("model", "can be fine-tuned", lambda: check_model(recipe))
    yield _try("tracking", "answers", lambda: _check_tracking(recipe))
    train = recipe.cluster.train
    if train.nodes > 1 or train.hostfile is not None:
        where = train.hostfile or train.rendezvous
        yield _try("machines", f"{train.nodes} x {train.processes} ranks, {where}", lambda: check_machines(recipe))
    if recipe.cluster.ray.jobs_address is not None:
        yield _ray_jobs(recipe, recipe.cluster.ray.jobs_address)


def _room(recipe: Recipe, workspace: Path) -> Iterator[Finding]:
    """Whether disk and memory hold what the recipe has yet to make."""
    plan = make_plan(recipe)
    if workspace.is_dir():
        yield disk_finding(recipe, plan, workspace)
    training = plan_training(recipe, plan)
    if training is not None and recipe.cluster.train.launcher == "torchrun":
        told = f"pretrain takes {size(training.need_bytes)} of a rank's {size(training.have_bytes)}"
        yield _try("training", told, lambda: require_memory(training))


def _ray_jobs(recipe: Recipe, address: str) -> Finding:
    from jobs.ray_submission import asks_for_token

    finding = _try("ray jobs", "answers and lets us in", lambda: check_ray_jobs(recipe))
    if finding.well and not asks_for_token(address):
        text = "answers anybody: whoever reaches it runs code there; start its nodes with RAY_AUTH_MODE=token"
        return Finding("ray jobs", True, text, warning=True)
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
