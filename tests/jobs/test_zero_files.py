"""DeepSpeed's files of any number of ranks and any ZeRO stage are gone on from by any other: the steps stay the same.

This file is also the script whose forks the ranks are: all is imported once.
"""

import itertools
import json
import os
import socket
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gpt_core.recipe import Optimization, TrainCluster
from gpt_core.training.checkpoint_files import detach, write_files
from gpt_core.training.optimizer import make_optimizer

STAGES = (0, 1, 2, 3)
STARTS = (1, 3, 2)  # ranks; each goes on from what those before it have written
SETTINGS = Optimization(gradient_clip=0.5, learning_rate=0.05, weight_decay=0.1)
BATCH, SAVED_BEHIND, STEPS = 12, 3, 5


class SquaredError(nn.Module):
    """The summed squared error of a network with a buffer, whose middle layer does not learn, (B, 4) -> scalar."""

    def __init__(self, seed: int = 3) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 1))
        self.layers[2].requires_grad_(False)
        self.register_buffer("scale", torch.tensor([2.0]))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (self.scale * self.layers(x)[:, 0] - y).square().sum()


def batch_of(step: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(BATCH, 4, generator=torch.Generator().manual_seed(step))
    return x, 10 * x.sum(dim=1)


def plain_steps() -> tuple[list[float], dict[str, Tensor]]:
    """The norms and the last weights of plain torch on the whole batch."""
    model = SquaredError()
    optimizer = make_optimizer(model, SETTINGS)
    norms = []
    for step in range(STEPS):
        optimizer.zero_grad()
        (model(*batch_of(step)) / BATCH).backward()
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), SETTINGS.gradient_clip)))
        optimizer.step()
    return norms, {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}


def find_source(root: Path, world_size: int, stage: int) -> Path:
    return root / f"{world_size} ranks at stage {stage}"


def run_rank(root: Path, sources: Sequence[int]) -> None:
    """The last steps at every stage behind every checkpoint of `sources`; then checkpoints of this size."""
    from jobs.zero import ZeroEngine, join_ranks

    rank, world_size = join_ranks(TrainCluster(threads_per_process=1))

    def take_steps(engine: ZeroEngine, steps: range) -> list[float]:
        share = BATCH // world_size
        norms = []
        for step in steps:
            x, y = (part[rank * share :][:share] for part in batch_of(step))
            engine.backward(engine.forward(x, y) / BATCH, last=True)
            norms.append(engine.step(1.0))
        return norms

    def make(stage: int, seed: int) -> ZeroEngine:
        cluster = TrainCluster(zero_stage=stage)
        return ZeroEngine(SquaredError(seed), SETTINGS, cluster, micro_batch=BATCH // world_size)

    for there, stage_there, stage in itertools.product(sources, STAGES, STAGES):
        engine = make(stage, 4)
        engine.load(find_source(root, there, stage_there))
        norms = take_steps(engine, range(SAVED_BEHIND, STEPS))
        weights = {name: value.tolist() for name, value in engine.weights().items()}
        if rank == 0:
            name = f"{there} at {stage_there} to {world_size} at {stage}.json"
            (root / name).write_text(json.dumps({"norms": norms, "weights": weights}))
    for stage in STAGES:
        engine = make(stage, 3)
        take_steps(engine, range(SAVED_BEHIND))
        folder = find_source(root, world_size, stage)
        folder.mkdir(exist_ok=True)
        write_files(detach(engine.state_files(), copy=False), folder)
    engine.barrier()
    os._exit(0)


def run_all(root: Path) -> None:
    import jobs.zero  # before DeepSpeed, which it prepares

    from deepspeed.runtime.zero.muon import original_muon  # isort: skip  # what the first engine would import

    assert jobs.zero
    assert original_muon
    for number, world_size in enumerate(STARTS):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        ranks = [fork_rank(rank, world_size, port, root, STARTS[:number]) for rank in range(world_size)]
        assert [os.waitpid(rank, 0)[1] for rank in ranks] == [0] * world_size


def fork_rank(rank: int, world_size: int, port: int, root: Path, sources: Sequence[int]) -> int:
    child = os.fork()
    if child:
        return child
    world = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in world.items()} | {"MASTER_ADDR": "127.0.0.1"})
    try:
        run_rank(root, sources)
    except BaseException:
        traceback.print_exc()
    os._exit(1)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which each way from one shape to another has left its norms and weights."""
    folder, root = tmp_path_factory.mktemp("shapes"), Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.train
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("stage_there", STAGES)
@pytest.mark.parametrize(("there", "here"), [(1, 3), (1, 2), (3, 2)])
def test_the_steps_go_on_as_in_plain_torch(there: int, stage_there: int, here: int, stage: int, told: Path) -> None:
    norms, weights = plain_steps()
    found = json.loads((told / f"{there} at {stage_there} to {here} at {stage}.json").read_text())
    assert found["norms"] == pytest.approx(norms[SAVED_BEHIND:], rel=1e-5)
    assert found["weights"].keys() == weights.keys()
    for name, value in weights.items():
        torch.testing.assert_close(torch.tensor(found["weights"][name]), value, atol=1e-6, rtol=1e-5)


if __name__ == "__main__":
    run_all(Path(sys.argv[1]))
