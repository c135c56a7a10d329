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
import resource
import shutil
import sys
import warnings
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.dlpack import from_dlpack

from gpt_core.errors import SetupError, UserError
from gpt_core.fingerprint import Json
from gpt_core.model.decoder import Block
from gpt_core.recipe import Optimization, TrainCluster
from gpt_core.training.optimizer import make_optimizer
from gpt_core.training.zero_config import make_zero_config
from jobs.freed_memory import keep_freed_memory
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
from deepspeed.utils import safe_get_full_fp32_param, set_z3_leaf_module

if sys.modules["mlflow"] is None:
    del sys.modules["mlflow"]

from jobs.zero_files import FilesInMemory, collect_files, load_files

NORM_PIECE = 4096  # elements whose squares are summed in fp32


def join_ranks(train: TrainCluster) -> tuple[int, int]:
    """All ranks have met. Returns (rank, world size). CPU threads are shared out among the ranks of this machine."""
    if "RANK" not in os.environ:  # DeepSpeed would look for MPI
        raise UserError("no RANK is set; start training jobs under torchrun, as `gptmill run` does")
    local_world = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE", "1"))  # torchrun, DeepSpeed
    torch.set_num_threads(train.threads_per_process or max(1, (os.cpu_count() or 1) // local_world))
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    logging.getLogger("DeepSpeed").addFilter(lambda record: "untested optimizer" not in record.getMessage())  # ours
    deepspeed_calls = r".*(all_gather_into|reduce_scatter)_tensor"
    warnings.filterwarnings("ignore", category=FutureWarning, message=deepspeed_calls)
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


def tell_all_ranks(value: Json) -> Any:
    """Rank 0's value. Every rank must call."""
    told = [value]
    torch.distributed.broadcast_object_list(told)
    return told[0]


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
        self._stage, self._precision = train.zero_stage, settings.precision
        parameters = sum(parameter.numel() for parameter in objective.parameters())
        self._optimizer = make_optimizer(
            objective, settings, zero_stage=train.zero_stage, rank=self.rank, world_size=self.world_size
        )
        self._optimizer.may_step = self._may_step
        if train.compile:
            _compile_blocks(objective)
        self._norm_limit = math.inf
        self._stepped = False
        self._allowed: bool | None = None  # once it is known of this step
        self._engine, *_ = deepspeed.initialize(
            model=objective,
            optimizer=self._optimizer,
            config=make_zero_config(settings, train, micro_batch=micro_batch, parameters=parameters),
        )
        if train.zero_stage in (1, 2):
            _share_weights(self._engine.optimizer)
            _sum_norms_by_pieces(self._engine.optimizer)
        self.device = torch.device(self._engine.device)
        self._engine.checkpoint_engine = self._files = FilesInMemory()
        self.whole = train.zero_stage < 3

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
        norm = self._plain_step() if self._stage == 0 else self._zero_step()
        if not self._stepped and self.device.type == "cpu":
            keep_freed_memory()
        self._stepped = True
        return norm

    def _zero_step(self) -> float:
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
        named = self._engine.module.named_parameters()
        learning = {name: value for name, value in named if value.requires_grad}
        if self._precision == "bf16":
            exact = {name: safe_get_full_fp32_param(value) for name, value in learning.items()}
            return {} if self.rank else {name: value.cpu().clone() for name, value in exact.items()}
        with deepspeed.zero.GatheredParameters(list(learning.values()), enabled=self._stage == 3):
            if self.rank:
                return {}
            return {name: value.detach().float().cpu().clone() for name, value in learning.items()}

    def gather(self, value: Json) -> list[Json]:
        values: list[Json] = [None] * self.world_size
        torch.distributed.gather_object(value, None if self.rank else values)
        return [] if self.rank else values

    def state_files(self) -> dict[str, Any]:
        return collect_files(self._engine, self._files)

    def close(self) -> None:
        self._engine.destroy()
        _forget(self._engine.module)

    def load(self, folder: Path) -> None:
        load_files(self._engine, self._files, folder)


def _share_weights(optimizer: Any) -> None:
    """The vectors that ZeRO 1 and 2 optimize are this rank's part of the weights, where those are fp32 themselves.

    DeepSpeed would keep a copy in the same precision: 4 bytes a parameter, shared by the ranks.
    """
    parts = getattr(optimizer, "parallel_partitioned_bit16_groups", [])
    if not parts or optimizer.cpu_offload or parts[0][0].dtype != torch.float32:
        return
    rank = torch.distributed.get_rank()
    for vector, weights in zip(optimizer.single_partition_of_fp32_groups, parts, strict=True):
        vector.data = from_dlpack(weights[rank].detach())  # a storage of its own: torch.save writes whole ones
    optimizer._link_all_hp_params()  # whose views hold the copies


def _sum_norms_by_pieces(optimizer: Any) -> None:
    """The norm of a group's gradients is summed in double precision over pieces of them.

    DeepSpeed makes a copy of each gradient in double precision: a twelfth of the time of a step on a CPU, and of a
    vocabulary's gradient 8 bytes an element.
    """

    def norm(gradients: Sequence[Tensor], _: object) -> Tensor:
        real = [gradient for gradient in gradients if not getattr(gradient, "_zero_padding", False)]
        square = (
            torch.stack([_square(gradient) for gradient in real]).sum()
            if real
            else torch.zeros((), dtype=torch.float64)
        )
        total = square.to(optimizer.device)
        torch.distributed.all_reduce(total, group=optimizer.dp_process_group)
        known: Tensor = torch.where(total.isfinite(), total.sqrt(), -1.0)  # -1 stands for any that is not finite
        return known.float()

    if hasattr(optimizer, "get_grad_norm_direct"):
        optimizer.get_grad_norm_direct = norm


def _square(values: Tensor) -> Tensor:
    """The sum of squares in double precision."""
    flat = values.detach().reshape(-1)
    whole = flat.numel() // NORM_PIECE * NORM_PIECE
    pieces = torch.linalg.vector_norm(flat[:whole].view(-1, NORM_PIECE), dim=1)
    rest = torch.linalg.vector_norm(flat[whole:].double())
    total: Tensor = pieces.double().square().sum() + rest.square()
    return total


def _forget(module: nn.Module) -> None:
    """DeepSpeed refers to the module no more, which stage 3 puts into a stack and into a method's cache for good."""
    stack: list[nn.Module] = getattr(deepspeed.runtime.zero.parameter_offload, "FWD_MODULE_STACK", [])
    stack[:] = [each for each in stack if each is not module]
    coordinator = deepspeed.runtime.zero.partitioned_param_coordinator.PartitionedParameterCoordinator
    method = getattr(coordinator, "_PartitionedParameterCoordinator__params_to_release", None)
    for cell in getattr(method, "__closure__", None) or ():
        if hasattr(cell.cell_contents, "cache_clear"):
            cell.cell_contents.cache_clear()


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
