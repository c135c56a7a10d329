"""What the merges are learned from, and that nothing else than the documents and the settings decides."""

import logging
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash

from gpt_core.errors import UserError
from gpt_core.recipe import Tokenizer as Settings
from gpt_core.tokenizer.train import choose_sample, train_tokenizer

DOCUMENTS = [(f"id-{i}", f"document {i} " + "word " * (i % 7)) for i in range(60)]


def write_documents(folder: Path, documents: list[tuple[str, str]], *, files: int) -> list[Path]:
    folder.mkdir()
    paths = []
    for number in range(files):
        part = documents[number::files]
        table = pa.table({"id": [i for i, _ in part], "text": pa.array([t for _, t in part], pa.large_string())})
        paths.append(folder / f"part-{number}.parquet")
        pq.write_table(table.append_column("source", pa.array(["s"] * len(part))), paths[-1], row_group_size=7)
    return paths


def sampled_texts(paths: list[Path], *, sample_bytes: int) -> list[str]:
    return [text for batch in choose_sample(paths, sample_bytes=sample_bytes).texts(paths) for text in batch]


def test_the_sample_is_the_least_hashes_until_the_bytes_are_reached(tmp_path: Path) -> None:
    paths = write_documents(tmp_path / "d", DOCUMENTS, files=1)
    expected, total = set(), 0
    for _, text in sorted(DOCUMENTS, key=lambda document: xxhash.xxh3_64_intdigest(document[0].encode())):
        expected.add(text)
        total += len(text)
        if total >= 300:
            break
    sample = choose_sample(paths, sample_bytes=300)
    assert set(sampled_texts(paths, sample_bytes=300)) == expected
    assert (sample.documents, sample.text_bytes) == (len(expected), total)


def test_neither_files_nor_rows_change_the_sample(tmp_path: Path) -> None:
    shuffled = random.Random(0).sample(DOCUMENTS, len(DOCUMENTS))
    whole = write_documents(tmp_path / "a", DOCUMENTS, files=1)
    parts = write_documents(tmp_path / "b", shuffled, files=5)
    for sample_bytes in (1, 400, 10**9):
        assert sorted(sampled_texts(whole, sample_bytes=sample_bytes)) == sorted(
            sampled_texts(parts, sample_bytes=sample_bytes)
        )


def test_documents_that_share_an_id_are_told_apart_by_text(tmp_path: Path) -> None:
    doubled = [("same", "one text"), ("same", "two text"), ("same", "six text")]
    forth = write_documents(tmp_path / "a", doubled, files=1)
    back = write_documents(tmp_path / "b", doubled[::-1], files=1)
    assert sampled_texts(forth, sample_bytes=8) == sampled_texts(back, sample_bytes=8)


def test_a_sample_beyond_the_corpus_is_the_corpus(tmp_path: Path) -> None:
    paths = write_documents(tmp_path / "d", DOCUMENTS, files=3)
    assert sorted(sampled_texts(paths, sample_bytes=10**9)) == sorted(text for _, text in DOCUMENTS)
    sample = choose_sample(paths, sample_bytes=10**9)
    assert sample.text_bytes == sum(len(text) for _, text in DOCUMENTS)


def test_only_the_first_of_the_sample_can_be_asked_for(tmp_path: Path) -> None:
    paths = write_documents(tmp_path / "d", DOCUMENTS, files=3)
    sample = choose_sample(paths, sample_bytes=10**9)
    first = {text for batch in sample.texts(paths, documents=10) for text in batch}
    least = sorted(DOCUMENTS, key=lambda document: xxhash.xxh3_64_intdigest(document[0].encode()))[:10]
    assert first == {text for _, text in least}


def test_the_order_of_the_texts_does_not_change_a_byte_of_the_tokenizer() -> None:
    texts = [text for _, text in DOCUMENTS]
    settings = Settings(vocab_size=290)
    shuffled = random.Random(1).sample(texts, len(texts))
    one = train_tokenizer([texts], settings)
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
