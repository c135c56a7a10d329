"""Packed documents in one row are what each of them is alone, in values and gradients, and pads on the left are not."""

import pytest
import torch
from tiny_decoder import draw_ids
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from gpt_core.model import attention
from gpt_core.model.attention import KeyValueCache, causal_attention, document_mask
from gpt_core.model.decoder import Decoder

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


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_the_block_mask_of_a_gpu_hides_what_the_plain_mask_hides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "compiled_flex_attention", lambda: flex_attention)  # compiling takes a minute
    generator, places = torch.Generator().manual_seed(0), torch.arange(640)
    starts = torch.rand(3, 640, generator=generator) < 0.02
    starts[:, 0] = True
    positions = places - torch.where(starts, places, 0).cummax(dim=1).values
    plain = document_mask(positions, past=0, flex=False)
    blocks = document_mask(positions, past=0, flex=True)
    assert isinstance(blocks, BlockMask)
    visited = blocks.kv_num_blocks.sum() + blocks.full_kv_num_blocks.sum()
    assert visited < 3 * 15  # of 5 x 5 blocks a row, 15 are causal
    q, k, v = (torch.randn(3, heads, 640, 16, generator=generator) for heads in (4, 2, 2))
    found = causal_attention(q, k, v, dropout=0.0, mask=blocks)
    torch.testing.assert_close(found, causal_attention(q, k, v, dropout=0.0, mask=plain), rtol=0, atol=1e-5)
