"""The fast encoder says what the reference says, or is not used."""

import itertools
import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_core.errors import UserError
from gpt_core.recipe import Tokenizer as Settings
from gpt_core.tokenizer.encoder import (
    CHUNK_BYTES,
    ODD_TEXTS,
    SAMPLE_BYTES,
    SAMPLE_SHARE,
    FastEncoder,
    ProvenEncoder,
    ReferenceEncoder,
    _sample_rows,
)
from gpt_core.tokenizer.tokenizer import Tokenizer
from gpt_core.tokenizer.train import train_tokenizer

LEARNED = ["the cat sat on the mat, the cat's hat", "caf\u00e9 <|endoftext|> 1234 1234", "\u6f22\u5b57 \u6f22\u5b57"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([LEARNED], Settings(vocab_size=300))


def column(texts: list[str] | tuple[str, ...]) -> pa.LargeStringArray:
    return pa.array(texts, pa.large_string())


def hashes(n: int) -> np.ndarray:
    return np.arange(n, dtype=np.uint64)


@pytest.fixture(scope="module")
def other() -> FastEncoder:
    """A fast encoder that learned something else stands for one with an error."""
    return FastEncoder(train_tokenizer([["aaaa aaaa sat ats"]], Settings(vocab_size=262)))


@given(texts=st.lists(st.text(), max_size=20))
def test_both_encode_any_text_alike(tokenizer: Tokenizer, texts: list[str]) -> None:
    wanted = [tokenizer.encode(text) for text in texts]
    for encoder in (FastEncoder(tokenizer), ReferenceEncoder(tokenizer)):
        ids, borders = encoder.encode(column(texts))
        assert borders.dtype == np.int64
        assert [ids[start:stop].tolist() for start, stop in itertools.pairwise(borders)] == wanted


def test_a_slice_of_a_column_is_encoded_as_what_it_shows(tokenizer: Tokenizer) -> None:
    texts = column([*LEARNED, *ODD_TEXTS])
    for encoder in (FastEncoder(tokenizer), ReferenceEncoder(tokenizer)):
        ids, borders = encoder.encode(texts.slice(2, 3))
        assert borders[0] == 0
        assert ids.tolist() == [i for text in texts.slice(2, 3).to_pylist() for i in tokenizer.encode(text)]


def test_a_text_beyond_a_chunk_is_encoded_whole(tokenizer: Tokenizer) -> None:
    long = "the cat " * (CHUNK_BYTES // 4)
    ids, borders = ReferenceEncoder(tokenizer).encode(column(["a", long, "b"]))
    assert ids[borders[1] : borders[2]].tolist() == tokenizer.encode(long)


def test_auto_takes_the_fast_encoder_and_tells_what_it_compared(tokenizer: Tokenizer) -> None:
    ids, borders, proof = ProvenEncoder(tokenizer, "auto").encode(column(LEARNED), hashes(3))
    assert ids[borders[1] : borders[2]].tolist() == tokenizer.encode(LEARNED[1])
    assert (proof.encoder, proof.documents, proof.difference) == ("fast", 3, "")
    assert proof.text_bytes == sum(len(text.encode()) for text in LEARNED)


def test_the_reference_is_taken_when_it_is_asked_for(tokenizer: Tokenizer) -> None:
    ids, _, proof = ProvenEncoder(tokenizer, "reference").encode(column(["the cat"]), hashes(1))
    assert ids.tolist() == tokenizer.encode("the cat")
    assert (proof.encoder, proof.documents, proof.difference) == ("reference", 0, "")


def test_a_difference_in_the_sample_leaves_the_reference_or_is_refused(
    tokenizer: Tokenizer, other: FastEncoder
) -> None:
    texts = column(["x", "the cat sat"])
    encoder = ProvenEncoder(tokenizer, "auto")
    encoder.fast = other
    ids, borders, proof = encoder.encode(texts, hashes(2))
    assert ids[borders[1] :].tolist() == tokenizer.encode("the cat sat")
    assert proof.encoder == "reference"
    assert proof.difference == "the encoders differ on text 1 of the block: 'the cat sat'"
    strict = ProvenEncoder(tokenizer, "fast")
    strict.fast = other
    with pytest.raises(UserError, match=r"fast: the encoders differ on text 1 .*; take auto or reference"):
        strict.encode(texts, hashes(2))


def test_an_encoder_that_differs_on_odd_texts_is_not_used(
    tokenizer: Tokenizer, other: FastEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpt_core.tokenizer.encoder.FastEncoder", lambda _: other)
    _, _, proof = ProvenEncoder(tokenizer, "auto").encode(column(["x"]), hashes(1))
    assert (proof.encoder, proof.documents) == ("reference", 0)
    assert proof.difference.startswith("the encoders differ on '\u0661")
    with pytest.raises(UserError, match=r"shards\.encoder=fast: the encoders differ on .*; take auto or reference"):
        ProvenEncoder(tokenizer, "fast")


def test_a_tokenizer_that_the_fast_encoder_cannot_run_leaves_the_reference(tokenizer: Tokenizer) -> None:
    tree = json.loads(tokenizer.serialized)
    tree["pre_tokenizer"] = {"type": "BertPreTokenizer"}
    strange = Tokenizer(json.dumps(tree).encode(), origin="the test's")
    _, _, proof = ProvenEncoder(strange, "auto").encode(column(["a"]), hashes(1))
    assert proof.encoder == "reference"
    assert proof.difference
    with pytest.raises(UserError, match=r"shards\.encoder=fast: .*; take auto or reference"):
        ProvenEncoder(strange, "fast")


def test_the_sample_is_of_least_hash_and_a_thousandth_within_its_bounds() -> None:
    least, most = SAMPLE_BYTES
    order = np.array([3, 2, 9, 1], np.uint64)
    assert _sample_rows(np.array([5, least - 5, 5, 4]), order).tolist() == [3, 1, 0]
    assert _sample_rows(np.array([5, least - 5, 5, 5]), order).tolist() == [3, 1]
    assert _sample_rows(np.array([5, most * SAMPLE_SHARE, 5, most - 1]), order).tolist() == [3, 1]
    assert _sample_rows(np.array([5, most * SAMPLE_SHARE, 5, most]), order).tolist() == [3]
    assert _sample_rows(np.array([0]), hashes(1)).tolist() == [0]


@given(text=st.text(min_size=1))
def test_a_text_never_gives_the_end_of_text_token(tokenizer: Tokenizer, text: str) -> None:
    ids, _ = FastEncoder(tokenizer).encode(column([text + tokenizer.end_of_text]))
    assert tokenizer.end_of_text_id not in ids


def test_an_encoder_that_has_grown_begins_anew_and_says_the_same(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = FastEncoder(tokenizer)
    begun = encoder._backend
    wanted = encoder.encode(column(LEARNED))[0].tolist()
    assert encoder.encode(column(LEARNED))[0].tolist() == wanted
    assert encoder._backend is begun
    monkeypatch.setattr("gpt_core.tokenizer.encoder.REMEMBERED_BYTES", -(1 << 40))
    assert encoder.encode(column(LEARNED))[0].tolist() == wanted
    assert encoder._backend is not begun


def with_tree(tokenizer: Tokenizer, **changes: object) -> Tokenizer:
    tree = {**json.loads(tokenizer.serialized), **changes}
    return Tokenizer(json.dumps(tree).encode(), origin="the test's")


def added_token(i: int, content: str, *, special: bool = False) -> dict[str, object]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": i, "content": content, "special": special, **flags}


@pytest.fixture(scope="module")
def variants(tokenizer: Tokenizer) -> dict[str, Tokenizer]:
    """Tokenizers of the kinds that a recipe can ask for or bring."""
    mark = added_token(tokenizer.end_of_text_id, tokenizer.end_of_text, special=True)
    plain = [added_token(400, "  "), added_token(401, "cat")]
    return {
        "cl100k": train_tokenizer([LEARNED], Settings(vocab_size=300, pre_tokenizer="cl100k")),
        "special": train_tokenizer([LEARNED], Settings(vocab_size=300, special_tokens=("<|user|>", "<|end|>"))),
        "added": with_tree(tokenizer, added_tokens=[mark, *plain]),
        "normalized": with_tree(tokenizer, normalizer={"type": "NFC"}),
    }


@pytest.mark.parametrize("kind", ["cl100k", "special", "added", "normalized"])
@given(texts=st.lists(st.text() | st.sampled_from([*ODD_TEXTS, "a cat  cat<|user|>", "cafe\u0301  "]), max_size=8))
def test_ids_are_exact_for_every_kind_of_tokenizer_and_fast_for_those_that_can_be(
    variants: dict[str, Tokenizer], kind: str, texts: list[str]
) -> None:
    tokenizer = variants[kind]
    ids, borders, proof = ProvenEncoder(tokenizer, "auto").encode(column(texts), hashes(len(texts)))
    found = [ids[start:stop].tolist() for start, stop in itertools.pairwise(borders)]
    assert found == list(map(tokenizer.encode, texts))
    assert proof.encoder == ("reference" if kind == "added" else "fast"), proof.difference
