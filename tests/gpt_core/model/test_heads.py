import math

import pytest
import torch
import torch.nn.functional as F
from tiny_decoder import draw_ids, make_decoder
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gpt_core.model import heads
from gpt_core.model.decoder import Decoder
from gpt_core.model.heads import LanguageModel, TaskModel, example_losses, token_cross_entropy


def plain_loss(decoder: Decoder, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    logits = decoder.logits(decoder(ids)).float()
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum", ignore_index=-100)


def gradients(loss: torch.Tensor, module: torch.nn.Module) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, list(module.parameters())))


@pytest.mark.parametrize("rows", [1, 7, 1000])
@pytest.mark.parametrize("ignored", [0, 5])
def test_the_likelihood_equals_plain_cross_entropy_in_value_and_gradient(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch, rows: int, ignored: int
) -> None:
    monkeypatch.setattr(heads, "SLICE_BYTES", 4 * rows * decoder.config.vocab_size)
    monkeypatch.setattr(heads, "PIECE_LOGITS", 3 * decoder.config.vocab_size)
    ids, targets = draw_ids(2, 12), draw_ids(2, 12, seed=2)
    targets[0, :ignored] = -100
    wanted = plain_loss(decoder, ids, targets)
    found, z = LanguageModel(decoder)(ids, targets)
    assert z.item() == 0
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-5)
    for a, b in zip(gradients(found / 3, decoder), gradients(wanted / 3, decoder), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("z_loss", [1e-3, 0.5])
def test_the_z_loss_has_the_value_and_gradient_of_plain_torch(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch, z_loss: float
) -> None:
    monkeypatch.setattr(heads, "SLICE_BYTES", 4 * 7 * decoder.config.vocab_size)
    monkeypatch.setattr(heads, "PIECE_LOGITS", 3 * decoder.config.vocab_size)
    ids, targets = draw_ids(2, 12), draw_ids(2, 12, seed=2)
    targets[0, :5] = -100
    log_z = decoder.logits(decoder(ids)).logsumexp(dim=-1)[targets != -100]
    wanted = plain_loss(decoder, ids, targets) + z_loss * log_z.square().sum()
    nats, z = LanguageModel(decoder, z_loss=z_loss)(ids, targets)
    assert (nats.dtype, z.dtype, z.requires_grad) == (torch.float32, torch.float32, False)
    torch.testing.assert_close(z, log_z.square().sum().detach(), rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(nats + z_loss * z, wanted, rtol=1e-6, atol=1e-5)
    found = gradients((nats + z_loss * z) / 3, decoder)
    for a, b in zip(found, gradients(wanted / 3, decoder), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_equal_logits_cost_the_logarithm_of_the_vocabulary() -> None:
    loss = token_cross_entropy(torch.ones(1, 3, 4), torch.ones(10, 4), torch.tensor([[1, -100, 2]]))
    assert loss.item() == pytest.approx(2 * math.log(10))


def test_without_any_target_loss_and_gradient_are_zero(decoder: Decoder) -> None:
    loss, _ = LanguageModel(decoder)(draw_ids(1, 4), torch.full((1, 4), -100))
    assert loss.item() == 0
    assert all(bool((gradient == 0).all()) for gradient in gradients(loss, decoder))


def test_huge_logits_neither_overflow_nor_vanish() -> None:
    hidden = torch.tensor([[200.0, 0.0]], requires_grad=True)
    weight = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    loss = token_cross_entropy(hidden, weight, torch.tensor([1]))
    loss.backward()
    assert loss.item() == 400.0
    assert hidden.grad is not None
    assert hidden.grad.tolist() == [[2.0, 0.0]]


@pytest.mark.parametrize("mode", ["autocast", "module"])
def test_the_likelihood_is_fp32_and_near_the_exact_one_in_bf16(decoder: Decoder, mode: str) -> None:
    ids, targets = draw_ids(2, 12), draw_ids(2, 12, seed=2)
    wanted = plain_loss(decoder, ids, targets)
    exact = gradients(wanted, decoder)
    if mode == "module":
        decoder.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mode == "autocast"):
        loss, _ = LanguageModel(decoder)(ids, targets)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(wanted.item(), rel=0.01)
    for parameter, gradient, b in zip(decoder.parameters(), gradients(loss, decoder), exact, strict=True):
        assert gradient.dtype == parameter.dtype
        assert (gradient.float() - b).norm() <= 0.1 * b.norm()


class LogitsSeen(TorchDispatchMode):
    """The size of every tensor with one column for each row of a vocabulary of 256."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.sizes += [tensor.numel() for tensor in tensors if tensor.ndim and tensor.size(-1) == 256]
        return result


def test_the_logits_never_stand_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = make_decoder("gpt2")
    monkeypatch.setattr(heads, "SLICE_BYTES", 4 * 32 * 256)
    with LogitsSeen() as seen:
        loss, _ = LanguageModel(decoder)(draw_ids(8, 24), draw_ids(8, 24, seed=2))
        gradients(loss, decoder)
    assert max(seen.sizes) == 32 * 256


def test_no_gradient_is_made_where_none_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = make_decoder("gpt2")
    model, ids = LanguageModel(decoder), draw_ids(1, 8)
    wanted, _ = model(ids, ids)
    monkeypatch.setattr(torch.Tensor, "scatter_add_", None)  # only the gradient needs it
    with torch.no_grad():
        assert model(ids, ids)[0].item() == wanted.item()


def test_a_frozen_output_costs_no_gradient_and_leaves_the_others_as_they_are(decoder: Decoder) -> None:
    ids, targets = draw_ids(2, 8), draw_ids(2, 8, seed=2)
    hidden = decoder(ids).detach().requires_grad_()
    weight = decoder.embedding.weight
    (wanted,) = torch.autograd.grad(token_cross_entropy(hidden, weight, targets), hidden)
    weight.requires_grad_(False)
    loss = token_cross_entropy(hidden, weight, targets)
    assert [tensor is None for tensor in loss.grad_fn.saved_tensors] == [False, True]
    assert torch.equal(torch.autograd.grad(loss, hidden)[0], wanted)


def test_each_example_has_its_nats_and_its_targets(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "SLICE_BYTES", 4 * 7 * decoder.config.vocab_size)
    ids, targets = draw_ids(3, 2, 6), draw_ids(3, 2, 6, seed=2)
    targets[0, 0, :4], targets[1] = -100, -100
    hidden = decoder(ids.view(6, 6)).view(3, 2, 6, -1)
    nats, each = example_losses(hidden, decoder.embedding.weight, targets)
    alone = [plain_loss(decoder, *row) for row in zip(ids, targets, strict=True)]
    assert each[:, 1].tolist() == [8, 0, 12]
    torch.testing.assert_close(each[:, 0], torch.stack(alone).detach(), rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(nats, torch.stack(alone).sum(), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("target", ["class", "classes", "number", "choice"])
def test_an_examples_sequences_are_pooled_at_their_last_tokens_whatever_pads_them(
    decoder: Decoder, target: str
) -> None:
    n_outputs = 3 if target.startswith("class") else 1
    model = TaskModel(decoder, n_outputs=n_outputs, target=target, dropout=0.0)  # type: ignore[arg-type]
    ids, lengths = draw_ids(3, 2, 10), torch.tensor([[10, 1], [6, 0], [2, 7]])
    logits, hidden = model(ids, lengths)
    assert hidden.shape == (3, 2, 10, 32)
    for row, (first, second) in enumerate(lengths.tolist()):
        pooled = [decoder(ids[row, n : n + 1, :length])[0, -1] for n, length in enumerate((first, second)) if length]
        if target == "choice":
            wanted = [model.score(each).item() for each in pooled] + [-math.inf] * (2 - len(pooled))
            assert logits[row].tolist() == pytest.approx(wanted, abs=1e-5)
        else:
            alone = model.score(sum(pooled))
            torch.testing.assert_close(logits[row], alone[0] if target == "number" else alone, rtol=0, atol=1e-5)


def test_the_score_of_a_task_depends_on_its_seed_alone() -> None:
    decoder = make_decoder("gpt2")

    def weight(**seed: int) -> torch.Tensor:
        return TaskModel(decoder, n_outputs=300, target="class", dropout=0.1, **seed).score.weight

    torch.manual_seed(1)
    one = weight(seed=5)
    torch.manual_seed(2)
    assert torch.equal(one, weight(seed=5))
    assert not torch.equal(one, weight())
    assert one.std().item() == pytest.approx(0.02, rel=0.05)
