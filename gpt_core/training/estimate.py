"""What a training needs, from its shape alone. Imports no torch."""

from gpt_core.model.config import DecoderConfig


def training_flops_per_token(config: DecoderConfig, context_length: int) -> int:
    """6 N + 12 L T C: forward and backward FLOPs, N parameters of matrices, the tied output among them."""
    C, F = config.n_embd, config.n_inner  # noqa: N806
    qkv = (config.n_head + 2 * config.n_kv_head) * config.head_dim
    matrices = config.n_layer * (C * qkv + C * C + (2 + (config.architecture == "qwen3")) * C * F)
    return 6 * (matrices + config.vocab_size * C) + 12 * config.n_layer * context_length * C
