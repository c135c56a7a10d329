"""The optimizer of a decoder: AdamW with decay on matrices only, and with `muon` Muon for the matrices of its blocks.

One torch optimizer for every ZeRO stage. At stage 0 it holds the parameters; from stage 1 on DeepSpeed puts vectors
in their place, this rank's part of each group, and steps group by group. Before, it clips all gradients by their
global norm: clipping comes before the moments of either kind.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from gpt_core.model.attention import Attention
from gpt_core.model.decoder import Mlp
from gpt_core.recipe import Optimization, Pretrain
from gpt_core.training.muon import Layout, Shape, SharedMatrices


def make_optimizer(
    model: nn.Module, settings: Optimization, *, zero_stage: int = 0, rank: int = 0, world_size: int = 1
) -> "DecoderOptimizer":
    """The recipe's optimizer over `model`, before ZeRO of that stage parts its weights among the ranks.

    Parameters with two or more dimensions decay, gains and biases do not.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    muon = isinstance(settings, Pretrain) and settings.optimizer == "muon"
    of_muon = block_matrices(model) if muon else {}
    rest = [parameter for parameter in parameters if parameter not in of_muon]
    decay = {"peak": settings.learning_rate, "weight_decay": settings.weight_decay}
    groups: list[dict[str, Any]] = [
        {"params": [parameter for parameter in rest if parameter.ndim >= 2], **decay},
        {"params": [parameter for parameter in rest if parameter.ndim < 2], **decay, "weight_decay": 0.0},
    ]
    if isinstance(settings, Pretrain) and of_muon:
        groups.append(
            {
                "params": list(of_muon),
                "peak": settings.muon_learning_rate,
                "weight_decay": settings.weight_decay,
                "momentum": settings.muon_momentum,
            }
        )
    layout = Layout.of_zero(list(of_muon.values()), stage=zero_stage, world_size=world_size) if of_muon else None
    return DecoderOptimizer(
        [group for group in groups if group["params"]],
        settings,
        SharedMatrices(layout, rank=rank) if layout is not None else None,
    )


def block_matrices(model: nn.Module) -> dict[Tensor, tuple[Shape, ...]]:
    """The weights of attention and MLP, each with the shapes of the matrices whose rows it fuses."""
    found: dict[Tensor, tuple[Shape, ...]] = {}
    for module in model.modules():
        if isinstance(module, Attention):
            config = module.config
            query, key = config.n_head * config.head_dim, config.n_kv_head * config.head_dim
            found[module.qkv.weight] = tuple((rows, config.n_embd) for rows in (query, key, key))
            found[module.out.weight] = (_shape(module.out),)
        elif isinstance(module, Mlp):
            rows, columns = _shape(module.up)
            parts = 2 if module.gated else 1
            found[module.up.weight] = ((rows // parts, columns),) * parts
            found[module.down.weight] = (_shape(module.down),)
    return found


def _shape(linear: nn.Linear) -> Shape:
    return linear.out_features, linear.in_features


class DecoderOptimizer(AdamW):
    """AdamW; and Muon (Jordan et al. 2024) for the group with a momentum, if there is one.

    Each group has its `peak` learning rate. `may_step` is asked before anything moves: where it says no, weights and
    moments stay as they are.
    """

    def __init__(self, groups: list[dict[str, Any]], settings: Optimization, matrices: SharedMatrices | None) -> None:
        self.may_step: Callable[[], bool] = lambda: True
        self._matrices = matrices
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._products = torch.float32 if settings.precision == "fp32" else torch.bfloat16
        # Fused, 10 M elements take a thread of a CPU 11 ms; torch's default takes 176, its foreach 121.
        super().__init__(
            groups, lr=settings.learning_rate, betas=(settings.beta1, settings.beta2), eps=settings.eps, fused=True
        )
        self._settings = [{name: value for name, value in group.items() if name != "params"} for group in groups]

    def set_rates(self, share: float) -> None:
        """Every group has `share` of its peak rate; its other settings are the recipe's, not a checkpoint's."""
        for group, settings in zip(self.param_groups, self._settings, strict=True):
            group.update(settings, lr=share * settings["peak"])

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """The parameters have moved, where `may_step` lets them. DeepSpeed calls it for one group after the other."""
        if not self.may_step():
            return
        groups = self.param_groups
        for group in groups:
            if "momentum" in group and group["params"]:
                self._step_muon(group)
        self.param_groups = [group for group in groups if "momentum" not in group]
        super().step(closure)
        self.param_groups = groups

    def _step_muon(self, group: dict[str, Any]) -> None:
        """w = w (1 - lr decay) - lr scale orthogonal(Nesterov's momentum), on whole matrices or a rank's part."""
        parameters: list[Tensor] = group["params"]
        momentum = group["momentum"]
        looks_ahead = []
        for parameter in parameters:
            assert parameter.grad is not None
            average = self._average(parameter).lerp_(parameter.grad, 1 - momentum)
            looks_ahead.append(parameter.grad.lerp(average, momentum).view(-1))
        part = torch.cat(looks_ahead) if len(looks_ahead) > 1 else looks_ahead[0]
        assert self._matrices is not None
        self._matrices.orthogonalize_(part, device=self._device, dtype=self._products)
        moves = torch.split(part, [parameter.numel() for parameter in parameters])
        for parameter, move in zip(parameters, moves, strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.sub_(move.view_as(parameter), alpha=group["lr"])

    def _average(self, parameter: Tensor) -> Tensor:
        """The average of the gradients so far, kept under AdamW's name."""
        state = self.state[parameter]
        if "exp_avg" not in state:
            state["step"] = torch.zeros(())
            state["exp_avg"] = torch.zeros_like(parameter)
        state["step"] += 1
        average: Tensor = state["exp_avg"]
        return average
