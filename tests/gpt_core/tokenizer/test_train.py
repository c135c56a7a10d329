"""Merges follow from the texts and the settings alone; special tokens come after them, and no text spells one."""

import logging
import random

import pytest

from gpt_core.errors import UserError
from gpt_core.recipe import Tokenizer as Settings
from gpt_core.tokenizer.train import require_marks, train_tokenizer

DOCUMENTS = [f"document {i} " + "word " * (i % 7) for i in range(60)]


def test_the_order_of_the_texts_does_not_change_a_byte_of_the_tokenizer() -> None:
    settings = Settings(vocab_size=290)
    shuffled = random.Random(1).sample(DOCUMENTS, len(DOCUMENTS))
    one = train_tokenizer([DOCUMENTS], settings)
    many = train_tokenizer([shuffled[:10], shuffled[10:]], settings)
    assert one.serialized == many.serialized


def test_the_most_frequent_pair_is_merged_first() -> None:
    tokenizer = train_tokenizer([["ababab xyxy"]], Settings(vocab_size=258))
    assert [tokenizer.decode([i]) for i in tokenizer.encode("abab")] == ["ab", "ab"]
    assert tokenizer.vocab_size == 258


def test_a_corpus_too_small_for_the_vocabulary_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "gptmill"):
        tokenizer = train_tokenizer([["aa aa aa"]], Settings(vocab_size=1000))
    assert tokenizer.vocab_size < 270
    assert f"vocabulary of {tokenizer.vocab_size} tokens, tokenizer.vocab_size asks for 1000" in caplog.text
    assert tokenizer.end_of_text_id == tokenizer.vocab_size - 1


@pytest.mark.parametrize("mark", ["a", "end", "\u00c3\u00a9"])
def test_a_mark_that_text_could_spell_is_refused(mark: str) -> None:
    texts = ["end of the end caf\u00e9 caf\u00e9"]
    with pytest.raises(UserError, match=r"tokenizer\.end_of_text='.*' could be a token of text"):
        train_tokenizer([texts], Settings(vocab_size=400, end_of_text=mark))


def test_every_batch_read_is_told_of() -> None:
    seen: list[int] = []
    train_tokenizer([["a b"], ["c", "d"]], Settings(vocab_size=257), seen=seen.append)
    assert seen == [1, 2]


def test_special_tokens_stand_between_the_merges_and_the_end_of_text() -> None:
    tokenizer = train_tokenizer([["ababab xyxy"]], Settings(vocab_size=260, special_tokens=("<|b|>", "<|a|>")))
    assert tokenizer.special_tokens == {"<|b|>": 257, "<|a|>": 258, "<|endoftext|>": 259}
    assert (tokenizer.end_of_text_id, tokenizer.vocab_size) == (259, 260)
    assert tokenizer.decode([256, 257, 258, 259]) == "ab<|b|><|a|><|endoftext|>"


def test_special_tokens_change_no_merge() -> None:
    plain = train_tokenizer([DOCUMENTS], Settings(vocab_size=265))
    marked = train_tokenizer([DOCUMENTS], Settings(vocab_size=267, special_tokens=("<|b|>", "<|a|>")))
    assert {i: plain.token_bytes[i] for i in range(264)} == {i: marked.token_bytes[i] for i in range(264)}


@pytest.mark.parametrize("mark", ["a", "end", "<|>", " word", "\u00c3\u00a9"])
@pytest.mark.parametrize("pre_tokenizer", ["gpt2", "cl100k"])
def test_a_special_token_that_text_could_spell_is_refused(mark: str, pre_tokenizer: str) -> None:
    settings = Settings(vocab_size=400, special_tokens=("<|fine|>", mark), pre_tokenizer=pre_tokenizer)
    with pytest.raises(
        UserError, match=r"tokenizer\.special_tokens='.*' could be a token of text; take a mark of several"
    ):
        train_tokenizer([["end of the end caf\u00e9 caf\u00e9"]], settings)


def test_a_mark_of_one_piece_is_refused_before_training() -> None:
    with pytest.raises(UserError, match=r"tokenizer\.end_of_text='end' could be a token of text"):
        require_marks(Settings(end_of_text="end"))
    require_marks(Settings(special_tokens=("<|user|>", "<s>", "[PAD]")))


def test_digits_are_merged_by_three_with_cl100k_alone() -> None:
    texts = [["20012001 " * 9]]
    gpt2, cl100k = (train_tokenizer(texts, Settings(vocab_size=300, pre_tokenizer=name)) for name in ("gpt2", "cl100k"))
    assert b"20012001" in gpt2.token_bytes.values()
    assert max(map(len, (v for v in cl100k.token_bytes.values() if v.isdigit()))) == 3
