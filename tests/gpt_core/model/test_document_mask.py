"""Packed documents in one row are what each of them is alone, in values and gradients, and pads on the left are not."""

import pytest
import torch
from tiny_decoder import draw_ids
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from gpt_core.model import decoder as decoder_module
from gpt_core.model import document_mask as module
from gpt_core.model.attention import KeyValueCache, causal_attention
from gpt_core.model.decoder import Decoder
from gpt_core.model.document_mask import Mask, document_mask

LENGTHS = [[3, 1, 8, 12], [24], [10, 13, 1]]


def positions_of(lengths: list[list[int]]) -> torch.Tensor:
    return torch.stack([torch.cat([torch.arange(n) for n in row]) for row in lengths])


def gradients(loss: torch.Tensor, decoder: Decoder) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, list(decoder.parameters())))


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("autocast", 3e-2), ("bf16", 3e-2)])
def test_packed_documents_are_what_each_is_alone(decoder: Decoder, precision: str, tolerance: float) -> None:
    if precision == "bf16":
        decoder.bfloat16()
    ids, slope = draw_ids(3, 24), torch.randn(3, 24, 256, generator=torch.Generator().manual_seed(2))
    alone = []
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "autocast"):
        packed = decoder.logits(decoder(ids, positions=positions_of(LENGTHS)))
        for row, lengths in zip(ids, LENGTHS, strict=True):
            alone += [decoder.logits(decoder(document[None])) for document in row.split(lengths)]
        across = decoder.logits(decoder(ids))
    separate = torch.cat(alone, dim=1).view(3, 24, -1)
    assert (packed - separate).norm() <= tolerance * separate.norm()
    assert (packed - across).norm() > 10 * tolerance * across.norm()
    both = zip(gradients((packed * slope).sum(), decoder), gradients((separate * slope).sum(), decoder), strict=True)
    for a, b in both:
        assert (a - b).norm() <= tolerance * b.norm()


def test_prompts_padded_on_the_left_go_on_as_each_does_alone(decoder: Decoder) -> None:
    prompts, rest = [draw_ids(1, 7), draw_ids(1, 3, seed=2)], draw_ids(2, 9, seed=3)
    ids = torch.cat((prompts[0], torch.cat((torch.full((1, 4), 5), prompts[1]), dim=1)))
    cache = KeyValueCache(decoder.config)
    found = [decoder(ids, positions=torch.tensor([[0, 1, 2, 3, 4, 5, 6], [0, 0, 0, 0, 0, 1, 2]]), cache=cache)[:, -1:]]
    places = torch.tensor([[7, 8, 9, 10, 11, 12, 13, 14, 15], [3, 4, 5, 6, 7, 8, 9, 10, 11]])
    for part in (slice(0, 1), slice(1, 5), slice(5, 9)):
        found.append(decoder(rest[:, part], positions=places[:, part], cache=cache))
    for row, prompt in enumerate(prompts):
        alone = decoder(torch.cat((prompt, rest[row : row + 1]), dim=1))[:, prompt.size(1) - 1 :]
        torch.testing.assert_close(torch.cat(found, dim=1)[row : row + 1], alone, rtol=0, atol=2e-5)


def test_positions_that_count_on_from_zero_are_the_default(decoder: Decoder) -> None:
    ids = draw_ids(2, 24)
    assert torch.equal(decoder(ids, positions=torch.arange(24).expand(2, 24)), decoder(ids))


def random_positions(n_tokens: int, *, rate: float) -> torch.Tensor:
    places = torch.arange(n_tokens)
    starts = torch.rand(3, n_tokens, generator=torch.Generator().manual_seed(0)) < rate
    starts[:, 0] = True
    return places - torch.where(starts, places, 0).cummax(dim=1).values


@pytest.mark.parametrize("n_tokens", [5, 128, 300, 640])
@pytest.mark.parametrize("rate", [0.002, 0.02, 1.0])
def test_the_block_mask_is_the_one_that_torch_makes_of_the_plain_mask(n_tokens: int, rate: float) -> None:
    positions = random_positions(n_tokens, rate=rate)
    plain = document_mask(positions, past=0, flex=False)
    blocks = document_mask(positions, past=0, flex=True)
    assert isinstance(plain, torch.Tensor)
    assert isinstance(blocks, BlockMask)
    wanted = create_block_mask(lambda b, _, q, k: plain[b, 0, q, k], 3, None, n_tokens, n_tokens, device="cpu")
    for kind in ("kv", "full_kv", "q", "full_q"):
        found, there = getattr(blocks, f"{kind}_num_blocks"), getattr(wanted, f"{kind}_num_blocks")
        assert torch.equal(found, there), kind
        listed = torch.arange(blocks.kv_indices.size(-1)) < found[..., None]
        theirs = getattr(wanted, f"{kind}_indices")
        assert torch.equal(getattr(blocks, f"{kind}_indices")[listed], theirs[listed]), kind


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_hides_what_the_plain_mask_hides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "compiled_flex_attention", lambda: flex_attention)  # compiling takes a minute
    positions, generator = random_positions(300, rate=0.02), torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(3, heads, 300, 16, generator=generator) for heads in (4, 2, 2))
    found, wanted = (
        causal_attention(q, k, v, dropout=0.0, mask=document_mask(positions, past=0, flex=flex))
        for flex in (True, False)
    )
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("mask", ["none", "plain", "flex"])
def test_a_compiled_block_is_one_graph_that_other_documents_never_compile_again(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch, mask: str
) -> None:
    def make_mask(positions: torch.Tensor, *, past: int, flex: bool) -> Mask:
        return document_mask(positions, past=past, flex=mask == "flex")

    monkeypatch.setattr(decoder_module, "document_mask", make_mask)
    flex = mask == "flex"
    decoder.train(not flex)  # flex has no gradient on a CPU
    decoder.activation_checkpointing = True
    torch.compiler.reset()
    for block in decoder.blocks:
        block.compile(backend="eager", fullgraph=True)
    for n, stance in ((10, "default"), (11, "fail_on_recompile"), (24, "fail_on_recompile")):
        positions = None if mask == "none" else positions_of([[n, 24 - n]] * 2)
        with torch.compiler.set_stance(stance), torch.set_grad_enabled(not flex):
            hidden = decoder(draw_ids(2, 24, seed=n), positions=positions)
            if not flex:
                hidden.sum().backward()
