"""Both encoders split every code point alike, but for those that are listed, and these are found."""

import itertools

import numpy as np
import pyarrow as pa
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from gpt_core.tokenizer.alphabet import BYTE_OF
from gpt_core.tokenizer.encoder import FastEncoder, ProvenEncoder, ReferenceEncoder
from gpt_core.tokenizer.newer_letters import CHUNK_BYTES, NEWER_LETTERS, find_newer_letters
from gpt_core.tokenizer.tokenizer import Tokenizer, build_backend, close_vocabulary

PLANES = [point for point in range(0x34000) if not 0xD800 <= point < 0xE000]  # beyond: tags, private use, nothing
LISTED = {point for first, stop in NEWER_LETTERS for point in range(first, stop)}
ANY_TEXT = st.text(st.characters(codec="utf-8") | st.sampled_from(sorted(map(chr, LISTED))), max_size=3 * CHUNK_BYTES)


def column(texts: list[str]) -> pa.LargeStringArray:
    return pa.array(texts, pa.large_string())


@pytest.fixture(scope="module")
def splitter() -> Tokenizer:
    """Merges of "a", "1", "." and a line end with the first byte of any character: ids show where a word ends."""
    token_of = {byte: token for token, byte in BYTE_OF.items()}
    merges = [(token_of[first], token_of[lead]) for first in b"a1.\n" for lead in range(0xC2, 0xF5)]
    tokens = [*token_of.values(), *(left + right for left, right in merges)]
    model = tokenizers.models.BPE({token: i for i, token in enumerate(tokens)}, merges)
    return close_vocabulary(build_backend(model=model), "<|endoftext|>")


def test_the_listed_code_points_are_all_that_the_encoders_split_otherwise(splitter: Tokenizer) -> None:
    texts = column([f"a{chr(point)} 1{chr(point)} .{chr(point)} \n{chr(point)}" for point in PLANES])
    found, wanted = FastEncoder(splitter).encode(texts), ReferenceEncoder(splitter).encode(texts)
    differing = {
        point
        for point, ours, theirs in zip(
            PLANES, itertools.pairwise(found[1].tolist()), itertools.pairwise(wanted[1].tolist()), strict=True
        )
        if not np.array_equal(found[0][slice(*ours)], wanted[0][slice(*theirs)])
    }
    assert differing == LISTED


@given(texts=st.lists(ANY_TEXT), data=st.data())
def test_texts_that_hold_one_are_found(texts: list[str], data: st.DataObject) -> None:
    held = [row for row, text in enumerate(texts) if LISTED & set(map(ord, text))]
    assert find_newer_letters(column(texts)).tolist() == held
    start = data.draw(st.integers(0, len(texts)))
    assert find_newer_letters(column(texts).slice(start)).tolist() == [row - start for row in held if row >= start]


@given(texts=st.lists(ANY_TEXT, max_size=8))
def test_a_text_that_holds_one_is_encoded_by_the_reference(splitter: Tokenizer, texts: list[str]) -> None:
    ids, borders, proof = ProvenEncoder(splitter, "auto").encode(column(texts), np.arange(len(texts), dtype=np.uint64))
    assert [ids[first:stop].tolist() for first, stop in itertools.pairwise(borders)] == list(
        map(splitter.encode, texts)
    )
    assert proof.encoder == "fast"
    assert proof.newer_letters == len(find_newer_letters(column(texts)))
