"""What a tokenizer's report says is counted exactly, and a tokenizer that loses text is found out."""

import pyarrow as pa
import pytest
import tokenizers
from tokenizers import AddedToken

from gpt_core.errors import InputError
from gpt_core.recipe import Tokenizer as Settings
from gpt_core.tokenizer.measure import describe_tokenizer, measure_tokenizer
from gpt_core.tokenizer.tokenizer import Tokenizer, build_backend, close_vocabulary
from gpt_core.tokenizer.train import train_tokenizer

TEXTS = ["abab ab", "xyxy", "", "\u65e5"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """The merges ab, xy and xyxy are 256, 257 and 258; then come <|a|> and the end of text."""
    texts = ["ab"] * 9 + ["xyxy"] * 4
    return train_tokenizer([texts], Settings(vocab_size=261, special_tokens=("<|a|>",)))


def batch(texts: list[str], *, languages: list[str | None] | None = None) -> pa.RecordBatch:
    columns = {
        "id": [f"id-{i}" for i in range(len(texts))],
        "text": pa.array(texts, pa.large_string()),
        "source": pa.array(["one"] + ["two"] * (len(texts) - 1), pa.string()),
    }
    if languages is not None:
        columns["language"] = pa.array(languages, pa.string())
    return pa.RecordBatch.from_pydict(columns)


def test_bytes_and_tokens_are_counted_by_source_and_language(tokenizer: Tokenizer) -> None:
    assert {b"ab", b"xy", b"xyxy"} < set(tokenizer.token_bytes.values())
    documents = [batch(TEXTS, languages=["en", None, "en", "ja"])]
    found = measure_tokenizer(tokenizer, documents, name="it")
    report = describe_tokenizer(tokenizer, found, padded_vocab_size=384)
    assert report["measured"] == {"documents": 4, "bytes": 14, "tokens": 8}
    assert report["sources"] == {
        "one": {"documents": 1, "bytes": 7, "tokens": 4},  # ab ab, a space, ab
        "two": {"documents": 3, "bytes": 7, "tokens": 4},  # xyxy; nothing; three bytes of one character
    }
    assert report["languages"] == {
        "": {"documents": 1, "bytes": 4, "tokens": 1},
        "en": {"documents": 2, "bytes": 7, "tokens": 4},
        "ja": {"documents": 1, "bytes": 3, "tokens": 3},
    }
    assert found.bytes_per_token == 14 / 8
    assert (report["vocab_size"], report["padded_vocab_size"]) == (261, 384)
    assert report["special_tokens"] == {"<|a|>": 259, "<|endoftext|>": 260}


def test_tokens_that_never_occur_are_counted_and_special_ones_are_not_missed(tokenizer: Tokenizer) -> None:
    found = measure_tokenizer(tokenizer, [batch(TEXTS), batch(["ab"])], name="it")
    unused = describe_tokenizer(tokenizer, found, padded_vocab_size=384)["unused"]
    assert unused == {"tokens": 256 - 4 + 1, "single_bytes": 256 - 4, "first": [{"id": 257, "token": "xy", "bytes": 2}]}


def test_the_longest_tokens_come_first_and_bytes_that_are_no_text_are_told(tokenizer: Tokenizer) -> None:
    found = measure_tokenizer(tokenizer, [batch(["\u65e5"])], name="it")
    longest = describe_tokenizer(tokenizer, found, padded_vocab_size=384)["longest"]
    assert isinstance(longest, list)
    assert len(longest) == 50
    assert longest[0] == {"id": 258, "token": "xyxy", "bytes": 4}
    lone = train_tokenizer([["\u65e5\u65e6 " * 9]], Settings(vocab_size=258))
    found = measure_tokenizer(lone, [batch(["\u65e5"])], name="it")
    longest = describe_tokenizer(lone, found, padded_vocab_size=384)["longest"]
    assert isinstance(longest, list)
    assert longest[0] == {"id": 256, "token": "\\xe6\\x97", "bytes": 2}


def lossy(**normalization: bool) -> Tokenizer:
    backend = build_backend()
    backend.normalizer = tokenizers.normalizers.BertNormalizer(**normalization)
    trainer = tokenizers.trainers.BpeTrainer(
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator(["a"], trainer)
    return close_vocabulary(backend, "<|endoftext|>")


def test_a_tokenizer_that_loses_text_is_refused_with_the_document_and_the_way_out() -> None:
    told = (
        r"tokenizer\.path: here: does not give back the text of document id-1: 'Two' at character 4 comes back as "
        r"'two'; take a byte-level tokenizer that normalizes nothing, or leave tokenizer\.path out to learn one"
    )
    with pytest.raises(InputError, match=told):
        measure_tokenizer(lossy(lowercase=True), [batch(["one", "one Two"])], name="tokenizer.path: here")


def test_text_that_is_lost_at_the_end_is_told_too() -> None:
    backend = build_backend()
    backend.add_tokens([AddedToken("<b>", rstrip=True, normalized=False)])
    swallowing = close_vocabulary(backend, "<|endoftext|>")
    with pytest.raises(InputError, match=r"document id-0: ' ' at character 3 comes back as ''"):
        measure_tokenizer(swallowing, [batch(["<b> "])], name="it")
