from pathlib import Path

import pytest
import torch
import transformers
from tiny_decoder import make_decoder

from gpt_core.model import generate
from gpt_core.model.attention import KeyValueCache
from gpt_core.model.decoder import Decoder
from gpt_core.model.generate import Generation
from gpt_core.model.hf import save_language_model
from gpt_core.model.sampling import Sampling

GREEDY = Sampling(temperature=0.0)
PROMPTS = [[5, 17, 99], [1] * 20, [7, 8, 9, 10, 11], [3], [42, 17, 8]]  # the context has 24 tokens


def continue_prompts(
    decoder: Decoder,
    prompts: list[list[int]],
    *,
    max_new_tokens: int = 50,
    sampling: Sampling = GREEDY,
    seeds: list[int] | None = None,
    stop_id: int | None = None,
    n_candidates: int | None = None,
) -> list[list[int]]:
    """The tokens of each prompt, each of which ends once and gets nothing afterwards."""
    texts: dict[int, list[int]] = {number: [] for number in range(len(prompts))}
    whole: list[int] = []
    for number, token in Generation(
        decoder,
        prompts,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        seeds=seeds or list(range(len(prompts))),
        stop_id=stop_id,
        n_candidates=n_candidates,
    ):
        assert number not in whole
        whole.append(number) if token is None else texts[number].append(token)
    assert sorted(whole) == list(texts)
    return list(texts.values())


def test_greedy_text_equals_recomputing_the_whole_sequence_for_each_token(decoder: Decoder) -> None:
    for prompt, tokens in zip(PROMPTS, continue_prompts(decoder, PROMPTS), strict=True):
        ids = list(prompt)
        for token in tokens:
            assert token == int(decoder.logits(decoder(torch.tensor([ids]))[0, -1]).argmax())
            ids.append(token)
        assert len(ids) == 24


def test_the_logits_of_every_round_are_those_of_each_row_by_itself(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds: list[torch.Tensor] = []
    choose = generate.choose_tokens

    def watch(logits: torch.Tensor, sampling: Sampling, draws: torch.Tensor) -> torch.Tensor:
        rounds.append(logits)
        return choose(logits, sampling, draws)

    monkeypatch.setattr(generate, "choose_tokens", watch)
    generation = Generation(decoder, PROMPTS, max_new_tokens=50, sampling=Sampling(), seeds=range(len(PROMPTS)))
    ids = [list(prompt) for prompt in PROMPTS]
    chosen = [(number, token) for number, token in generation if token is not None]
    logits = torch.cat(rounds)
    assert len(logits) == len(chosen) == sum(24 - len(prompt) for prompt in PROMPTS)
    for found, (number, token) in zip(logits, chosen, strict=True):
        wanted = decoder.logits(decoder(torch.tensor([ids[number]]))[0, -1])
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
        ids[number].append(token)


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(), Sampling(1.5, top_k=40), Sampling(1.5, top_p=0.8)])
def test_a_prompt_gets_the_same_text_whatever_goes_on_beside_it(decoder: Decoder, sampling: Sampling) -> None:
    alone = [continue_prompts(decoder, [ids], sampling=sampling, seeds=[i])[0] for i, ids in enumerate(PROMPTS)]
    assert continue_prompts(decoder, PROMPTS, sampling=sampling) == alone
    there = continue_prompts(decoder, PROMPTS[3:] + PROMPTS[:1], sampling=sampling, seeds=[3, 4, 0])
    assert there == [alone[3], alone[4], alone[0]]


def test_greedy_batches_equal_those_of_transformers_padded_on_the_left(decoder: Decoder, tmp_path: Path) -> None:
    prompts = [ids for ids in PROMPTS if len(ids) < 10]
    wanted = continue_prompts(decoder, [[3]])[0]
    stop = next(token for at, token in enumerate(wanted) if at > 1 and token not in wanted[:at])
    save_language_model(decoder, tmp_path, end_of_text_id=stop)
    peer = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    pad = peer.config.pad_token_id
    # transformers' gpt1 counts the positions from the padding on: it gets its prompts one by one
    batches = [[ids] for ids in prompts] if decoder.config.architecture == "gpt1" else [prompts]
    theirs = []
    for batch in batches:
        width = max(map(len, batch))
        ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in batch])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in batch])
        written = peer.generate(ids, attention_mask=mask, max_new_tokens=19, do_sample=False)
        theirs += [row[: row.index(stop)] if stop in row else row for row in written[:, width:].tolist()]
    ours = continue_prompts(decoder, prompts, max_new_tokens=19, stop_id=stop)
    assert ours == theirs
    assert max(map(len, ours)) == 19 > min(map(len, ours))


def test_a_round_has_the_rows_and_the_columns_of_those_that_still_go_on(decoder: Decoder) -> None:
    rounds: list[tuple[int, int, int, int]] = []

    def watch(_: Decoder, arguments: tuple[torch.Tensor], named: dict[str, KeyValueCache]) -> None:
        rounds.append((*arguments[0].shape, named["cache"].length, named["cache"].capacity))

    decoder.register_forward_pre_hook(watch, with_kwargs=True)
    generation = Generation(decoder, [[1] * 20, [7, 8, 9], [5] * 6], max_new_tokens=10, sampling=GREEDY, seeds=[0] * 3)
    for number, _ in generation:
        if number == 2 and len(rounds) == 6:
            generation.end(2)
    assert [shape[:2] for shape in rounds] == [(3, 20)] + [(3, 1)] * 3 + [(2, 1)] * 2 + [(1, 1)] * 4
    assert [shape[2] for shape in rounds] == [0, 20, 21, 22, 9, 10, 8, 9, 10, 11]
    assert {shape[3] for shape in rounds} == {20 + 9}


def test_a_prompt_that_is_ended_gets_no_more_and_the_others_all_of_theirs(decoder: Decoder) -> None:
    wanted = continue_prompts(decoder, PROMPTS)
    generation = Generation(decoder, PROMPTS, max_new_tokens=50, sampling=GREEDY, seeds=range(len(PROMPTS)))
    found: list[list[int]] = [[] for _ in PROMPTS]
    for number, token in generation:
        if token is not None:
            found[number].append(token)
        if number in (0, 3) and len(found[number]) == 2:
            generation.end(number)
    assert [found[0], found[3]] == [wanted[0][:2], wanted[3][:2]]
    assert [found[1], found[2], found[4]] == [wanted[1], wanted[2], wanted[4]]


def test_text_ends_with_the_context(decoder: Decoder) -> None:
    assert [len(tokens) for tokens in continue_prompts(decoder, [[1] * 20, [1] * 23, [1]])] == [4, 1, 23]


def test_text_ends_before_the_stop_token(decoder: Decoder) -> None:
    tokens = continue_prompts(decoder, [PROMPTS[0]], max_new_tokens=12)[0]
    stop = tokens[6]
    assert continue_prompts(decoder, [PROMPTS[0]], max_new_tokens=12, stop_id=stop)[0] == tokens[: tokens.index(stop)]


def test_the_seed_alone_decides_what_is_drawn(decoder: Decoder) -> None:
    one, same, other = continue_prompts(
        decoder, [[5]] * 3, max_new_tokens=10, sampling=Sampling(top_k=50), seeds=[1, 1, 2]
    )
    assert one == same != other


def test_a_longer_text_begins_with_the_shorter(decoder: Decoder) -> None:
    lengths = (1, 3, 17, 23)
    texts = [continue_prompts(decoder, [[5]], max_new_tokens=n, sampling=Sampling())[0] for n in lengths]
    assert texts == [texts[-1][:n] for n in lengths]


def test_barred_rows_of_the_vocabulary_are_never_drawn() -> None:
    decoder = make_decoder("gpt2")
    with torch.no_grad():
        decoder.embedding.weight[200:] *= 50.0
    flat = Sampling(temperature=5.0)
    assert max(continue_prompts(decoder, [[5]], max_new_tokens=20, sampling=flat)[0]) >= 200
    assert max(continue_prompts(decoder, [[5]], max_new_tokens=20, sampling=flat, n_candidates=200)[0]) < 200


def test_no_prompt_gives_nothing(decoder: Decoder) -> None:
    assert continue_prompts(decoder, []) == []


@pytest.mark.parametrize("length", [0, 24])
def test_a_prompt_without_room_is_refused_before_the_first_token(length: int) -> None:
    with pytest.raises(ValueError, match=f"prompt 1 has {length} tokens; it must have 1 to 23"):
        Generation(make_decoder("gpt2"), [[1], [1] * length], max_new_tokens=1, sampling=GREEDY, seeds=[0, 1])


def test_no_new_token_is_refused() -> None:
    with pytest.raises(ValueError, match="max_new_tokens=0 must be at least 1"):
        Generation(make_decoder("gpt2"), [[1]], max_new_tokens=0, sampling=GREEDY, seeds=[0])
