# ruff: noqa: N806  dimensions are capitals
"""What a training takes, before it is started: parameters, arithmetic, disk; memory.py tells the memory of a rank.

Imports no torch.
"""

from dataclasses import dataclass

from gpt_core.model.config import DecoderConfig
from gpt_core.recipe import Pretrain, TrainCluster
from gpt_core.training.zero_config import micro_batch_size

CHINCHILLA_TOKENS = 20  # per parameter (Hoffmann et al. 2022, table 3: 20.2 tokens for the optimum of 1e21 FLOPs)
FP32 = 4


def training_flops_per_token(config: DecoderConfig, context_length: int) -> int:
    """FLOPs of the model for one token, forward and backward: 6 N + 12 L T C (Chowdhery et al. 2022, appendix B).

    N counts the elements of the matrices that a token is multiplied with: those of the blocks, and the output's V C,
    tied or not. The embedding's look-up, positions, biases and gains are no products. T is `context_length`; all T
    keys are counted for each query, as is the custom, though causal attention needs half of them. What is computed
    once more for activation checkpointing is not the model's and not counted.
    """
    L, C = config.n_layer, config.n_embd
    matrices = L * config.block_matrix_elements + config.vocab_size * C
    return 6 * matrices + 12 * L * context_length * C


def embedding_parameters(config: DecoderConfig) -> int:
    """Parameters of the token embedding, which is the output's matrix too, and of learned positions."""
    rows = config.vocab_size + (config.context_length if config.architecture != "qwen3" else 0)
    return rows * config.n_embd


@dataclass(frozen=True)
class Training:
    """One pre-training, whose cost is asked. `gpu`: ranks have one each; else they share a machine's memory."""

    config: DecoderConfig
    settings: Pretrain
    train: TrainCluster
    context_length: int
    gpu: bool

    @property
    def micro_batch(self) -> int:
        """Sequences that a rank takes at once."""
        return micro_batch_size(
            self.settings.batch_sequences,
            world_size=self.train.world_size,
            at_most=self.train.micro_batch_sequences,
        )

    @property
    def micro_batches(self) -> int:
        """Micro-batches of a rank in a step."""
        return self.settings.batch_sequences // self.train.world_size // self.micro_batch

    @property
    def steps(self) -> int:
        """Whole steps that the tokens make."""
        return self.settings.tokens // (self.settings.batch_sequences * self.context_length)

    @property
    def tokens(self) -> int:
        """Tokens of all steps."""
        return self.steps * self.settings.batch_sequences * self.context_length

    @property
    def flops(self) -> int:
        """FLOPs of the whole run, validation apart."""
        return self.tokens * training_flops_per_token(self.config, self.context_length)

    @property
    def optimal_tokens(self) -> int:
        """Tokens that are worth most to a model of this size for the arithmetic they take."""
        return CHINCHILLA_TOKENS * self.config.n_parameters

    def checkpoint_bytes(self) -> int:
        """One checkpoint on disk: weights as the module has them, and all that the optimizer keeps, of all ranks.

        Without ZeRO the module's weights are the optimizer's; at stage 3 only the optimizer's are written.
        """
        P = self.config.n_parameters
        written = self.moment_elements * FP32 + (P * FP32 if self.train.zero_stage else 0)
        return written + (P * self.weight_bytes if self.train.zero_stage < 3 else 0)

    def checkpoints_kept(self) -> int:
        """The most checkpoints that stand on disk at once: those kept, and one that is being written."""
        train = self.train
        made = (self.steps - 1) // train.checkpoint_every_steps
        kept = train.keep_checkpoints + (1 if train.keep_best else 0)
        if train.keep_every_steps is not None:
            kept += sum(
                step % train.keep_every_steps == 0
                for step in range(train.checkpoint_every_steps, self.steps, train.checkpoint_every_steps)
            )
        return min(made, kept + 1)

    @property
    def weight_bytes(self) -> int:
        """Bytes of a weight in the module."""
        return 2 if self.settings.precision == "bf16" else FP32

    @property
    def moment_elements(self) -> int:
        """Elements of all moments: two a parameter, one of Muon's matrices."""
        return 2 * self.config.n_parameters - self.muon_elements

    @property
    def muon_elements(self) -> int:
        """Parameters that Muon moves."""
        return self.config.n_layer * self.config.block_matrix_elements if self.settings.optimizer == "muon" else 0
