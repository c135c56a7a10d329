from collections import Counter

import pytest
import torch

from gpt_core.model.sampling import Sampling, choose_tokens

ODDS = [0.1, 0.5, 0.15, 0.25]  # the best first: ids 1, 3, 2, 0


def choose(sampling: Sampling, *draws: float, odds: list[float] = ODDS) -> list[int]:
    """The id for each draw."""
    logits = torch.tensor([odds]).log().expand(len(draws), -1)
    return choose_tokens(logits, sampling, torch.tensor(draws, dtype=torch.float64)).tolist()


def test_a_draw_picks_the_id_at_which_the_distribution_function_passes_it() -> None:
    assert choose(Sampling(), 0.0, 0.09, 0.11, 0.59, 0.61, 0.74, 0.76, 0.999) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_the_nucleus_by_hand() -> None:
    """0.5 + 0.25 < 0.8 <= 0.5 + 0.25 + 0.15: three tokens share 0.9, the borders are 0.5 / 0.9 and 0.75 / 0.9."""
    assert choose(Sampling(top_p=0.8), 0.0, 0.555, 0.556, 0.833, 0.834, 0.999) == [1, 1, 3, 3, 2, 2]
    assert choose(Sampling(top_p=0.7), 0.0, 0.666, 0.667, 0.999) == [1, 1, 3, 3]
    assert choose(Sampling(top_p=0.51), 0.0, 0.666, 0.667, 0.999) == [1, 1, 3, 3]
    assert choose(Sampling(top_p=0.49), 0.0, 0.999) == [1, 1]
    assert choose(Sampling(top_p=1e-9), 0.0, 0.999) == [1, 1]


def test_top_k_by_hand() -> None:
    assert choose(Sampling(top_k=1), 0.0, 0.999) == [1, 1]
    assert choose(Sampling(top_k=2), 0.0, 0.666, 0.667, 0.999) == [1, 1, 3, 3]
    assert choose(Sampling(top_k=9), 0.05, 0.2, 0.7, 0.9) == [0, 1, 2, 3]


def test_the_nucleus_is_that_of_the_top_k() -> None:
    """Of the best three, 0.9 in all, the first two have 0.83: enough for 0.8, which of all four they have not."""
    assert choose(Sampling(top_k=3, top_p=0.8), 0.0, 0.666, 0.667, 0.999) == [1, 1, 3, 3]


def test_the_temperature_flattens_before_anything_is_barred() -> None:
    """Square roots 0.316, 0.707, 0.387, 0.5 of 1.911: the best two have 0.63 at temperature 2, and 0.75 at 1."""
    assert choose(Sampling(temperature=2.0), 0.16, 0.17, 0.53, 0.54, 0.73, 0.74) == [0, 1, 1, 2, 2, 3]
    assert set(choose(Sampling(temperature=2.0, top_p=0.7), *torch.linspace(0, 0.999, 50).tolist())) == {1, 2, 3}
    assert set(choose(Sampling(top_p=0.7), *torch.linspace(0, 0.999, 50).tolist())) == {1, 3}


def test_temperature_zero_takes_the_best_whatever_is_drawn_and_a_tiny_one_too() -> None:
    for temperature in (0.0, 1e-4, 1e-300):
        assert choose(Sampling(temperature=temperature), 0.0, 0.999) == [1, 1]


def test_draws_over_all_numbers_give_every_token_its_odds() -> None:
    n = 10_000
    draws = [(i + 0.5) / n for i in range(n)]
    assert Counter(choose(Sampling(), *draws)) == {0: 1000, 1: 5000, 2: 1500, 3: 2500}
    counts = Counter(choose(Sampling(top_p=0.8), *draws))
    assert [counts[i] / n for i in (1, 3, 2)] == pytest.approx([0.5 / 0.9, 0.25 / 0.9, 0.15 / 0.9], abs=1e-4)


def test_the_last_draw_of_all_gives_a_token_that_is_not_barred() -> None:
    greatest = 1.0 - 2.0**-53
    logits = torch.randn(1000, 300, generator=torch.Generator().manual_seed(0)) * 4
    draws = torch.full((1000,), greatest, dtype=torch.float64)
    best = logits.topk(20).indices
    for sampling in (Sampling(top_k=20), Sampling(top_k=20, top_p=0.9)):
        chosen = choose_tokens(logits, sampling, draws)
        assert bool((best == chosen[:, None]).any(dim=1).all())


def test_every_row_has_its_own_logits_and_draw() -> None:
    logits = torch.randn(7, 50, generator=torch.Generator().manual_seed(0))
    draws = torch.rand(7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for sampling in (Sampling(0.0), Sampling(), Sampling(0.8, 9, 0.9)):
        alone = [choose_tokens(logits[i : i + 1], sampling, draws[i : i + 1]).item() for i in range(7)]
        assert choose_tokens(logits, sampling, draws).tolist() == alone
        assert len(set(alone)) > 1


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(-0.1, 0, 1.0), (float("nan"), 0, 1.0), (float("inf"), 0, 1.0), (1.0, -1, 1.0), (1.0, 0, 0.0), (1.0, 0, 1.1)],
)
def test_settings_without_a_meaning_are_refused(temperature: float, top_k: int, top_p: float) -> None:
    with pytest.raises(ValueError, match="temperature must be 0 or more, top_k too, and top_p over 0 and at most 1"):
        Sampling(temperature, top_k, top_p)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_refused(temperature: float, bad: float) -> None:
    with pytest.raises(FloatingPointError, match="the decoder's logits are not finite"):
        choose_tokens(torch.tensor([[1.0, bad]]), Sampling(temperature), torch.zeros(1, dtype=torch.float64))
