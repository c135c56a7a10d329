"""What Kubernetes and SkyPilot are given: word for word, and as the published models of their APIs take it.

`python tests/jobs/launch/test_manifests.py` writes tests/goldens anew, with the repository on PYTHONPATH.
"""

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpt_core.errors import RecipeError, SetupError
from gpt_core.recipe import Cluster, Recipe
from jobs.launch.command import job_command, native_command, stop_command
from jobs.launch.manifests import KINDS, READ_SECRET, SECRET_FOLDER, claim_mount, manifest, submitted_stages
from jobs.launch.skypilot import RUN, task_file
from jobs.launch.spec import Engine, LaunchSpec, submission_id

GOLDENS = Path(__file__).parents[2] / "goldens"
MODULES: dict[str, tuple[str, Engine]] = {
    "tokenizer": ("jobs.train_tokenizer", "python"),
    "evaluate": ("jobs.evaluate", "python"),
    "shards": ("jobs.tokenize_corpus", "ray"),
    "pretrain": ("jobs.pretrain", "deepspeed"),
    "finetune": ("jobs.finetune", "deepspeed"),
}
KUBERNETES: dict[str, Any] = {
    "namespace": "research",
    "image": "registry.example/gptmill:1",
    "service_account": "trainer",
    "claim": "corpus",
    "secret": "mlflow",
    "cpus": 8,
    "memory": "64g",
    "gpus": 4,
}


def cluster(**kubernetes: object) -> Cluster:
    return Cluster.model_validate(
        {
            "process": {"launcher": "kubernetes"},
            "ray": {"launcher": "kubernetes", "workers": 3},
            "train": {"launcher": "kubernetes", "nodes": 2, "processes": 4},
            "kubernetes": {**KUBERNETES, **kubernetes},
            "limits": {"minutes": {"tokenizer": 30, "shards": 90.001, "pretrain": 600}},
        }
    )


def spec(stage: str) -> LaunchSpec:
    module, engine = MODULES[stage]
    inputs = {"dedup": Path("/data/workspace/dedup/aaaaaaaaaaaa")}
    return LaunchSpec(module, engine, inputs, Path(f"/data/workspace/{stage}/0123456789ab"))


def made(stage: str, settings: Cluster) -> dict[str, Any]:
    it = spec(stage)
    content = manifest(submission_id(it.output), job_command(it, settings), it.output, settings)
    loaded: dict[str, Any] = json.loads(json.dumps(content))
    return loaded


def recipe(**changes: object) -> Recipe:
    train = {"nodes": 2, "processes": 8, "rendezvous": "head:29500"}
    content = {
        "name": "mine",
        "workspace": "/data/workspace",
        "corpus": {"inputs": [{"path": "/data/raw.jsonl"}]},
        "cluster": {"train": train, "kubernetes": {"claim": "corpus", "cpus": 16, "memory": "1500m"}, **changes},
    }
    return Recipe.model_validate(content)


def goldens() -> dict[str, str]:
    stages = {stage: made(stage, cluster()) for stage in ("tokenizer", "shards", "pretrain")}
    texts = {
        f"kubernetes-{content['kind'].lower()}.yaml": yaml.safe_dump(content, sort_keys=False, width=1000)
        for content in stages.values()
    }
    return {**texts, "skypilot-task.yaml": task_file(recipe(), recipe_path="recipes/mine.yaml", accelerators="H100:8")}


@pytest.mark.parametrize("name", list(goldens()))
def test_the_manifest_is_the_golden_one_word_for_word(name: str) -> None:
    assert goldens()[name] == (GOLDENS / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("stage", KINDS)
@pytest.mark.parametrize("full", [True, False])
def test_the_published_models_know_every_field(stage: str, full: bool) -> None:
    models = pytest.importorskip("kubeflow_trainer_api.models")
    content = made(stage, cluster() if full else cluster(service_account=None, secret=None, gpus=0))
    if content["kind"] == "RayJob":  # KubeRay publishes no models, but a pod is a pod
        ray = content["spec"]["rayClusterSpec"]
        places = [ray["headGroupSpec"], *ray["workerGroupSpecs"]]
        pods = [content["spec"]["submitterPodTemplate"], *(place["template"] for place in places)]
        assert len(pods) == 3
        for pod in pods:
            assert models.IoK8sApiCoreV1PodTemplateSpec.from_dict(pod).to_dict() == pod
    else:
        model = {"Job": models.IoK8sApiBatchV1Job, "TrainJob": models.TrainerV1alpha1TrainJob}[content["kind"]]
        assert model.from_dict(content).to_dict() == content  # a field that it does not know would be gone


def test_names_fit_with_all_that_controllers_append() -> None:
    for stage, kind in KINDS.items():
        name = f"{submission_id(spec(stage).output)}-999"
        longest = {"Job": 63 - len("-abcde"), "RayJob": 47, "TrainJob": 63 - len("-node-0-0-abcde")}[kind.kind]
        assert len(name) <= longest
        assert re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", name)


def test_the_command_is_the_images_python_and_the_ranks_meet_as_the_trainjob_says() -> None:
    arguments = ["--recipe", "/data/workspace/pretrain/0123456789ab/recipe.json"]
    command = job_command(spec("pretrain"), cluster())
    assert command[:7] == ["python", "-m", "torch.distributed.run", "-m", "jobs.pretrain", *arguments]
    assert job_command(spec("tokenizer"), cluster())[:3] == ["python", "-m", "jobs.train_tokenizer"]
    follower = ["-m", "jobs.launch.follow", "--target", "kubernetes", "--output", "/data/workspace/shards/0123456789ab"]
    assert native_command(spec("shards"), cluster())[1:9] == [*follower, "--", "python"]
    assert stop_command(spec("shards"), cluster())[1:] == [*follower, "--cancel"]  # type: ignore[index]
    odd = ["python", "-m", "it", "/data/a b/$(x);'y'"]
    content = manifest("it", odd, spec("shards").output, cluster())
    assert shlex.split(content["spec"]["entrypoint"]) == odd  # type: ignore[index,call-overload,arg-type]


def test_a_secrets_files_become_variables_and_no_argument_is_read_by_the_shell(tmp_path: Path) -> None:
    (tmp_path / "MLFLOW_TRACKING_PASSWORD").write_text("it's $HOME; a\nb")
    (tmp_path / "..data").mkdir()  # as the kubelet lays it out
    script = READ_SECRET.replace(SECRET_FOLDER, str(tmp_path))
    done = subprocess.run(
        ["sh", "-c", script, "sh", "printenv", "MLFLOW_TRACKING_PASSWORD"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "it's $HOME; a\nb\n"
    done = subprocess.run(["sh", "-c", script, "sh", "echo", "$HOME;"], capture_output=True, text=True, check=True)
    assert done.stdout == "$HOME;\n"


def test_the_claim_stands_where_the_workspace_is_found() -> None:
    settings = cluster().kubernetes
    assert claim_mount(settings, "/data/workspace") == "/data"
    assert claim_mount(cluster(mount="/data").kubernetes, "/data/a/b") == "/data"
    with pytest.raises(SetupError, match=r"cluster\.kubernetes\.mount: the claim cannot stand at /"):
        claim_mount(settings, "/workspace")
    with pytest.raises(SetupError, match=r"cluster\.kubernetes\.mount=/mnt: the workspace /data/w lies elsewhere"):
        claim_mount(cluster(mount="/mnt").kubernetes, "/data/w")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"process": {"launcher": "kubernetes"}}, "cluster.kubernetes.image: must be given, as cluster.process.launch"),
        (
            {"ray": {"launcher": "kubernetes"}, "kubernetes": {"image": "it"}},
            "cluster.kubernetes.claim: must be given, as cluster.ray.launcher is kubernetes",
        ),
        (
            {"train": {"launcher": "kubernetes", "max_restarts": 1}, "kubernetes": {"image": "it", "claim": "c"}},
            "cluster.train.max_restarts: the ranks of a TrainJob start once",
        ),
    ],
)
def test_a_recipe_that_makes_no_pod_is_refused(content: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Cluster.model_validate(content)
    assert submitted_stages(Cluster()) == {}


def test_a_sky_task_needs_a_volume_and_torchrun() -> None:
    with pytest.raises(RecipeError, match=r"cluster\.kubernetes\.claim is not given"):
        task_file(recipe(kubernetes={}), recipe_path="it")
    with pytest.raises(RecipeError, match=r"cluster\.train\.launcher=slurm: SkyPilot's machines meet under torchrun"):
        task_file(recipe(train={"launcher": "slurm"}), recipe_path="it")


@pytest.mark.parametrize(("rank", "nodes", "verb"), [("0", "1", "run"), ("0", "2", "run"), ("1", "2", "join")])
def test_the_first_machine_of_a_sky_task_runs_and_the_others_join(
    tmp_path: Path, rank: str, nodes: str, verb: str
) -> None:
    (tmp_path / "gptmill").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "gptmill").chmod(0o755)
    task = yaml.safe_load(task_file(recipe(), recipe_path="a b.yaml"))
    told = {"SKYPILOT_NODE_RANK": rank, "SKYPILOT_NUM_NODES": nodes, "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2"}
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", **task["envs"], **told}
    done = subprocess.run(["bash", "-c", RUN], env=environment, capture_output=True, text=True, check=True)
    meeting = ["--set", "cluster.train.rendezvous=10.0.0.1:29500"] if nodes == "2" else []
    assert done.stdout.splitlines() == [verb, "a b.yaml", "--set", "workspace=/data/workspace", *meeting]


if __name__ == "__main__":
    for name, text in goldens().items():
        (GOLDENS / name).write_text(text, encoding="utf-8")
