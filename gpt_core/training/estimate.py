# ruff: noqa: N806  dimensions are capitals
"""What a training takes, before it is started: memory of a rank, arithmetic, disk. Imports no torch.

Memory is counted from the shape of the decoder and from what DeepSpeed 0.19.8 allocates for a ZeRO stage (Rajbhandari
et al. 2020, section 3, and what the formula there leaves out: fp32 copies of fp32 weights, buckets, copies for the
norm). benchmarks/zero_memory.py holds it to what ranks on CPUs take. The code of the process itself is not in it, nor
what an allocator loses between blocks.
"""

from dataclasses import dataclass
from typing import Literal

from gpt_core.model.config import DecoderConfig
from gpt_core.recipe import Pretrain, TrainCluster
from gpt_core.training.activations import FP32, Pass
from gpt_core.training.zero_config import micro_batch_size, reduce_bucket_elements

CHINCHILLA_TOKENS = 20  # per parameter (Hoffmann et al. 2022, table 3: 20.2 tokens for the optimum of 1e21 FLOPs)
PLAIN_BUCKET_ELEMENTS = 500_000_000  # DeepSpeed's, without ZeRO
FP64 = 8


@dataclass(frozen=True)
class Moment:
    """Bytes that stand, beside weights and optimizer, at one moment of a step."""

    name: Literal["forward", "backward", "reduction", "step"]
    gradients: int
    activations: int
    buffers: int

    @property
    def total(self) -> int:
        """Their sum."""
        return self.gradients + self.activations + self.buffers


@dataclass(frozen=True)
class RankMemory:
    """Bytes of one rank: on its GPU; what is offloaded is `host`. Without a GPU both stand in the same memory."""

    weights: int
    optimizer: int  # moments and fp32 weights
    gradients: int  # between two micro-batches
    peak: Moment
    host: int

    @property
    def device(self) -> int:
        """The most that stands on the device at once."""
        return self.weights + self.optimizer + self.peak.total


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

    def memory(self) -> RankMemory:
        """The most that one rank takes."""
        return _Zero(self).memory()

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


class _Zero:
    """What DeepSpeed's engine holds of one training on one rank, by ZeRO stage."""

    def __init__(self, training: Training) -> None:
        self.training, self.train = training, training.train
        self.stage, self.ranks = training.train.zero_stage, training.train.world_size
        self.bytes, self.P = training.weight_bytes, training.config.n_parameters
        self.part = -(-self.P // self.ranks)  # elements of a rank's part
        self.largest = training.config.vocab_size * training.config.n_embd  # the embedding
        self.bucket = reduce_bucket_elements(self.P)
        # Whole gradients of all parameters that a rank holds a part of: DeepSpeed parts fp32 ones no finer.
        self.held = _held_elements(training, self.ranks) if self.bytes == FP32 else self.part
        self.optimizer_away = training.train.offload != "none"
        self.weights_away = training.train.offload == "parameters"
        # DeepSpeed's BF16_Optimizer, which it takes for this alone: it keeps fp32 gradients of all parameters.
        self.whole_gradients = self.stage == 1 and self.bytes < FP32 and not self.optimizer_away
        self.saved = Pass(
            training.config,
            training.micro_batch,
            training.context_length,
            training.settings.precision,
            gpu=training.gpu,
            document_mask=training.settings.document_mask,
            checkpointing=training.train.activation_checkpointing,
            zero_stage_3=self.stage == 3,
        )

    def memory(self) -> RankMemory:
        shared = 1 if self.stage == 0 else self.ranks
        moments = -(-self.training.moment_elements // shared) * FP32
        optimizer = moments + (self.part * FP32 if self.stage else 0)
        weights = (self.part if self.stage == 3 else self.P) * self.bytes
        return RankMemory(
            weights=0 if self.weights_away else weights,
            optimizer=0 if self.optimizer_away else optimizer,
            gradients=self.gradients_before(),
            peak=max(self.moments(), key=lambda moment: moment.total),
            host=(optimizer + self.host_buffers() if self.optimizer_away else 0)
            + (weights if self.weights_away else 0),
        )

    def moments(self) -> tuple[Moment, ...]:
        """Four moments of a step's last micro-batch; the greatest is the step's peak."""
        before = self.gradients_before()
        standing = self.standing_buffers()
        forward, backward = self.saved.saved_bytes(), self.saved.saved_bytes()
        begins = self.saved.first_gradient_bytes()
        if self.saved.checkpointing:  # the loss's gradients are gone when the last block is computed once more
            begins = max(begins, self.saved.block_bytes())
        # A GPU's bucket is taken whole at once; a CPU's page by page, while activations go.
        bucket = self.bucket_bytes() if 0 < self.stage < 3 and self.training.gpu else 0
        in_backward = begins + self.gathered(self.live()) + bucket
        return (
            Moment("forward", before, forward, standing + self.saved.loss_bytes() + self.gathered(self.largest)),
            Moment("backward", before, backward, standing + in_backward),
            Moment("reduction", self.gradients_after(), 0, standing + self.reduction_buffers()),
            Moment("step", self.gradients_in_step(), 0, standing + self.step_buffers()),
        )

    def gradients_before(self) -> int:
        """What stands of earlier micro-batches when the last one begins."""
        if self.stage == 3:
            return 0 if self.optimizer_away else self.part * FP32
        if self.whole_gradients:
            return self.P * (FP32 + (self.bytes if self.training.micro_batches > 1 else 0))
        if self.training.micro_batches == 1:
            return 0
        if self.stage == 2:
            return 0 if self.optimizer_away and self.bytes == FP32 else self.held * FP32
        return self.P * FP32

    def gradients_after(self) -> int:
        """What stands when the backward pass ends."""
        if self.whole_gradients:
            return self.P * (FP32 + self.bytes)
        if self.stage < 2:
            return self.P * FP32
        if self.optimizer_away and (self.stage == 3 or self.bytes == FP32):
            return 0
        return (self.held if self.stage == 2 else self.part) * FP32

    def gradients_in_step(self) -> int:
        if self.optimizer_away:
            return 0
        if self.stage == 0 or self.whole_gradients:
            return self.P * FP32
        return (self.held if self.stage < 3 else self.part) * FP32

    def bucket_bytes(self) -> int:
        """The buffer in which ZeRO gathers gradients until it reduces them."""
        return self.bucket * (FP32 if self.stage == 1 else self.bytes) if not self.whole_gradients else 0

    def standing_buffers(self) -> int:
        """What stands all the time: stage 3's bucket, the buffers of an offload for the largest gradient."""
        if self.stage == 3:
            return self.bucket_bytes()
        return self.largest * self.bytes if self.optimizer_away else 0

    def reduction_buffers(self) -> int:
        """At the end of the backward pass: the embedding's two gradients, the bucket and its copy for the network."""
        # The output's gradient waits for the look-up's; before ZeRO 2 one of them may be counted among all gradients.
        both = 1 if self.stage < 2 and self.training.micro_batches == 1 else 2
        two = self.largest * self.bytes * both
        if self.stage == 0:
            return max(two, min(self.P, PLAIN_BUCKET_ELEMENTS) * FP32 if self.ranks > 1 else 0)
        if self.whole_gradients:
            return max(two, self.P * (FP32 + self.bytes))  # a copy in fp32 and one in the dtype of the network
        sent = max(self.bucket, self.largest)
        # The rank's part, before it is added to that of earlier micro-batches or takes the place of all gradients.
        apart = self.stage == 1 or (self.stage == 2 and self.bytes == FP32 and self.training.micro_batches > 1)
        part = self.held * FP32 if apart and not self.optimizer_away else 0
        bucket = self.bucket_bytes() if self.stage < 3 else self.gathered(self.live())
        return bucket + max(two, sent * FP32 if self.stage == 2 else sent * self.bytes) + part

    def step_buffers(self) -> int:
        """A copy of the rank's gradients as one vector, or of the largest in double precision for the norm."""
        if self.optimizer_away or self.stage == 0:
            return self._muon_buffers()
        if self.whole_gradients:
            return max(self.part * FP64, self._muon_buffers())
        largest = -(-self.largest // self.ranks) if self.stage == 3 else min(self.largest, self.part)
        copied = self.part * FP32 if self.bytes == FP32 or self.stage == 3 else 0
        # Muon's group comes last, when all gradients but its copy are gone.
        muon = self._muon_buffers() + copied - self.gradients_in_step() if self.training.muon_elements else 0
        return max(largest * FP64, copied, muon)

    def _muon_buffers(self) -> int:
        """Momenta that look ahead, and the matrices that this rank orthogonalizes, and what of them travels."""
        e, elements = self.saved.products, self.training.muon_elements
        owned = -(-elements // self.ranks)
        if self.stage == 0:  # all matrices stand on every rank, apart and as one vector
            return elements * (2 * FP32) + owned * e + 2 * (elements - owned) * e
        travels = 2 * (owned - owned // self.ranks) if self.stage == 3 else 0  # before it, only those a border cuts
        return owned * (FP32 + e) + travels * e

    def gathered(self, elements: int) -> int:
        """Stage 3's whole weights, of so many elements."""
        return min(self.P, elements) * self.bytes if self.stage == 3 else 0

    def live(self) -> int:
        """Elements of whole weights that stand at once between the embedding's uses."""
        return self.bucket

    def host_buffers(self) -> int:
        """Beside the states: gradients, twice, in fp32; before stage 3 also a copy of the weights, and the norm's."""
        if self.stage == 3:
            return 2 * self.part * FP32
        summed = self.part * FP32 if self.training.micro_batches > 1 else 0
        return self.part * (FP32 + self.bytes + FP64) + summed + self.largest * self.bytes


def _held_elements(training: Training, ranks: int) -> int:
    """The most elements, over ranks, of parameters that ZeRO 1 or 2 gives a rank at least a part of.

    Each group of the optimizer is one vector, cut evenly: matrices and embeddings, Muon's apart. Vectors are left out.
    """
    config = training.config
    C, heads = config.n_embd, (config.n_head + 2 * config.n_kv_head) * config.head_dim
    up = config.n_inner * (2 if config.architecture == "qwen3" else 1)
    blocks = [C * heads, C * C, C * up, C * config.n_inner] * config.n_layer
    first = [config.vocab_size * C]
    if config.architecture != "qwen3":
        first.append(config.context_length * C)
    groups = [first, blocks] if training.muon_elements else [first + blocks]
    held = [0] * ranks
    for sizes in groups:
        part, start = -(-sum(sizes) // ranks), 0
        for size in sizes:
            for rank in range(start // part, (start + size - 1) // part + 1):
                held[rank] += size
            start += size
    return max(held)
