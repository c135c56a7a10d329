"""The bytes that a forward pass is said to keep are those that autograd's hooks see."""

import pytest
import torch

from gpt_core.model import attention, heads
from gpt_core.model.config import DecoderConfig
from gpt_core.model.decoder import Decoder
from gpt_core.recipe import Model
from gpt_core.training import activations
from gpt_core.training.activations import Pass
from gpt_core.training.objective import LanguageObjective

B, T, V = 2, 160, 500  # a whole slice of queries and a part of one


def make_config(architecture: str, dropout: float = 0.0) -> DecoderConfig:
    n_kv_head = 2 if architecture == "qwen3" else None
    model = Model(
        architecture=architecture,
        n_layer=2,
        n_head=4,
        n_kv_head=n_kv_head,
        n_embd=64,
        context_length=T,
        dropout=dropout,
    )
    return DecoderConfig.from_recipe(model, V)


def seen_by_autograd(config: DecoderConfig, precision: str, *, checkpointing: bool, mask: bool) -> int:
    """Bytes of all storages that are saved, each once, weights apart."""
    decoder = Decoder(config)
    decoder.init_weights(0)
    decoder.activation_checkpointing = checkpointing
    objective = LanguageObjective(decoder, precision).train()
    if precision == "bf16":
        objective = objective.bfloat16()
    weights = {parameter.untyped_storage().data_ptr() for parameter in objective.parameters()}
    saved: dict[int, torch.Tensor] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        saved.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    ids = torch.randint(0, V, (B, T), generator=torch.Generator().manual_seed(1))
    positions = torch.arange(T).expand(B, T).contiguous() if mask else None
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        objective(ids, ids, positions)
    return sum(tensor.untyped_storage().nbytes() for at, tensor in saved.items() if at not in weights)


CASES = [(a, mask, 0.0) for a in ("gpt1", "gpt2", "qwen3") for mask in (False, True)]
CASES += [("gpt1", False, 0.1), ("gpt2", False, 0.1)]


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("precision", ["fp32", "autocast", "bf16"])
@pytest.mark.parametrize(("architecture", "mask", "dropout"), CASES)
def test_saved_bytes_are_within_two_percent_of_what_autograd_saves(
    architecture: str, mask: bool, dropout: float, precision: str, checkpointing: bool
) -> None:
    config = make_config(architecture, dropout)
    told = Pass(config, B, T, precision, gpu=False, document_mask=mask, checkpointing=checkpointing).saved_bytes()
    seen = seen_by_autograd(config, precision, checkpointing=checkpointing, mask=mask)
    assert told == pytest.approx(seen, rel=0.02)


def test_a_block_computed_once_more_saves_what_it_would_have_kept() -> None:
    whole, inputs = (Pass(make_config("gpt2"), B, T, "autocast", gpu=False, checkpointing=on) for on in (False, True))
    kept = 2 * B * T * 64 * 4  # the inputs of two blocks, fp32
    assert whole.saved_bytes() - 2 * whole.block_bytes() == inputs.saved_bytes() - kept
    assert inputs.block_bytes() == whole.block_bytes()


def test_constants_are_the_models() -> None:
    assert (activations.SLICE_QUERIES, activations.SLICED_CONTEXT) == (
        attention.SLICE_QUERIES,
        attention.SLICED_CONTEXT,
    )
    assert (activations.SLICE_BYTES, activations.GPU_SLICE_BYTES, activations.PIECE_LOGITS) == (
        heads.SLICE_BYTES,
        heads.GPU_SLICE_BYTES,
        heads.PIECE_LOGITS,
    )


def test_a_gpu_keeps_no_probabilities_and_masks_of_a_byte() -> None:
    plain = {gpu: Pass(make_config("gpt2"), B, T, "bf16", gpu=gpu).block_bytes() for gpu in (False, True)}
    assert plain[True] == B * T * (2 * 66 * 2 + 2 * 64 * 2 + 4 * 64 * 2 + 4 * 4 + 2 * 256 * 2)
    assert plain[True] < plain[False]
    dropped = Pass(make_config("gpt2", 0.1), B, T, "bf16", gpu=True).block_bytes()
    assert dropped - plain[True] == B * T * 2 * 64
