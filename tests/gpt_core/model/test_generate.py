from collections import Counter

import pytest
import torch
from tiny_decoder import make_decoder

from gpt_core.model.decoder import Decoder
from gpt_core.model.generate import generate


def test_greedy_text_equals_recomputing_the_whole_sequence_for_each_token(decoder: Decoder) -> None:
    ids = [5, 17, 99]
    for token in generate(decoder, ids.copy(), max_new_tokens=15, temperature=0.0):
        assert token == int(decoder.logits(decoder(torch.tensor([ids]))[0, -1]).argmax())
        ids.append(token)
    assert len(ids) == 18


def test_text_ends_with_the_context(decoder: Decoder) -> None:
    assert len(list(generate(decoder, [1] * 20, max_new_tokens=50))) == 4


def test_text_ends_before_the_stop_token(decoder: Decoder) -> None:
    tokens = list(generate(decoder, [5, 17, 99], max_new_tokens=12, temperature=0.0))
    stop = tokens[6]
    assert (
        list(generate(decoder, [5, 17, 99], max_new_tokens=12, temperature=0.0, stop_id=stop))
        == tokens[: tokens.index(stop)]
    )


def test_the_seed_alone_decides_what_is_drawn(decoder: Decoder) -> None:
    def draw(seed: int) -> list[int]:
        return list(generate(decoder, [5], max_new_tokens=10, temperature=1.0, top_k=50, seed=seed))

    assert draw(1) == draw(1) != draw(2)


def test_only_the_top_k_are_drawn_and_the_best_most_often() -> None:
    decoder = make_decoder("gpt2")
    best = decoder.logits(decoder(torch.tensor([[5]]))[0, -1]).topk(3).indices.tolist()
    drawn = Counter(
        next(generate(decoder, [5], max_new_tokens=1, temperature=2.0, top_k=3, seed=s)) for s in range(100)
    )
    assert set(drawn) == set(best)
    assert list(generate(decoder, [5], max_new_tokens=5, temperature=9.0, top_k=1)) == list(
        generate(decoder, [5], max_new_tokens=5, temperature=0.0)
    )


def test_a_low_temperature_draws_the_best_and_a_high_one_all_alike(decoder: Decoder) -> None:
    greedy = list(generate(decoder, [5], max_new_tokens=10, temperature=0.0))
    assert list(generate(decoder, [5], max_new_tokens=10, temperature=1e-3, seed=1)) == greedy
    drawn = Counter(
        next(generate(decoder, [5], max_new_tokens=1, temperature=1e3, top_k=2, seed=s)) for s in range(100)
    )
    assert 30 < min(drawn.values()) < 50


def test_barred_rows_of_the_vocabulary_are_never_drawn() -> None:
    decoder = make_decoder("gpt2")
    with torch.no_grad():
        decoder.embedding.weight[200:] *= 50.0
    assert max(generate(decoder, [5], max_new_tokens=20, temperature=5.0)) >= 200
    assert max(generate(decoder, [5], max_new_tokens=20, temperature=5.0, n_candidates=200)) < 200


@pytest.mark.parametrize("length", [0, 24])
def test_a_prompt_without_room_is_refused_before_the_first_token(length: int) -> None:
    with pytest.raises(ValueError, match=f"a prompt of {length} tokens; it must have 1 to 23"):
        generate(make_decoder("gpt2"), [1] * length, max_new_tokens=1)
