"""Two machines train as one, and go on behind the last checkpoint when one of them is lost.

The machines are network namespaces: gloo, torchrun's rendezvous and `gptmill join` meet over real sockets, and what is
killed and cut is gone for the other. The recipe's runner stands on the second machine, which hosts the rendezvous; rank
0 is on the first, whose address sorts before.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from gpt_core.artifact import Artifact, open_artifact
from gpt_core.recipe import Recipe
from jobs.job import IDENTITY, LOG, RECIPE
from jobs.launch.command import native_command
from jobs.launch.spec import LaunchSpec
from network_nodes import Node, two_nodes
from pipelines.plan import PlannedStage, make_plan, resolve_paths
from tiny_project import environment
from tiny_training import finish, finish_telling, make_inputs, make_recipe, make_shards, make_tokenizer, start_training

pytestmark = pytest.mark.train

PORT = 29400
IMPATIENCE = "keep_alive_interval=1,keep_alive_max_attempt=3,last_call_timeout=8,join_timeout=240"


@pytest.fixture(scope="module")
def nodes() -> Iterator[tuple[Node, Node]]:
    with two_nodes() as pair:
        yield pair


@dataclass
class Training:
    """A recipe whose tokenizer and shards stand in its workspace, and what runs it on which machine."""

    folder: Path
    recipe: Recipe
    logs: int = 0

    @property
    def pretrain(self) -> PlannedStage:
        return next(planned for planned in make_plan(self.recipe) if planned.stage.name == "pretrain")

    def start(self, node: Node, verb: str, *arguments: str) -> "subprocess.Popen[bytes]":
        self.logs += 1
        with (self.folder / f"{self.logs}-{verb}.txt").open("w") as log:
            return subprocess.Popen(
                node.command([sys.executable, "-m", "pipelines", verb, str(self.folder / "recipe.yaml"), *arguments]),
                env={**environment(), "PET_RDZV_CONF": IMPATIENCE, "OMP_NUM_THREADS": "1"},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def told(self) -> str:
        logs = [*sorted(self.folder.glob("*.txt")), self.pretrain.output / LOG]
        return "\n".join(f"== {log.name}\n{log.read_text()}" for log in logs if log.exists())

    def wait_for(self, what: Callable[[], bool], *running: "subprocess.Popen[bytes]") -> None:
        deadline = time.monotonic() + 240
        while not what():
            assert time.monotonic() < deadline, self.told()
            assert all(process.poll() is None for process in running), self.told()
            time.sleep(0.02)


def make_training(folder: Path, host: Node, **train: object) -> Training:
    settings = {"processes": 1, "nodes": 2, "rendezvous": f"{host.address}:{PORT}", **train}
    recipe = resolve_paths(make_recipe(folder, train=settings))
    (folder / "none.jsonl").write_text("")
    (folder / "recipe.yaml").write_text(recipe.model_dump_json())
    places = {planned.stage.name: planned.output for planned in make_plan(recipe)}
    make_tokenizer(places["tokenizer"])
    make_shards(places["shards"], places["tokenizer"])
    return Training(folder, recipe)


def curve(artifact: Artifact, name: str) -> list[float]:
    return [value for _, value in json.loads(artifact.file("curves.json").read_text())[name]]


def weights_digest(artifact: Artifact) -> str:
    (entry,) = [entry for entry in artifact.manifest.files if entry.path == "model/model.safetensors"]
    return entry.sha256


def metrics_of(training: Training, name: str) -> dict[int, float]:
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{training.recipe.workspace}/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name = 'gptmill'")
    (run,) = client.search_runs([experiment.experiment_id], "tags.`gptmill.stage` = 'pretrain'")
    return {point.step: point.value for point in client.get_metric_history(run.info.run_id, name)}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Artifact]:
    return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def one_machine(inputs: Mapping[str, Artifact], tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """What the others are held to: as many ranks on one machine."""
    folder = tmp_path_factory.mktemp("one_machine")
    return finish(start_training("pretrain", folder / "out", make_recipe(folder), inputs), folder / "out")


@pytest.mark.mlflow
def test_a_lost_machine_that_comes_back_changes_no_bit(
    nodes: tuple[Node, Node], one_machine: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lost, host = nodes
    training = make_training(tmp_path, host, max_restarts=2)
    output = training.pretrain.output
    run = training.start(host, "run", "--only", "pretrain")
    training.start(lost, "join")
    training.wait_for((output / "checkpoints" / "latest").exists, run)
    lost.kill_all()
    lost.cut_cable()
    training.wait_for(lambda: "failed (exitcode" in (output / LOG).read_text(), run)
    assert not (output / "manifest.json").exists()

    lost.mend_cable()
    join = training.start(lost, "join")
    assert run.wait(240) == 0, training.told()
    assert join.wait(60) == 0, training.told()
    assert "resumed behind step" in training.told()
    artifact = open_artifact(output)
    assert artifact is not None
    assert curve(artifact, "train_loss") == curve(one_machine, "train_loss")
    assert weights_digest(artifact) == weights_digest(one_machine)
    told = metrics_of(training, "train_loss")  # by rank 0, which the runner did not start
    assert [told[step] for step in range(13, 24)] == curve(one_machine, "train_loss")[12:23]


def test_with_fewer_machines_allowed_the_survivor_goes_on_alone(
    nodes: tuple[Node, Node], one_machine: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lost, host = nodes
    training = make_training(tmp_path, host, min_nodes=1, max_restarts=2)
    output = training.pretrain.output
    run = training.start(host, "run", "--only", "pretrain")
    training.start(lost, "join")
    training.wait_for((output / "checkpoints" / "latest").exists, run)
    assert any("jobs.pretrain" in process.cmdline() for process in lost.processes())
    lost.kill_all()
    lost.cut_cable()
    assert run.wait(240) == 0, training.told()
    lost.mend_cable()
    assert "resumed behind step" in training.told()
    artifact = open_artifact(output)
    assert artifact is not None
    assert curve(artifact, "train_loss")[:6] == curve(one_machine, "train_loss")[:6]
    for name in ("train_loss", "validation_loss"):
        assert curve(artifact, name) == pytest.approx(curve(one_machine, name), rel=1e-4), name


def start_job(folder: Path, recipe: Recipe, inputs: Mapping[str, Artifact]) -> "subprocess.Popen[str]":
    """The job in `folder`/out under the launcher that the recipe asks for."""
    output = folder / "out"
    output.mkdir()
    (output / RECIPE).write_text(recipe.model_dump_json())
    (output / IDENTITY).write_text(json.dumps({"stage": "pretrain"}))
    places = {name: artifact.root for name, artifact in inputs.items()}
    command = native_command(LaunchSpec("jobs.pretrain", "deepspeed", places, output), recipe.cluster)
    return subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder
    )


def test_a_killed_rank_starts_again_by_itself(
    inputs: Mapping[str, Artifact], one_machine: Artifact, tmp_path: Path
) -> None:
    job = start_job(tmp_path, make_recipe(tmp_path, train={"max_restarts": 1}), inputs)
    while not (tmp_path / "out" / "checkpoints" / "latest").exists():
        assert job.poll() is None
        time.sleep(0.01)
    psutil.Process(job.pid).children()[1].kill()
    artifact, told = finish_telling(job, tmp_path / "out")
    assert "resumed behind step" in told
    assert weights_digest(artifact) == weights_digest(one_machine)


def test_deepspeeds_launcher_starts_the_same_ranks(
    inputs: Mapping[str, Artifact], one_machine: Artifact, tmp_path: Path
) -> None:
    (tmp_path / "hosts").write_text("localhost slots=2\n")
    recipe = make_recipe(tmp_path, train={"hostfile": str(tmp_path / "hosts")})
    artifact = finish(start_job(tmp_path, recipe, inputs), tmp_path / "out")
    assert weights_digest(artifact) == weights_digest(one_machine)
    both = one_machine.manifest.peak_memory_bytes  # of two ranks and the launcher
    assert artifact.manifest.peak_memory_bytes == pytest.approx(both, rel=0.25)
