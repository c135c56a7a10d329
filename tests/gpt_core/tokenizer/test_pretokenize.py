"""Text is split as GPT-2 and GPT-4 split it, by every encoder that reads the tokenizer."""

import gzip
import json
from pathlib import Path

import gigatoken
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_core.recipe import Tokenizer as Settings
from gpt_core.tokenizer.alphabet import ALPHABET, BYTE_OF
from gpt_core.tokenizer.pretokenize import build_pre_tokenizer
from gpt_core.tokenizer.tokenizer import Tokenizer
from gpt_core.tokenizer.train import train_tokenizer

DEMO = sorted((Path(__file__).parents[3] / "data" / "demo").glob("*.jsonl.gz"))
PIECES = [
    " ",
    "  ",
    "\n",
    "\r\n",
    "\t",
    "\u00a0",
    "\u3000",
    "\u0085",
    "\u2028",
    "'s",
    "'LL",
    "'\u017f",
    "\u2019s",
    "a",
    "Zz",
]
PIECES += [
    "1",
    "1234",
    "\u0661\u0662",
    "\u00bd",
    "\u65e5\u672c",
    "e\u0301",
    "\u0130",
    "\U0001f468\u200d\U0001f469",
    "_",
    "...",
    "<|x|>",
]
# letters of the newest Unicode are letters to one engine and not yet to another: Python knows none of them
known = st.characters(exclude_categories=["Cs", "Cn"])


def pieces(name: str, text: str) -> list[str]:
    split = build_pre_tokenizer(name).pre_tokenize_str(text)
    return [bytes(BYTE_OF[character] for character in piece).decode() for piece, _ in split]


def read_demo(*, every: int) -> list[str]:
    texts = []
    for path in DEMO:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            texts += [json.loads(line)["text"] for number, line in enumerate(lines) if number % every == 0]
    return texts


@pytest.fixture(scope="module", params=["gpt2", "cl100k"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return train_tokenizer([read_demo(every=40)], Settings(vocab_size=2000, pre_tokenizer=request.param))


@pytest.fixture(scope="module")
def fast(tokenizer: Tokenizer) -> gigatoken.Tokenizer:
    """gigatoken parses special tokens in text whatever one says, so it is told of none."""
    return gigatoken.Tokenizer.from_json(json.dumps({**json.loads(tokenizer.serialized), "added_tokens": []}))


def test_the_alphabet_is_that_of_tokenizers() -> None:
    text = "".join(map(chr, range(0x250)))
    spelled = "".join(piece for piece, _ in build_pre_tokenizer("gpt2").pre_tokenize_str(text))
    assert bytes(BYTE_OF[character] for character in spelled) == text.encode()
    assert len(ALPHABET) == 256
    assert [BYTE_OF[character] for character in "!~\u00a1\u00ac\u00ae\u00ff\u0100\u0120\u0143"] == [
        0x21, 0x7E, 0xA1, 0xAC, 0xAE, 0xFF, 0x00, 0x20, 0xAD,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "gpt2", "cl100k"),
    [
        ("It's IT'S", ["It", "'s", " IT", "'", "S"], ["It", "'s", " IT", "'S"]),
        ("in 20015", ["in", " 20015"], ["in", " ", "200", "15"]),
        ("(see) end.\n\n", ["(", "see", ")", " end", ".", "\n\n"], ["(see", ")", " end", ".\n\n"]),
        ("a  b", ["a", " ", " b"], ["a", " ", " b"]),
        ("a\n  b", ["a", "\n ", " b"], ["a", "\n", " ", " b"]),
        ("caf\u00e9\u2028\u65e5", ["caf\u00e9", "\u2028", "\u65e5"], ["caf\u00e9", "\u2028\u65e5"]),
        ("a \n ", ["a", " \n "], ["a", " \n", " "]),  # tiktoken's later spelling of cl100k: ["a", " \n "]
    ],
)
def test_pieces_are_those_of_the_published_expressions(text: str, gpt2: list[str], cl100k: list[str]) -> None:
    assert pieces("gpt2", text) == gpt2
    assert pieces("cl100k", text) == cl100k


@given(st.lists(st.sampled_from(PIECES) | st.text(known, max_size=4), max_size=12).map("".join))
def test_gigatoken_gives_the_same_ids_to_any_text(tokenizer: Tokenizer, fast: gigatoken.Tokenizer, text: str) -> None:
    assert fast.encode_batch([text], parallel=False).to_list() == [tokenizer.encode(text)]


def test_gigatoken_gives_the_same_ids_to_the_demo(tokenizer: Tokenizer, fast: gigatoken.Tokenizer) -> None:
    texts = read_demo(every=15)
    assert fast.encode_batch(texts, parallel=False).to_list() == tokenizer.encode_batch(texts)
