"""A recipe as a task of SkyPilot, which finds the machines and starts the run again where they were taken away.

    gptmill export skypilot recipes/mine.yaml > task.yaml; sky jobs launch task.yaml

The machines run `gptmill run`, and where several train, all but the first `gptmill join`. The workspace stands on a
volume that outlives them (cluster.kubernetes.claim), so a run that starts again goes on behind its last whole stage or
checkpoint. No shell text is built from the recipe: its values are environment variables.
"""

import math

import yaml

from gpt_core.errors import RecipeError
from gpt_core.fingerprint import Json
from gpt_core.recipe import Recipe
from jobs.launch.manifests import claim_mount

PORT = "29400"  # of the rendezvous, where the recipe names none
RESUMABLE = 5  # exit code of a run that was interrupted and goes on from there
MARK = "skypilot"  # origin of what is refused
SETUP = "python -m pip install '.[cluster]'\n"
RUN = """\
set -e
workspace="workspace=$GPTMILL_WORKSPACE"
if [ "$SKYPILOT_NUM_NODES" = 1 ]; then
  exec gptmill run "$GPTMILL_RECIPE" --set "$workspace"
fi
if [ "$SKYPILOT_NODE_RANK" = 0 ]; then verb=run; else verb=join; fi
head=$(printf '%s\\n' "$SKYPILOT_NODE_IPS" | head -n 1)
exec gptmill "$verb" "$GPTMILL_RECIPE" --set "$workspace" --set "cluster.train.rendezvous=$head:$GPTMILL_PORT"
"""


def task_file(recipe: Recipe, *, recipe_path: str, accelerators: str | None = None) -> str:
    """The task, YAML. `recipe_path` is that of the recipe below the working folder, which SkyPilot copies.

    `accelerators` are those of a machine as SkyPilot names them: H100:8. With cluster.kubernetes.image gptmill comes
    with the image, without it it is installed from the working folder. Raises RecipeError for a recipe that no
    SkyPilot task can run.
    """
    train, settings = recipe.cluster.train, recipe.cluster.kubernetes
    _require_task(recipe)
    assert settings.claim is not None
    resources: dict[str, Json] = {
        "cpus": f"{settings.cpus}+",
        "memory": f"{_gigabytes(settings.memory)}+",
        "job_recovery": {"recover_on_exit_codes": [RESUMABLE]},
    }
    if accelerators is not None:
        resources["accelerators"] = accelerators
    if settings.image is not None:
        resources["image_id"] = f"docker:{settings.image}"
    task: dict[str, Json] = {
        "name": recipe.name,
        "num_nodes": train.nodes,
        "workdir": ".",
        "resources": resources,
        "volumes": {claim_mount(settings, recipe.workspace): settings.claim},
        "envs": {
            "GPTMILL_RECIPE": recipe_path,
            "GPTMILL_WORKSPACE": recipe.workspace,
            "GPTMILL_PORT": train.rendezvous.rpartition(":")[2] if train.rendezvous else PORT,
        },
        **({"setup": SETUP} if settings.image is None else {}),
        "run": RUN,
    }
    return yaml.dump(task, Dumper=_Dumper, sort_keys=False, width=1000)


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines as such."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def _require_task(recipe: Recipe) -> None:
    cluster = recipe.cluster
    problems = []
    if cluster.kubernetes.claim is None:
        problems.append(
            "cluster.kubernetes.claim is not given: the workspace must outlive the machines; make a volume with "
            "`sky volumes apply` and give its name"
        )
    if cluster.train.launcher != "torchrun" or cluster.train.hostfile is not None:
        what = "hostfile" if cluster.train.hostfile else f"launcher={cluster.train.launcher}"
        problems.append(f"cluster.train.{what}: SkyPilot's machines meet under torchrun; give `launcher: torchrun`")
    if problems:
        raise RecipeError(problems, origin=MARK)


def _gigabytes(memory: str) -> int:
    """Whole gigabytes, as SkyPilot counts memory."""
    return math.ceil(int(memory[:-1]) / (1 if memory.endswith("g") else 1024))
