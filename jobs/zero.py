"""DeepSpeed ZeRO as an Engine: the only deepspeed import.

Runs under torchrun, one process a rank: NCCL on GPUs, gloo on CPUs. Nothing is compiled at start: the optimizer is
torch's, and DeepSpeed's shared-memory collectives, a three-minute build, are switched off.
"""

import logging
import math
import os
import resource
import shutil
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gpt_core.errors import SetupError, UserError
from gpt_core.fingerprint import Json
from gpt_core.model.decoder import Block
from gpt_core.recipe import Optimization, TrainCluster
from gpt_core.training.optimizer import make_optimizer
from gpt_core.training.zero_config import make_zero_config

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("DS_LOG_LEVEL", "warning")

import deepspeed
import deepspeed.ops
from deepspeed.utils import safe_get_full_fp32_param, set_z3_leaf_module

STATE = "gptmill"  # the key of our state among DeepSpeed's own


def join_ranks(train: TrainCluster) -> tuple[int, int]:
    """All ranks have met. Returns (rank, world size). CPU threads are shared out among the ranks of this machine."""
    if "RANK" not in os.environ:  # DeepSpeed would look for MPI
        raise UserError("no RANK is set; start training jobs under torchrun, as `gptmill run` does")
    local_world = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(train.threads_per_process or max(1, (os.cpu_count() or 1) // local_world))
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    logging.getLogger("DeepSpeed").addFilter(lambda record: "untested optimizer" not in record.getMessage())  # ours
    deepspeed_calls = r".*(all_gather_into|reduce_scatter)_tensor"
    warnings.filterwarnings("ignore", category=FutureWarning, message=deepspeed_calls)
    _switch_off_compiled_collectives()
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    deepspeed.init_distributed(dist_backend="nccl" if cuda else "gloo", verbose=False)
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


class ZeroEngine:
    """An Engine on deepspeed.initialize; see gpt_core/training/engine.py for what each method promises."""

    def __init__(self, objective: nn.Module, settings: Optimization, train: TrainCluster, *, micro_batch: int) -> None:
        self.rank = torch.distributed.get_rank()
        self.world_size = torch.distributed.get_world_size()
        self._stage, self._precision = train.zero_stage, settings.precision
        parameters = sum(parameter.numel() for parameter in objective.parameters())
        self._optimizer = make_optimizer(
            objective, settings, zero_stage=train.zero_stage, rank=self.rank, world_size=self.world_size
        )
        self._optimizer.may_step = self._may_step
        if train.compile:
            _compile_blocks(objective)
        self._norm_limit = math.inf
        self._allowed: bool | None = None  # once it is known of this step
        self._engine, *_ = deepspeed.initialize(
            model=objective,
            optimizer=self._optimizer,
            config=make_zero_config(settings, train, micro_batch=micro_batch, parameters=parameters),
        )
        self.device = torch.device(self._engine.device)

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

    def step(self, share: float, *, norm_limit: float = math.inf) -> float:
        self._optimizer.set_rates(share)
        self._norm_limit, self._allowed = norm_limit, None
        if self._stage == 0:
            return self._plain_step()
        self._engine.step()
        return self._gradient_norm()

    def _gradient_norm(self) -> float:
        """The norm that ZeRO has found before it steps its optimizer, infinite where it is not finite."""
        norm = float(self._engine.optimizer._global_grad_norm)  # get_global_grad_norm() tells it only after the step
        return norm if norm >= 0 else math.inf  # -1 stands for any that is not finite

    def _may_step(self) -> bool:
        """Whether the optimizer may move what ZeRO has put into it: the same on all ranks, and for all its groups."""
        if self._allowed is None:
            self._allowed = self._stage == 0 or self._is_allowed(self._gradient_norm())
        return self._allowed

    def _is_allowed(self, norm: float) -> bool:
        return math.isfinite(norm) and norm <= self._norm_limit

    def _plain_step(self) -> float:
        """Without ZeRO DeepSpeed neither tells the norm nor skips; the gradients are those of all ranks already."""
        gradients = [p.grad for p in self._engine.module.parameters() if p.grad is not None]
        norm = float(nn.utils.get_total_norm(gradients))
        if self._is_allowed(norm):
            self._engine.step()
        else:
            self._engine.zero_grad()
        return norm

    def sum_over_ranks(self, values: Sequence[float] | Tensor) -> list[float]:
        total = torch.as_tensor(values, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(total)
        summed: list[float] = total.tolist()
        return summed

    def memory_bytes(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024

    def barrier(self) -> None:
        torch.distributed.barrier()

    def weights(self) -> dict[str, Tensor]:
        module = self._engine.module
        if self._precision == "bf16":
            exact = {name: safe_get_full_fp32_param(value) for name, value in module.named_parameters()}
            return {} if self.rank else {name: value.cpu().clone() for name, value in exact.items()}
        with deepspeed.zero.GatheredParameters(list(module.parameters()), enabled=self._stage == 3):
            if self.rank:
                return {}
            return {name: value.detach().float().cpu().clone() for name, value in module.state_dict().items()}

    def save(self, folder: Path, state: dict[str, Json]) -> None:
        self._engine.save_checkpoint(str(folder), tag="zero", client_state={STATE: state}, save_latest=False)

    def load(self, folder: Path) -> dict[str, Json]:
        _, client_state = self._engine.load_checkpoint(str(folder), tag="zero")
        state: dict[str, Json] = client_state[STATE]
        return state


def _compile_blocks(objective: nn.Module) -> None:
    """The blocks' forward passes are compiled: one compilation, for all have the same code; one more to validate.

    The hooks by which ZeRO 3 gathers weights stay outside: it treats a block as a whole, where it would stop at every
    layer within. The head runs as it is, for its slices depend on the data.
    """
    require_compiler()
    for module in objective.modules():
        if isinstance(module, Block):
            set_z3_leaf_module(module, True)
            module.forward = torch.compile(module.forward)  # type: ignore[method-assign]


def require_compiler() -> None:
    """Raises SetupError where torch.compile would find no C++ compiler for its kernels."""
    compiler = os.environ.get("CXX", "g++")  # as torch looks for it
    if shutil.which(compiler) is None:
        raise SetupError(
            f"cluster.train.compile=true needs a C++ compiler, and there is no {compiler} on PATH; install one, name "
            "it in CXX, or set cluster.train.compile to false"
        )


def _switch_off_compiled_collectives() -> None:
    """DeepSpeed builds its shared-memory collectives at init where it believes it can; gloo needs none of them."""
    compatible = getattr(deepspeed.ops, "__compatible_ops__", None)
    if isinstance(compatible, dict):
        compatible["deepspeed_shm_comm"] = False
