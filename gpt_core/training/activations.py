# ruff: noqa: N803, N806  dimensions are capitals
"""Bytes that a forward pass keeps for the backward pass, counted from the shape of a decoder. Imports no torch.

Counted is what model/decoder.py, attention.py and heads.py make autograd save, tensor by tensor; a test holds it to
what autograd's hooks see on a CPU. A GPU is taken to save fused attention and norms as torch's kernels do. Left out
are rotary angles and random states, less than a hundredth. torch.compile saves no more.

Dimensions: B sequences of T tokens, C = n_embd, F = n_inner, H query heads, K key and value heads, D = head_dim,
V = vocab_size.
"""

from dataclasses import dataclass
from typing import Literal

from gpt_core.model.config import DecoderConfig
from gpt_core.training.estimate import FP32

# As in model/attention.py and model/heads.py, which import torch; a test holds them together.
SLICE_QUERIES, SLICED_CONTEXT = 128, 1024
SLICE_BYTES, GPU_SLICE_BYTES, PIECE_LOGITS = 2**26, 2**28, 2**19


@dataclass(frozen=True)
class Pass:
    """One micro-batch of `sequences` x `context_length` tokens through a decoder, forward and backward."""

    config: DecoderConfig
    sequences: int
    context_length: int
    precision: Literal["fp32", "bf16", "autocast"]
    gpu: bool
    document_mask: bool = False
    checkpointing: bool = False
    zero_stage_3: bool = False  # whose linear layer saves input and weights as they come, not as they are multiplied

    @property
    def tokens(self) -> int:
        """B T."""
        return self.sequences * self.context_length

    @property
    def products(self) -> int:
        """Bytes of an element that a product takes and gives."""
        return FP32 if self.precision == "fp32" else 2

    @property
    def weights(self) -> int:
        """Bytes of an element of the module's weights, and of what blocks add up."""
        return 2 if self.precision == "bf16" else FP32

    def saved_bytes(self) -> int:
        """All that stands saved when the forward pass ends; with checkpointing the inputs of the blocks."""
        config, C = self.config, self.config.n_embd
        per_token = 8 + (self._dropout_bytes(self.weights) if config.architecture != "qwen3" else 0)  # ids, int64
        if config.architecture == "gpt2":
            per_token += (C + 2) * self.weights  # the final norm's input, mean and deviation
        elif config.architecture == "qwen3":
            per_token += self._rms_norm_bytes()
        if self.checkpointing and self._masked:
            per_token += self.context_length  # one mask of booleans for all blocks
        blocks = self.tokens * C * self.weights if self.checkpointing else self.block_bytes()
        return self.tokens * per_token + config.n_layer * blocks + self.loss_gradient_bytes()

    def block_bytes(self) -> int:
        """What one block saves, computed as it stands or once more."""
        config, e = self.config, self.products
        C, F = config.n_embd, config.n_inner
        if config.architecture == "qwen3":
            norms, mlp, dropped = 2 * self._rms_norm_bytes(), 4 * F * e, 0
        else:
            norms, mlp, dropped = 2 * (C + 2) * self.weights, 2 * F * e, 2 * self._dropout_bytes(e)
        inputs = 2 * C * (self.weights if self.zero_stage_3 else e)
        per_token = norms + inputs + self._attention_bytes() + mlp + dropped
        return self.tokens * per_token + self.weight_cast_bytes()

    def weight_cast_bytes(self) -> int:
        """The bf16 copies of a block's matrices that autocast makes and keeps."""
        if self.precision != "autocast" or self.zero_stage_3:
            return 0
        return 2 * self.config.block_matrix_elements

    def loss_gradient_bytes(self) -> int:
        """The gradients of the final activations and of the output matrix, which the loss makes as it goes."""
        config = self.config
        return self.tokens * config.n_embd * self.products + config.vocab_size * config.n_embd * FP32

    def loss_bytes(self) -> int:
        """What stands beside all that is saved while the loss is made: a slice of logits and a part of a gradient."""
        config, e = self.config, self.products
        V, C = config.vocab_size, config.n_embd
        slice_rows = max(1, (GPU_SLICE_BYTES if self.gpu else SLICE_BYTES) // (V * e))
        rows = -(-self.tokens // -(-self.tokens // slice_rows))  # slices are of like size
        exact_rows = min(rows, rows if self.gpu else max(1, PIECE_LOGITS // V))
        exact = 0 if e == FP32 else exact_rows * V * FP32
        part = V * C * e + (V * C * FP32 if e < FP32 and not self.gpu else 0)  # a CPU adds bf16 to fp32 by way of fp32
        casts = (V * C + self.tokens * C) * e if self.precision == "autocast" else 0
        kept_casts = config.n_layer * self.weight_cast_bytes() if self.checkpointing else 0  # until autocast ends
        return rows * V * e + exact + part + casts + kept_casts

    def first_gradient_bytes(self) -> int:
        """What stands beside all that is saved when the backward pass begins: those gradients, scaled."""
        config = self.config
        matrix = config.vocab_size * config.n_embd
        scaled = self.tokens * config.n_embd * self.weights + matrix * FP32
        return scaled + (matrix * self.weights if self.weights < FP32 else 0)

    def _rms_norm_bytes(self) -> int:
        """Input, deviation and output before the gain. On a CPU a bf16 input is kept in fp32."""
        entry = self.weights if self.gpu else FP32
        return self.config.n_embd * (entry + self.weights) + FP32

    def _dropout_bytes(self, element: int) -> int:
        """A mask over C: of booleans on a GPU, of the input's dtype on a CPU."""
        return self.config.n_embd * (1 if self.gpu else element) if self.config.dropout else 0

    def _attention_bytes(self) -> int:
        """Queries, keys, values and output, and what the kernel keeps of the probabilities."""
        config, e, T = self.config, self.products, self.context_length
        H, K, D, C = config.n_head, config.n_kv_head, config.head_dim, config.n_embd
        qk_norm = turned = 0
        if config.architecture == "qwen3":
            qk_norm = (H + K) * (D * e + FP32)  # the normalized and the deviation
            turned = (H + K) * D * e
            if e < FP32 and not self.gpu:
                qk_norm += (H + K) * D * FP32  # the input once more, in fp32
        if not self.gpu and config.dropout:  # torch's plain kernel: probabilities, their mask and what is left, in fp32
            return qk_norm + 3 * C * FP32 + C * e + 3 * H * T * FP32
        if not self.gpu and e < FP32 and T <= SLICED_CONTEXT:
            return qk_norm + 4 * C * e + H * _mean_keys(T) * e
        mask = T * e if self._masked else 0
        return qk_norm + turned + (H + 2 * K) * D * e + C * e + H * FP32 + mask

    @property
    def _masked(self) -> bool:
        """Whether attention takes a mask of T x T elements a sequence; a GPU's skips blocks of keys where it can."""
        return self.document_mask and (not self.gpu or self.config.dropout > 0)


def _mean_keys(T: int) -> int:
    """Keys that a query has probabilities for, on average over the slices of queries."""
    ends = [min(start + SLICE_QUERIES, T) for start in range(0, T, SLICE_QUERIES)]
    return sum((end - start) * end for start, end in zip(range(0, T, SLICE_QUERIES), ends, strict=True)) // T
