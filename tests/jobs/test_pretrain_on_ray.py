"""Pre-training under Ray Train on two of three Ray nodes: followed, cancelled, killed; the weights are torchrun's."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest
from ray_cluster import RayCluster, wait_until
from ray_jobs import STEP_SECONDS, end, spawn, statuses

from gpt_core.artifact import Artifact, open_artifact
from gpt_core.recipe import Recipe
from gpt_core.recipe_file import parse_recipe
from jobs.job import IDENTITY, RECIPE
from jobs.launch.command import native_command, stop_command
from jobs.launch.spec import LaunchSpec, submission_id
from tiny_training import finish, make_inputs, make_recipe, start_training

pytestmark = [pytest.mark.ray, pytest.mark.train]
CHECK = """
import sys
from pathlib import Path
from gpt_core.errors import SetupError
from gpt_core.recipe_file import load_recipe
from pipelines.checks import check_ray_jobs
try:
    check_ray_jobs(load_recipe(Path(sys.argv[1])))
except SetupError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Artifact]:
    return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def torchrun(inputs: Mapping[str, Artifact], tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """What two ranks of torchrun make on one machine."""
    folder = tmp_path_factory.mktemp("torchrun")
    return finish(start_training("pretrain", folder / "out", make_recipe(folder), inputs), folder / "out")


def prepare(
    cluster: RayCluster, folder: Path, inputs: Mapping[str, Artifact], *, steps: int = 24, **train: object
) -> tuple[LaunchSpec, Recipe]:
    """The output folder as the runner leaves it to the job."""
    recipe = make_recipe(
        folder,
        pretrain={"tokens": 32 * 8 * steps},
        train={"launcher": "torchrun", "processes": 1, **train},
    )
    tree = recipe.model_dump(mode="json")
    tree["cluster"]["train"].update(launcher="ray", nodes=2)
    tree["cluster"]["ray"]["jobs_address"] = cluster.jobs_address
    recipe = parse_recipe(tree, origin="the test's recipe")
    output = folder / "pretrain" / "it"
    output.mkdir(parents=True)
    (output / RECIPE).write_text(recipe.model_dump_json())
    (output / IDENTITY).write_text(json.dumps({"stage": "pretrain"}))
    places = {name: artifact.root for name, artifact in inputs.items()}
    return LaunchSpec("jobs.pretrain", "deepspeed", places, output), recipe


def follow(cluster: RayCluster, spec: LaunchSpec, recipe: Recipe) -> "subprocess.Popen[str]":
    return spawn(native_command(spec, recipe.cluster), cluster.environment)


def ranks_of(output: Path) -> dict[int, psutil.Process]:
    """The processes that train into `output`, by rank."""
    found = {}
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if words[1:3] == ["-m", "jobs.pretrain"] and str(output) in words:
            found[int(process.environ()["RANK"])] = process
    return found


def weights_digest(output: Path) -> str:
    artifact = open_artifact(output)
    assert artifact is not None
    (entry,) = [entry for entry in artifact.manifest.files if entry.path == "model/model.safetensors"]
    return entry.sha256


def test_a_killed_rank_starts_again_by_itself_and_the_weights_are_those_of_torchrun(
    cluster: RayCluster, inputs: Mapping[str, Artifact], torchrun: Artifact, tmp_path: Path
) -> None:
    spec, recipe = prepare(cluster, tmp_path, inputs, max_restarts=1)
    following = follow(cluster, spec, recipe)
    wait_until(lambda: len(ranks_of(spec.output)) == 2, seconds=STEP_SECONDS)
    ranks = ranks_of(spec.output)
    assert len({rank.ppid() for rank in ranks.values()}) == 2, "the machines have a worker each"
    wait_until((spec.output / "checkpoints" / "latest").exists, seconds=STEP_SECONDS)
    ranks[1].kill()
    end(following)
    assert weights_digest(spec.output) == weights_digest(torchrun.root)
    assert statuses(cluster, spec.output) == [("", "SUCCEEDED")]
    assert ranks_of(spec.output) == {}


def test_cancelled_behind_the_back_of_who_follows_it_keeps_a_checkpoint(
    cluster: RayCluster, inputs: Mapping[str, Artifact], tmp_path: Path
) -> None:
    spec, recipe = prepare(cluster, tmp_path, inputs, steps=10_000, checkpoint_every_steps=1_000_000)
    killed = follow(cluster, spec, recipe)
    wait_until((spec.output / "steps.jsonl").exists, seconds=STEP_SECONDS)
    killed.kill()
    attached = follow(cluster, spec, recipe)
    assert attached.stdout is not None
    name = submission_id(spec.output)
    assert attached.stdout.readline() == f"attached to the ray job {name}, running\n"
    stop = stop_command(spec, recipe.cluster)
    assert stop is not None
    assert end(spawn(stop, cluster.environment)) == f"cancelled the job {name}\n"
    end(attached, 5)
    told = json.loads((spec.output / "error.json").read_text())
    assert told["kind"] == "preempted"
    assert "SIGTERM stopped it behind step" in told["message"]
    assert (spec.output / "checkpoints" / "latest").exists()
    assert ranks_of(spec.output) == {}
    assert statuses(cluster, spec.output) == [("", "STOPPED")]


def test_a_cluster_without_room_is_refused_and_one_that_lost_it_is_waited_for_until_cancelled(
    cluster: RayCluster, inputs: Mapping[str, Artifact], tmp_path: Path
) -> None:
    spec, recipe = prepare(cluster, tmp_path, inputs, threads_per_process=2)
    said = end(spawn([sys.executable, "-c", CHECK, str(spec.output / RECIPE)], cluster.environment))
    assert said.startswith("cluster.train: nodes=2 machine(s) with processes x threads_per_process=2 CPU(s) each")
    assert f"jobs_address={cluster.jobs_address} have [1, 1, 1]" in said

    waiting = follow(cluster, spec, recipe)
    assert waiting.stdout is not None
    while "Ray Train: 2 machine(s)" not in waiting.stdout.readline():
        assert waiting.poll() is None
    stop = stop_command(spec, recipe.cluster)
    assert stop is not None
    end(spawn(stop, cluster.environment))
    assert "SIGTERM stopped it before it began" in end(waiting, 5)
