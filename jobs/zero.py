"""DeepSpeed ZeRO as an Engine: the only deepspeed import.

Runs under torchrun or DeepSpeed's launcher, one process a rank: NCCL on GPUs, gloo on CPUs. A collective that waits
longer than DEEPSPEED_TIMEOUT minutes (10) fails: so long may a rank go unmissed whose machine fell silent. Nothing is
compiled at start: the optimizer is torch's, and DeepSpeed's shared-memory collectives, a three-minute build, are
switched off.
"""

import ipaddress
import logging
import math
import os
import sys
import warnings
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gpt_core.errors import UserError
from gpt_core.fingerprint import Json
from gpt_core.recipe import Optimization, TrainCluster
from gpt_core.training.optimizer import make_optimizer
from gpt_core.training.zero_config import make_zero_config
from jobs.network import interface_of, way_to

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("DS_LOG_LEVEL", "warning")
if "mlflow" not in sys.modules:
    sys.modules["mlflow"] = None  # type: ignore[assignment]  # 1.4 s a rank for DeepSpeed's autotuner alone

import deepspeed
import deepspeed.ops
import deepspeed.utils.groups
from deepspeed.constants import default_pg_timeout

if sys.modules["mlflow"] is None:
    del sys.modules["mlflow"]

from jobs.zero_files import FilesInMemory, collect_files, load_files


def join_ranks(train: TrainCluster) -> tuple[int, int]:
    """All ranks have met. Returns (rank, world size). CPU threads are shared out among the ranks of this machine."""
    if "RANK" not in os.environ:  # DeepSpeed would look for MPI
        raise UserError("no RANK is set; start training jobs under torchrun, as `gptmill run` does")
    local_world = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE", "1"))  # torchrun, DeepSpeed
    torch.set_num_threads(train.threads_per_process or max(1, (os.cpu_count() or 1) // local_world))
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning, message=r".*all_gather_into_tensor")  # DeepSpeed's call
    _switch_off_compiled_collectives()
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if local_world < int(os.environ.get("WORLD_SIZE", "1")):
        _choose_interface()
    deepspeed.init_distributed(dist_backend="nccl" if cuda else "gloo", verbose=False)
    if getattr(deepspeed.utils.groups, "_WORLD_GROUP", False) is None:  # it would take torch's, of 30 minutes for gloo
        deepspeed.utils.groups._WORLD_GROUP = torch.distributed.new_group(timeout=default_pg_timeout)
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def part_ranks() -> None:
    """Every rank is here, and rank 0's last work is done.

    A machine whose ranks have ended leaves after 300 seconds, and the rendezvous with it, if it hosts that. The group
    that waits is one of its own, whose patience is beyond any export.
    """
    torch.distributed.barrier(torch.distributed.new_group(backend="gloo", timeout=timedelta(days=1)))


class ZeroEngine:
    """An Engine on deepspeed.initialize; see gpt_core/training/engine.py for what each method promises."""

    def __init__(self, objective: nn.Module, settings: Optimization, train: TrainCluster, *, micro_batch: int) -> None:
        self.rank = torch.distributed.get_rank()
        self.world_size = torch.distributed.get_world_size()
        config = make_zero_config(settings, train, micro_batch=micro_batch)
        self._engine, *_ = deepspeed.initialize(
            model=objective, optimizer=make_optimizer(objective, settings), config=config
        )
        self.device = torch.device(self._engine.device)
        self._stage = train.zero_stage
        self._engine.checkpoint_engine = self._files = FilesInMemory()

    def forward(self, *inputs: Tensor) -> Any:
        self._engine.train()
        return self._engine(*self._move(inputs))

    @torch.no_grad()
    def predict(self, *inputs: Tensor) -> Any:
        self._engine.eval()
        return self._engine(*self._move(inputs))

    def _move(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        return [value.to(self.device, non_blocking=True) for value in inputs]

    def backward(self, loss: Tensor, *, last: bool) -> None:
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(loss * self.world_size)  # DeepSpeed averages over ranks, we add

    def step(self, learning_rate: float) -> float:
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        if self._stage == 0:
            return self._plain_step()
        self._engine.step()  # skips by itself where the norm is not finite, which it then tells as infinite
        return float(self._engine.get_global_grad_norm())

    def _plain_step(self) -> float:
        """Without ZeRO DeepSpeed neither tells the norm nor skips; the gradients are those of all ranks already."""
        gradients = [p.grad for p in self._engine.module.parameters() if p.grad is not None]
        norm = float(nn.utils.get_total_norm(gradients))
        if math.isfinite(norm):
            self._engine.step()
        else:
            self._engine.zero_grad()
        return norm

    def sum_over_ranks(self, values: Sequence[float]) -> list[float]:
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(total)
        summed: list[float] = total.tolist()
        return summed

    def barrier(self) -> None:
        torch.distributed.barrier()

    def weights(self) -> dict[str, Tensor]:
        module = self._engine.module
        with deepspeed.zero.GatheredParameters(list(module.parameters()), enabled=self._stage == 3):
            if self.rank:
                return {}
            return {name: value.detach().float().cpu().clone() for name, value in module.state_dict().items()}

    def gather(self, value: Json) -> list[Json]:
        values: list[Json] = [None] * self.world_size
        torch.distributed.gather_object(value, None if self.rank else values)
        return [] if self.rank else values

    def state_files(self) -> dict[str, Any]:
        return collect_files(self._engine, self._files)

    def load(self, folder: Path) -> None:
        load_files(self._engine, self._files, folder)


def _choose_interface() -> None:
    """gloo and NCCL use the interface that leads to rank 0; gloo would take the one that has the host name's address.

    What is set stays. Where rank 0's name means this machine's loopback, which leads nowhere, nothing is chosen.
    """
    _, here = way_to(os.environ["MASTER_ADDR"])
    name = interface_of(here)
    if name is not None and not ipaddress.ip_address(here).is_loopback:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", name)


def _switch_off_compiled_collectives() -> None:
    """DeepSpeed builds its shared-memory collectives at init where it believes it can; gloo needs none of them."""
    compatible = getattr(deepspeed.ops, "__compatible_ops__", None)
    if isinstance(compatible, dict):
        compatible["deepspeed_shm_comm"] = False
