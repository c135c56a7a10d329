# ruff: noqa: N806  dimensions are capitals
"""The memory that a rank of a training takes, by ZeRO stage. Imports no torch.

It is counted from the shape of the decoder and from what DeepSpeed 0.19.8 allocates (Rajbhandari et al. 2020, section
3, and what the formula there leaves out: whole gradients of cut matrices, buckets, copies for the norm).
benchmarks/zero_memory.py holds it to what ranks on CPUs take: within a tenth. The code of the process itself is not in
it, nor what an allocator loses between blocks; the host's part of an offload is the sum of what it holds at different
moments.
"""

from dataclasses import dataclass
from typing import Literal

from gpt_core.training.activations import Pass
from gpt_core.training.estimate import FP32, Training
from gpt_core.training.zero_config import reduce_bucket_elements

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
    optimizer: int  # moments, and fp32 weights where the model's are bf16, elsewhere or at stage 3
    gradients: int  # between two micro-batches
    peak: Moment
    host: int

    @property
    def device(self) -> int:
        """The most that stands on the device at once."""
        return self.weights + self.optimizer + self.peak.total


def rank_memory(training: Training) -> RankMemory:
    """The most that one rank of the training takes."""
    return _Zero(training).memory()


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
        copied = self.stage == 3 or (self.stage > 0 and (self.bytes < FP32 or self.optimizer_away))
        optimizer = moments + (self.part * FP32 if copied else 0)
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
        """A copy of the rank's gradients as one vector, or at stage 3 of the largest in double precision."""
        if self.optimizer_away or self.stage == 0:
            return self._muon_buffers()
        if self.whole_gradients:
            return max(self.part * FP64, self._muon_buffers())
        in_double = -(-self.largest // self.ranks) * FP64 if self.stage == 3 else 0  # for the norm
        copied = self.part * FP32 if self.bytes == FP32 or self.stage == 3 else 0
        # Muon's group comes last, when all gradients but its copy are gone.
        muon = self._muon_buffers() + copied - self.gradients_in_step() if self.training.muon_elements else 0
        return max(in_double, copied, muon)

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
