"""One more machine for a training that `gptmill run` makes: the same ranks here, until it is made.

The machines share a file system: raw files, workspace and code stand under the same paths. The runner's lease says that
the stage is being made, and the recipe in its output how many ranks a machine has.
"""

import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console

from gpt_core.artifact import open_artifact
from gpt_core.errors import StageError, UserError
from gpt_core.recipe import Recipe
from gpt_core.recipe_file import load_recipe
from jobs.job import ENVIRONMENT, RECIPE
from jobs.launch.command import native_command
from jobs.launch.spec import LaunchSpec
from pipelines.lease import lease_owner
from pipelines.machines import check_machines
from pipelines.plan import PlannedStage, make_plan
from pipelines.runner import POLL_SECONDS, grace_seconds, job_environment, stop_job, told_error


def join_recipe(recipe: Recipe, *, console: Console) -> None:
    """Every training of the resolved `recipe` is made, and this machine had its part in those that were not yet.

    Waits for each until a runner makes it; what its ranks print goes to stdout. Raises UserError where the recipe
    trains on one machine or starts the others' ranks itself, StageError where the ranks of this machine failed.
    """
    train = recipe.cluster.train
    if train.launcher != "torchrun":
        raise UserError(f"cluster.train.launcher={train.launcher} starts the ranks of all machines; leave `join` out")
    if train.nodes == 1 or train.hostfile is not None:
        why = "starts the ranks of all machines itself" if train.hostfile else "is 1: nobody is waited for"
        raise UserError(f"cluster.train.{'hostfile' if train.hostfile else 'nodes'} {why}; leave `join` out")
    check_machines(recipe)
    for planned in make_plan(recipe):
        if planned.stage.engine == "deepspeed":
            _join_stage(planned, console)


def _join_stage(planned: PlannedStage, console: Console) -> None:
    name, output = planned.stage.name, planned.output
    if not _is_open(output):
        console.print(f"{name:<10} waits for `gptmill run` to make {output}", highlight=False, soft_wrap=True)
    while not _is_open(output):
        if open_artifact(output) is not None:
            console.print(f"{name:<10} whole", highlight=False)
            return
        time.sleep(POLL_SECONDS)
    cluster = load_recipe(output / RECIPE).cluster
    spec = LaunchSpec(module=planned.stage.module, engine=planned.stage.engine, inputs=planned.inputs, output=output)
    console.print(f"{name:<10} joined", highlight=False)
    job = subprocess.Popen(
        native_command(spec, cluster),
        stdout=sys.stdout,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        env=job_environment(planned, {}),
        start_new_session=True,
    )
    try:
        job.wait()
    finally:
        if job.poll() is None:
            stop_job(job, grace_seconds(planned))
    if job.returncode and open_artifact(output) is None:
        error = told_error(planned)
        raise error or StageError(f"{name}: the ranks of this machine ended with {job.returncode}; join again")
    console.print(f"{name:<10} whole", highlight=False)


def _is_open(output: Path) -> bool:
    """Whether a living runner waits for the ranks of other machines."""
    return (output / ENVIRONMENT).exists() and lease_owner(output) is not None
