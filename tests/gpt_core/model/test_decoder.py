import copy
import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from tiny_decoder import draw_ids, make_decoder

from gpt_core.model.attention import KeyValueCache, causal_attention, rotary_angles, rotate
from gpt_core.model.decoder import Decoder


def test_a_later_token_never_changes_earlier_activations(decoder: Decoder) -> None:
    ids = draw_ids(2, 12)
    changed = ids.clone()
    changed[:, 7:] = (changed[:, 7:] + 1) % 200
    before, after = decoder(ids), decoder(changed)
    assert torch.equal(before[:, :7], after[:, :7])
    assert (before[:, 7:] - after[:, 7:]).abs().amax(dim=-1).min() > 1e-3


@pytest.mark.parametrize("parts", [[1] * 12, [5, 1, 1, 5], [4, 8]])
def test_cached_steps_equal_the_whole_sequence_at_once(decoder: Decoder, parts: list[int]) -> None:
    ids = draw_ids(2, 12)
    cache = KeyValueCache(decoder.config)
    steps = [decoder(piece, cache=cache) for piece in ids.split(parts, dim=1)]
    assert cache.length == 12
    torch.testing.assert_close(torch.cat(steps, dim=1), decoder(ids), rtol=0, atol=2e-5)


def test_tokens_beyond_the_context_are_refused(decoder: Decoder) -> None:
    decoder(draw_ids(1, 24))
    with pytest.raises(ValueError, match="25 tokens exceed the context of 24"):
        decoder(draw_ids(1, 25))
    cache = KeyValueCache(decoder.config)
    decoder(draw_ids(1, 20), cache=cache)
    with pytest.raises(ValueError, match="25 tokens exceed the context of 24"):
        decoder(draw_ids(1, 5), cache=cache)


def test_weights_depend_on_the_seed_alone(architecture: str) -> None:
    one, same, other = (
        make_decoder(architecture, seed=1),
        make_decoder(architecture, seed=2),
        make_decoder(architecture),
    )
    torch.manual_seed(3)
    one.init_weights(7)
    torch.manual_seed(4)
    same.init_weights(7)
    other.init_weights(8)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.embedding.weight, other.embedding.weight)


def test_initial_weights_have_the_spread_of_their_sources(architecture: str) -> None:
    decoder = make_decoder(architecture)
    decoder.init_weights(0)
    block = decoder.blocks[0]
    residual = 0.02 / math.sqrt(2 * 2) if architecture == "gpt2" else 0.02
    assert decoder.embedding.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert block.mlp.up.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert block.mlp.down.weight.std().item() == pytest.approx(residual, rel=0.05)
    assert block.attention.out.weight.std().item() == pytest.approx(residual, rel=0.1)
    assert all(bool((p == 1).all()) for n, p in decoder.named_parameters() if "norm.weight" in n)
    assert all(bool((p == 0).all()) for n, p in decoder.named_parameters() if n.endswith("bias"))


@pytest.mark.filterwarnings("error")
def test_bf16_as_autocast_and_as_module_stays_near_fp32(decoder: Decoder) -> None:
    ids = draw_ids(2, 24)
    exact = decoder(ids)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        autocast = decoder(ids)
    module = copy.deepcopy(decoder).bfloat16()(ids)
    assert module.dtype == torch.bfloat16
    for rounded in (autocast, module):
        error = (rounded.float() - exact).norm() / exact.norm()
        assert 0 < error < 0.03


def test_dropout_acts_in_training_alone() -> None:
    plain = make_decoder("gpt2")
    dropping = Decoder(dataclasses.replace(plain.config, dropout=0.5)).eval()
    dropping.load_state_dict(plain.state_dict())
    ids = draw_ids(1, 8)
    assert torch.equal(dropping(ids), plain(ids))
    dropping.train()
    assert not torch.equal(dropping(ids), dropping(ids))


def gradients_and_saved_bytes(decoder: Decoder, *, recompute: bool) -> tuple[list[torch.Tensor], int]:
    decoder.activation_checkpointing = recompute
    saved = 0

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal saved
        saved += tensor.nbytes
        return tensor

    torch.manual_seed(5)
    positions = torch.cat((torch.arange(16), torch.arange(8))).expand(4, 24)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = decoder(draw_ids(4, 24), positions=positions).square().sum()
    return list(torch.autograd.grad(loss, list(decoder.parameters()))), saved


def test_activation_checkpointing_saves_less_and_changes_no_bit_of_the_gradients(decoder: Decoder) -> None:
    dropout = 0.0 if decoder.config.architecture == "qwen3" else 0.3
    dropping = Decoder(dataclasses.replace(decoder.config, dropout=dropout)).train()
    dropping.load_state_dict(decoder.state_dict())
    kept, kept_bytes = gradients_and_saved_bytes(dropping, recompute=False)
    anew, anew_bytes = gradients_and_saved_bytes(dropping, recompute=True)
    assert all(torch.equal(a, b) for a, b in zip(kept, anew, strict=True))
    inputs = decoder.config.n_layer * 4 * 24 * decoder.config.n_embd * 4
    assert inputs < anew_bytes < kept_bytes / 4


@pytest.mark.parametrize("n_kv_head", [1, 2, 4])
@pytest.mark.parametrize("n_tokens", [5, 128, 300])
def test_sliced_bf16_attention_equals_exact_attention_in_value_and_gradient(n_tokens: int, n_kv_head: int) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = (4, n_kv_head, n_kv_head)
    exact = [torch.randn(2, heads, n_tokens, 16, generator=generator).bfloat16().double() for heads in shapes]
    rounded = [tensor.bfloat16() for tensor in exact]
    slope = torch.randn(2, 4, n_tokens, 16, generator=generator)
    for tensor in exact + rounded:
        tensor.requires_grad_()
    wanted = F.scaled_dot_product_attention(*exact, is_causal=True, enable_gqa=True)
    wanted.backward(slope.double())
    found = causal_attention(*rounded, dropout=0.0)
    found.backward(slope.bfloat16())
    for a, b in [(found, wanted), *((r.grad, e.grad) for r, e in zip(rounded, exact, strict=True))]:
        assert (a.double() - b).norm() / b.norm() < 0.01


def test_rotation_keeps_lengths_and_makes_products_depend_on_distance_alone() -> None:
    config = make_decoder("qwen3").config
    x, y = torch.randn(2, 1, 1, 1, config.head_dim, generator=torch.Generator().manual_seed(0))

    def product(i: int, j: int) -> float:
        at_i, at_j = (rotary_angles(torch.tensor([position]), config) for position in (i, j))
        return float((rotate(x, at_i) * rotate(y, at_j)).sum())

    assert product(3, 1) == pytest.approx(product(12, 10), abs=1e-5)
    assert product(3, 1) != pytest.approx(product(3, 2), abs=1e-3)
    assert rotate(x, rotary_angles(torch.tensor([5]), config)).norm() == pytest.approx(x.norm())


def test_rotation_by_hand() -> None:
    quarter = (torch.zeros(1, 1, 1), torch.ones(1, 1, 1))  # cos, sin of 90 degrees
    assert rotate(torch.tensor([[[[3.0, 4.0]]]]), quarter).tolist() == [[[[-4.0, 3.0]]]]
