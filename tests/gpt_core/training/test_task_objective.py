"""L1, L2 and L3 by hand, and what counts in them.

The decoder has weights of which all can be worked out. Its blocks add nothing, so a token's activation is its
embedding, normalized: (1, -1) for tokens 0 and 2, (-1, 1) for 1 and 3, times the gain ln(3) / 4. The product of two
such rows is ln(3) / 2 where they are alike and -ln(3) / 2 where they are not, and the four logits of the next token
are two of each: a token like the last has probability 3/8, another 1/8. With W_y of the rows (1, -1) and (-1, 1) a
last token 0 or 2 gives class 0, 1 or 3 class 1, by 3/4.
"""

import math
from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor, nn

from gpt_core.model.config import DecoderConfig
from gpt_core.model.decoder import Decoder
from gpt_core.model.heads import TaskModel
from gpt_core.model.hf import save_language_model
from gpt_core.tasks.spec import Target, TaskSpec
from gpt_core.training.objective import CompletionObjective, TaskObjective

LN3 = math.log(3)
NONE = -100
near = pytest.approx  # the norm's 1e-5 under the root costs 5e-6


def make_decoder() -> Decoder:
    decoder = Decoder(DecoderConfig("gpt2", 4, 1, 1, 1, 2, 8, 8, 0.0, 10_000.0))
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.zero_()
        decoder.embedding.weight.copy_(torch.tensor([[1.0, -1.0], [-1.0, 1.0]] * 2))
        decoder.norm.weight.fill_(LN3 / 4)
    return decoder


def make_objective(target: Target, *, lm: bool = True, class_weights: Tensor | None = None) -> TaskObjective:
    labels = ("a", "b") if target in ("class", "classes") else ()
    spec = TaskSpec("classification", target, labels, ("text",), "label", 8, None)
    model = TaskModel(make_decoder(), n_outputs=spec.n_outputs, target=target, dropout=0.0)
    with torch.no_grad():
        model.score.weight.copy_(torch.tensor([[1.0, -1.0], [-1.0, 1.0]])[: spec.n_outputs])
    return TaskObjective(model, spec, "fp32", with_language_model=lm, class_weights=class_weights)


# Of three examples with a sequence each, the second is shorter and the last only fills.
IDS = torch.tensor([[[0, 1, 3]], [[2, 0, 1]], [[1, 1, 1]]])
LENGTHS = torch.tensor([[3], [2], [1]])
TARGETS = torch.tensor([[[1, 3, NONE]], [[0, NONE, NONE]], [[NONE] * 3]])


def test_three_losses_of_classes_by_hand() -> None:
    l2, l1, outputs = make_objective("class")(IDS, LENGTHS, TARGETS, torch.tensor([0, 0, NONE]))
    # The first ends in 3, so class 0 has 1/4; the second in 0: 3/4.
    assert l2.item() == near(math.log(4) + math.log(4 / 3), rel=1e-4)
    # 0 -> 1: 1/8. 1 -> 3: 3/8. 2 -> 0: 3/8.
    assert l1.item() == near(math.log(8) + 2 * math.log(8 / 3), rel=1e-4)
    # L3 over 2 examples and 3 targets: 0.83699 + 0.5 x 1.34704
    assert (l2 / 2 + 0.5 * l1 / 3).item() == near(1.51051, rel=1e-4)
    assert outputs[:2].flatten().tolist() == near([-LN3 / 2, LN3 / 2, LN3 / 2, -LN3 / 2], rel=1e-4)
    assert not outputs.requires_grad


def test_a_class_weighs_what_it_is_given() -> None:
    objective = make_objective("class", class_weights=torch.tensor([3.0, 0.5]))
    l2, _, _ = objective(IDS, LENGTHS, TARGETS, torch.tensor([1, 0, NONE]))
    assert l2.item() == near(0.5 * math.log(4 / 3) + 3 * math.log(4 / 3), rel=1e-4)


def test_without_the_language_model_l1_is_zero() -> None:
    _, l1, _ = make_objective("class", lm=False)(IDS, LENGTHS, TARGETS, torch.tensor([0, 0, NONE]))
    assert l1.item() == 0


def test_two_orders_are_summed_and_both_are_language() -> None:
    ids, lengths = torch.tensor([[[0, 1], [1, 2]], [[1, 2], [3, 0]]]), torch.full((2, 2), 2)
    targets = torch.tensor([[[1, NONE], [2, NONE]], [[2, NONE], [0, NONE]]])
    l2, l1, outputs = make_objective("class")(ids, lengths, targets, torch.tensor([0, 1]))
    # Ends in 1 and 2 cancel: 1/2. Ends in 2 and 0 double the logits: class 1 has 1 / (1 + 9).
    assert l2.item() == near(math.log(2) + math.log(10), rel=1e-4)
    assert l1.item() == near(4 * math.log(8), rel=1e-4)
    assert outputs.flatten().tolist() == near([0, 0, LN3, -LN3], abs=1e-4)


def test_many_classes_cost_the_mean_of_their_binary_entropies() -> None:
    labels = torch.tensor([[1.0, 0.0], [1.0, 1.0], [math.nan] * 2])
    l2, _, _ = make_objective("classes")(IDS, LENGTHS, TARGETS, labels)
    # The logits are -+ ln(3) / 2, so class 0 has 1 / (1 + sqrt 3) and class 1 sqrt 3 / (1 + sqrt 3), then the reverse.
    wrong, right = math.log(1 + math.sqrt(3)), math.log(1 + 1 / math.sqrt(3))
    assert l2.item() == near((wrong + wrong) / 2 + (right + wrong) / 2, rel=1e-4)


def test_a_number_costs_its_squared_error() -> None:
    l2, _, outputs = make_objective("number")(IDS, LENGTHS, TARGETS, torch.tensor([1.0, 0.0, math.nan]))
    assert l2.item() == near((1 + LN3 / 2) ** 2 + (LN3 / 2) ** 2, rel=1e-4)
    assert outputs.shape == (3,)


def test_choices_compete_with_those_of_their_example_alone() -> None:
    ids = torch.tensor([[[0, 0], [1, 1], [0, 3]], [[1, 1], [1, 2], [1, 1]], [[1, 1]] * 3])
    lengths = torch.tensor([[2, 2, 2], [2, 2, 0], [0, 0, 0]])
    targets = torch.full((3, 3, 2), NONE)
    objective = make_objective("choice")
    l2, l1, outputs = objective(ids, lengths, targets, torch.tensor([1, 1, NONE]))
    # Scores are ln(3) / 2 for an end in 0 or 2 and minus that for 1 or 3: 1 of 3 + 1 + 1, and 3 of 1 + 3.
    assert l2.item() == near(math.log(5) + math.log(4 / 3), rel=1e-4)
    assert l1.item() == 0
    assert outputs[1:].isneginf().tolist() == [[False, False, True], [True, True, True]]
    l2.backward()
    gradients = [parameter.grad for parameter in objective.parameters() if parameter.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("target", ["class", "classes", "number", "choice"])
def test_rows_that_fill_move_nothing(target: Target) -> None:
    objective = make_objective(target)
    nothing = {"class": torch.tensor([NONE]), "choice": torch.tensor([NONE]), "number": torch.tensor([math.nan])}
    labels = nothing.get(target, torch.full((1, 2), math.nan))
    l2, l1, _ = objective(IDS[2:], LENGTHS[2:], TARGETS[2:], labels)
    (l2 + l1).backward()
    assert (l2.item(), l1.item()) == (0, 0)
    assert all(p.grad is None or not p.grad.any() for p in objective.parameters())


def test_a_completion_costs_its_own_tokens() -> None:
    objective = CompletionObjective(make_decoder(), "fp32")
    targets = torch.tensor([[[NONE, 3, NONE]], [[0, NONE, NONE]], [[NONE] * 3]])
    l2, l1, outputs = objective(IDS, LENGTHS, targets, torch.zeros(3))
    assert l2.item() == near(2 * math.log(8 / 3), rel=1e-4)
    assert l1.item() == 0
    assert outputs[:, 0].tolist() == near([math.log(8 / 3), math.log(8 / 3), 0], rel=1e-4)
    assert outputs[:, 1].tolist() == [1, 1, 0]


def test_l1_is_the_language_models_loss_of_transformers(tmp_path: Path) -> None:
    decoder = Decoder(DecoderConfig("gpt2", 128, 2, 2, 2, 16, 32, 16, 0.0, 10_000.0))
    decoder.init_weights(0)
    nn.init.normal_(decoder.embedding.weight, generator=torch.Generator().manual_seed(1))
    save_language_model(decoder, tmp_path)
    peer = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ids = torch.randint(128, (2, 2, 9), generator=torch.Generator().manual_seed(2))
    lengths = torch.tensor([[9, 4], [1, 7]])
    labels = ids.masked_fill(torch.arange(9) >= lengths[..., None], NONE)
    targets = torch.cat((labels[..., 1:], torch.full((2, 2, 1), NONE)), dim=-1)
    model = TaskModel(decoder, n_outputs=2, target="class", dropout=0.0)
    spec = TaskSpec("classification", "class", ("a", "b"), ("text",), "label", 16, None)
    objective = TaskObjective(model, spec, "fp32", with_language_model=True)
    _, l1, _ = objective(ids, lengths, targets, torch.tensor([0, 1]))
    wanted = peer(ids.view(4, 9), labels=labels.view(4, 9)).loss
    torch.testing.assert_close(l1 / (8 + 3 + 0 + 6), wanted, rtol=1e-5, atol=0)
    completion, _, each = CompletionObjective(decoder, "fp32")(ids, lengths, targets, torch.zeros(2))
    torch.testing.assert_close(completion, l1, rtol=1e-6, atol=0)
    assert each[:, 1].tolist() == [11, 6]
