from collections import Counter
from pathlib import Path

import pytest
import tokenizers
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_decoder import make_decoder

from gpt_core.errors import InputError
from gpt_core.model import stream
from gpt_core.model.decoder import Decoder
from gpt_core.model.hf import save_language_model
from gpt_core.model.sampling import Sampling
from gpt_core.model.stream import Piece, Writer, encode_prompts, in_turn, open_language_model, stream_texts
from gpt_core.tokenizer.tokenizer import Tokenizer, build_backend, close_vocabulary


def make_tokenizer() -> Tokenizer:
    """280 tokens: all bytes, and merges of these words and of a letter of two bytes."""
    backend = build_backend()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=279, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator(["the whale and the ship, the sea and the caf\u00e9\n\n"] * 9, trainer)
    return close_vocabulary(backend, "<|endoftext|>")


TOKENIZER = make_tokenizer()


def write(tokens: list[int], *stop: str, tokenizer: Tokenizer = TOKENIZER) -> list[str]:
    """The pieces of the text, the last one from `close`; no token is fed behind a stop string."""
    writer = Writer(tokenizer, stop)
    pieces = []
    for token in tokens:
        if not writer.stopped:
            pieces.append(writer.feed(token))
    return [*pieces, writer.close()]


def spell(*parts: str) -> list[int]:
    """A token for each of the parts, which the tokenizer has."""
    ids = [TOKENIZER.encode(part) for part in parts]
    assert all(len(i) == 1 for i in ids), ids
    return [i[0] for i in ids]


def cut(text: str, stop: list[str]) -> str:
    """`text` up to the stop string that is complete first, read character by character."""
    for end in range(len(text) + 1):
        found = [s for s in stop if text[:end].endswith(s)]
        if found:
            return text[: end - max(map(len, found))]
    return text


def test_a_stop_string_is_found_across_tokens_and_left_out() -> None:
    tokens = spell("s", "e", "a", " the", " ", "s", "h", "i", "p")
    assert write(tokens, "a the s") == ["s", "e", "", "", "", "", ""]
    assert write(tokens, " ship") == ["s", "e", "a", " the", "", "", "", "", "", ""]


def test_what_may_become_a_stop_string_is_held_back_until_it_cannot() -> None:
    tokens = spell("a", "b", "a", "b", "c")
    assert write(tokens, "abc") == ["", "", "ab", "", "", ""]
    assert write(tokens, "abab!") == ["", "", "", "", "ababc", ""]
    assert write(tokens[:4], "abc") == ["", "", "ab", "", "ab"]


def test_the_stop_string_that_is_complete_first_counts_and_of_those_the_longest() -> None:
    assert "".join(write(spell("x", "a", "b", "c"), "abc", "b")) == "xa"
    assert "".join(write(spell("x", "a", "b"), "b", "ab")) == "x"


def test_a_stop_string_within_one_token_cuts_it() -> None:
    assert write(spell(" and"), "n") == [" a", ""]
    assert write(spell(" and"), " and", "n") == [" a", ""]


def test_a_character_of_several_tokens_comes_whole_and_half_a_one_as_a_replacement() -> None:
    snow = TOKENIZER.encode("\u2744")
    assert len(snow) == 3
    assert write([*snow, *spell("a")]) == ["", "", "\u2744", "a", ""]
    assert write(snow[:2]) == ["", "", "\ufffd"]
    assert write([*snow[:2], *spell("a")]) == ["", "", "\ufffda", ""]
    assert write([*snow, *spell("a")], "\u2744a") == ["", "", "", "", ""]


@given(st.lists(st.integers(0, TOKENIZER.vocab_size + 3), max_size=40))
def test_pieces_join_to_the_decoded_ids(tokens: list[int]) -> None:
    assert "".join(write(tokens)) == TOKENIZER.decode(tokens)


@given(
    st.lists(st.sampled_from([*b"abc", *spell(" the", " and"), *"\u00e9".encode()]).map(int), max_size=30),
    st.lists(st.text("abc the\u00e9", min_size=1, max_size=5), max_size=3),
)
def test_a_text_is_cut_where_its_characters_say_and_not_its_tokens(tokens: list[int], stop: list[str]) -> None:
    assert "".join(write(tokens, *stop)) == cut(TOKENIZER.decode(tokens), stop)


def test_a_tokenizer_of_words_gives_the_text_it_decodes() -> None:
    backend = tokenizers.Tokenizer(tokenizers.models.BPE({"th": 0, "e</w>": 1, "sea</w>": 2}, []))
    backend.decoder = tokenizers.decoders.BPEDecoder()
    words = close_vocabulary(backend, "<|endoftext|>")
    assert not words.is_byte_level
    assert write([0, 1, 2, 0, 1], tokenizer=words) == ["th", "e", " sea", " th", "e", ""]
    assert write([0, 1, 2], "e s", tokenizer=words) == ["th", "", "", ""]


def test_texts_come_in_turn_each_as_soon_as_it_can() -> None:
    order = [(0, "a", False), (1, "x", False), (2, "", True), (0, "b", False), (0, "c", True), (1, "y", True)]
    pieces = [Piece(*fields) for fields in order]
    read: list[Piece] = []

    def source():
        for piece in pieces:
            read.append(piece)
            yield piece

    seen = [(len(read), piece.number, piece.text) for piece in in_turn(source())]
    assert seen == [(1, 0, "a"), (4, 0, "b"), (5, 0, "c"), (5, 1, "x"), (6, 1, "y"), (6, 2, "")]


def texts_of(
    decoder: Decoder, prompts: list[list[int]], *, stop: tuple[str, ...] = (), seed: int = 0
) -> tuple[list[str], Counter[int]]:
    """The texts, and how many pieces each has."""
    texts, ended, counts = [""] * len(prompts), set(), Counter[int]()
    sampling = Sampling(1.2, top_k=30)
    for piece in stream_texts(decoder, TOKENIZER, prompts, max_new_tokens=12, sampling=sampling, seed=seed, stop=stop):
        assert piece.number not in ended
        texts[piece.number] += piece.text
        counts[piece.number] += 1
        ended |= {piece.number} if piece.last else set()
    assert ended == set(range(len(prompts)))
    return texts, counts


@pytest.fixture
def language_model(architecture: str) -> Decoder:
    return make_decoder(architecture, vocab_size=TOKENIZER.vocab_size, context_length=40)


PROMPTS = [TOKENIZER.encode(text) for text in ("the whale", "a", "the sea and the ship and the sea", "the", "a")]


def test_texts_are_the_same_however_many_prompts_go_on_together(
    language_model: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [len(ids) + 12 for ids in PROMPTS] == [14, 13, 20, 13, 13]
    together, counts = texts_of(language_model, PROMPTS)
    assert together[1] != together[4]
    assert min(counts.values()) > 3
    batches: list[int] = []
    language_model.register_forward_pre_hook(
        lambda _, arguments, named: batches.append(len(arguments[0])) if named["cache"].length == 0 else None,
        with_kwargs=True,
    )
    for batch_tokens, sizes in ((1, [1] * 5), (59, [2, 2, 1]), (60, [3, 2]), (10_000, [5])):
        monkeypatch.setattr(stream, "BATCH_TOKENS", batch_tokens)
        batches.clear()
        assert texts_of(language_model, PROMPTS)[0] == together
        assert batches == sizes


def test_prompt_i_is_drawn_with_the_seed_plus_i(language_model: Decoder) -> None:
    texts, _ = texts_of(language_model, PROMPTS, seed=3)
    for number, prompt in enumerate(PROMPTS):
        assert texts_of(language_model, [prompt], seed=3 + number)[0] == [texts[number]]


def test_a_stop_string_ends_its_text_alone_and_costs_no_further_token(language_model: Decoder) -> None:
    whole, _ = texts_of(language_model, PROMPTS)
    rows: list[int] = []
    language_model.register_forward_pre_hook(lambda _, arguments: rows.append(len(arguments[0])))
    stop = whole[0][4:6]
    texts, _ = texts_of(language_model, PROMPTS, stop=(stop,))
    assert texts == [text.partition(stop)[0] for text in whole]
    assert texts[0] != whole[0]
    assert rows[0] == 5
    assert rows[-1] < 5


def test_a_text_ends_before_the_end_of_text(language_model: Decoder) -> None:
    with torch.no_grad():  # now the end is the likeliest by far
        hidden = language_model(torch.tensor([[5, 6]]))[0, -1]
        language_model.embedding.weight[TOKENIZER.end_of_text_id] = 100 * hidden
    assert texts_of(language_model, [[5, 6]]) == ([""], Counter({0: 1}))


def test_an_empty_prompt_begins_a_document_and_one_that_fills_the_context_is_named() -> None:
    assert encode_prompts(["the", ""], TOKENIZER, context_length=9) == [TOKENIZER.encode("the"), [279]]
    with pytest.raises(InputError, match=r"the prompt 'zebra zebra.*: \d+ tokens leave no room in a context of 9; sh"):
        encode_prompts(["zebra " * 9], TOKENIZER, context_length=9)


def test_a_model_is_opened_in_its_folder_or_in_the_output_of_its_stage(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no model; give a folder with config\.json"):
        open_language_model(tmp_path)
    saved = make_decoder("gpt2", vocab_size=TOKENIZER.vocab_size)
    save_language_model(saved, tmp_path / "model")
    TOKENIZER.save(tmp_path / "model")
    for folder in (tmp_path, tmp_path / "model"):
        decoder, tokenizer = open_language_model(folder)
        assert torch.equal(decoder.embedding.weight.cpu(), saved.embedding.weight)
        assert tokenizer.digest == TOKENIZER.digest
