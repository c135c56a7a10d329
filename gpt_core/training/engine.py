"""What a training loop needs of whoever runs the model on one or many ranks. jobs/zero.py is DeepSpeed's.

A loss handed to `backward` is a sum over this rank's tokens or examples, divided by their number in the whole global
batch. The engine adds over micro-batches and over ranks and never averages, so that gradients do not depend on how a
batch is cut.
"""

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

    def forward(self, *inputs: Tensor) -> Any:
        """The objective's output, with gradients."""

    def predict(self, *inputs: Tensor) -> Any:
        """The objective's output in evaluation mode, without gradients. Every rank must call it equally often."""

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """The loss's gradients are added; `last` marks the step's last micro-batch."""

    def step(self, learning_rate: float) -> float:
        """The weights have moved. Returns the global gradient norm before clipping.

        Where that is not finite, nothing has moved, and the step's gradients are gone.
        """

    def sum_over_ranks(self, values: Sequence[float]) -> list[float]:
        """Each value summed over all ranks, on every rank, in double precision."""

    def barrier(self) -> None:
        """Every rank has come here."""

    def weights(self) -> dict[str, Tensor]:
        """All weights of the model in fp32 on the CPU, gathered, on rank 0; elsewhere empty. Every rank must call."""

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
