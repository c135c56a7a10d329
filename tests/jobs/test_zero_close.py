"""An engine that was closed leaves nothing behind: trainings follow each other in one process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.train

ROOT = Path(__file__).parents[2]

PROGRAM = """
import gc, os, sys, weakref
os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", LOCAL_WORLD_SIZE="1", MASTER_ADDR="127.0.0.1")
from jobs.zero import ZeroEngine, join_ranks
import torch
from gpt_core.recipe import Finetune, TrainCluster

class Sum(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(8, 8)
    def forward(self, x):
        return self.linear(x).sum()

def step(stage):
    objective = Sum()
    settings = Finetune(train="a", test="b", precision="fp32")
    engine = ZeroEngine(objective, settings, TrainCluster(processes=1, zero_stage=stage), micro_batch=1)
    engine.backward(engine.forward(torch.ones(2, 8)), last=True)
    engine.step(1.0)
    engine.close()
    return weakref.ref(objective)

join_ranks(TrainCluster(processes=1, threads_per_process=1))
for stage in range(4):
    left = step(stage)
    gc.collect()
    print("stage", stage, "left" if left() is not None else "gone", flush=True)
os._exit(0)
"""


def test_a_closed_engine_is_gone_at_every_stage() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MASTER_PORT": "0", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split("stage")[1:] == [f" {stage} gone\n" for stage in range(4)], done.stderr
