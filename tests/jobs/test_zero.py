"""DeepSpeed as an Engine, at every ZeRO stage on two ranks: the steps are plain torch's, and bad ones leave no trace.

This file is also the script that torchrun starts.
"""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gpt_core.recipe import Optimization, TrainCluster
from gpt_core.training.optimizer import make_optimizer

STAGES = (0, 1, 2, 3)
SETTINGS = Optimization(gradient_clip=0.5, learning_rate=0.05, weight_decay=0.1)
BATCH, MICRO_BATCH = 8, 2


class SquaredError(nn.Module):
    """The summed squared error of a two-layer network, (B, 4) -> scalar."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layers = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (self.layers(x)[:, 0] - y).square().sum()


def batch_of(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(BATCH, 4, generator=generator)
    return x, 10 * x.sum(dim=1) + (math.nan if step == 2 else 0)


def plain_steps() -> tuple[list[float], dict[str, Tensor]]:
    """Norms and weights after steps 0, 1 and 3 in plain torch, on the whole batch."""
    model = SquaredError()
    optimizer = make_optimizer(model, SETTINGS)
    norms = []
    for step in (0, 1, 3):
        optimizer.zero_grad()
        (model(*batch_of(step)) / BATCH).backward()
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), SETTINGS.gradient_clip)))
        optimizer.step()
    return norms, {name: value.detach().clone() for name, value in model.state_dict().items()}


def run_stage(stage: int) -> dict[str, object]:
    from jobs.zero import ZeroEngine

    engine = ZeroEngine(SquaredError(), SETTINGS, TrainCluster(zero_stage=stage), micro_batch=MICRO_BATCH)
    share = BATCH // engine.world_size
    norms, weights = [], []
    for step in range(4):
        x, y = (part[engine.rank * share :][:share] for part in batch_of(step))
        for start in range(0, share, MICRO_BATCH):
            rows = slice(start, start + MICRO_BATCH)
            engine.backward(engine.forward(x[rows], y[rows]) / BATCH, last=start + MICRO_BATCH == share)
        norms.append(engine.step(SETTINGS.learning_rate))
        weights.append(engine.weights())
    if engine.rank:
        return {}
    return {
        "memory_bytes": engine.memory_bytes(),
        "norms": [norm if math.isfinite(norm) else None for norm in norms],
        "unmoved": all(torch.equal(weights[1][name], weights[2][name]) for name in weights[1]),
        "weights": {name: value.tolist() for name, value in weights[3].items()},
    }


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, list[float]]]:
    path = tmp_path_factory.mktemp("zero") / "told.json"
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__, path]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=root, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(path.read_text())


@pytest.mark.train
@pytest.mark.parametrize("stage", STAGES)
def test_steps_are_those_of_plain_torch_on_the_whole_batch(stage: int, told: dict[str, dict[str, list[float]]]) -> None:
    norms, weights = plain_steps()
    seen = told[str(stage)]
    assert [norm for norm in seen["norms"] if norm is not None] == pytest.approx(norms, rel=1e-5)
    for name, value in weights.items():
        torch.testing.assert_close(torch.tensor(seen["weights"][name]), value, atol=1e-6, rtol=1e-5)


@pytest.mark.train
def test_memory_is_told_in_bytes(told: dict[str, dict[str, float]]) -> None:
    assert 50e6 < told["2"]["memory_bytes"] < 50e9  # a process with torch loaded


@pytest.mark.train
@pytest.mark.parametrize("stage", STAGES)
def test_a_step_with_a_loss_of_nan_moves_nothing(stage: int, told: dict[str, dict[str, list[float]]]) -> None:
    assert told[str(stage)]["norms"][2] is None
    assert told[str(stage)]["unmoved"]


@pytest.mark.train
def test_without_torchrun_the_way_out_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from gpt_core.errors import UserError
    from jobs.zero import join_ranks

    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UserError, match="start training jobs under torchrun"):
        join_ranks(TrainCluster())


if __name__ == "__main__":
    from jobs.zero import join_ranks

    rank, _ = join_ranks(TrainCluster(threads_per_process=1))
    results = {str(stage): run_stage(stage) for stage in STAGES}
    if rank == 0:
        Path(sys.argv[1]).write_text(json.dumps(results))
    torch.distributed.barrier()
    os._exit(0)
