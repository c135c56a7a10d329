"""What a training loop needs of whoever runs the model on one or many ranks. jobs/zero.py is DeepSpeed's.

A loss handed to `backward` is a sum over this rank's tokens or examples, divided by their number in the whole global
batch. The engine adds over micro-batches and over ranks and never averages, so that gradients do not depend on how a
batch is cut.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, device

from gpt_core.fingerprint import Json


class Engine(Protocol):
    """One model with its optimizer, seen from one rank."""

    rank: int
    world_size: int
    device: device
    whole: bool  # the module has all its weights on every rank, and may be used between steps

    def forward(self, *inputs: Tensor) -> Any:
        """The objective's output, with gradients."""

    def predict(self, *inputs: Tensor) -> Any:
        """The objective's output in evaluation mode, without gradients. Every rank must call it equally often."""

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """The loss's gradients are added; `last` marks the step's last micro-batch."""

    def step(self, share: float, *, norm_limit: float = math.inf) -> float:
        """The weights have moved, by `share` of each group's peak learning rate. Returns the global gradient norm.

        That is the norm of the gradients before clipping. Where it is not finite or over `norm_limit`, neither
        weights nor moments have moved. The step's gradients are gone in any case.
        """

    def sum_over_ranks(self, values: Sequence[float] | Tensor) -> list[float]:
        """Each value summed over all ranks, on every rank, in double precision."""

    def memory_bytes(self) -> int:
        """The most memory that this rank has held: for tensors on its GPU, without one of its whole process."""

    def barrier(self) -> None:
        """Every rank has come here."""

    def weights(self) -> dict[str, Tensor]:
        """All weights that learn, in fp32 on the CPU, gathered, on rank 0; elsewhere empty. Every rank must call."""

    def gather(self, value: Json) -> list[Json]:
        """Every rank's value, in the order of the ranks, on rank 0; elsewhere empty. Every rank must call."""

    def state_files(self) -> dict[str, Any]:
        """What this rank has to write so that `load` finds it: path below a folder -> a text, or what torch.save takes.

        Its tensors are the live ones. Every rank must call.
        """

    def load(self, folder: Path) -> None:
        """Weights, optimizer and loss scale are those of the engine that wrote the folder, on however many ranks.

        Every rank must call, before the first step. Raises ArtifactError, on all ranks, for another model's files.
        """

    def close(self) -> None:
        """Nothing more comes: once nobody refers to the engine its memory is free. Every rank must call."""
