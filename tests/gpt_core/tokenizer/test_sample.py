"""What a tokenizer is learned from: of every source its share, and nothing else than the set of documents decides."""

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_core.tokenizer.sample import allot, read_population

Document = tuple[str, str, str]  # id, text, source
DOCUMENTS = [(f"id-{i}", f"document {i} " + "word " * (i % 7), "news" if i % 4 else "books") for i in range(60)]


def write_documents(folder: Path, documents: list[Document], *, files: int = 1) -> list[Path]:
    folder.mkdir()
    paths = []
    for number in range(files):
        ids, texts, sources = ([row[i] for row in documents[number::files]] for i in range(3))
        table = pa.table(
            {"id": ids, "text": pa.array(texts, pa.large_string()), "source": pa.array(sources, pa.string())}
        )
        paths.append(folder / f"part-{number}.parquet")
        pq.write_table(table, paths[-1], row_group_size=7)
    return paths


def sampled_texts(paths: list[Path], *, budget: int) -> list[str]:
    return sorted(text for batch in read_population(paths).sample(budget).texts(paths) for text in batch)


def by_hash(documents: list[Document]) -> list[Document]:
    return sorted(documents, key=lambda document: xxhash.xxh3_64_intdigest(document[0].encode()))


def test_quotas_are_shares_of_the_bytes_and_the_largest_remainder_gets_what_is_left() -> None:
    # 600 + 300 + 100 bytes, budget 100: quotas 60, 30 and 10; 50 and 20 fit, the third source has given none
    groups = [np.array([50, 550]), np.array([20, 15, 265]), np.array([12, 88])]
    assert allot(groups, 100) == [2, 1, 1]  # 50 + 20 + 12 = 82; both are 10 below: the first name goes first
    groups = [np.array([50, 550]), np.array([19, 15, 266]), np.array([12, 88])]
    assert allot(groups, 100) == [2, 2, 1]  # 81; the second is 11 below and gives 15: 96; then the first


def test_a_source_has_a_document_as_long_as_the_budget_allows_it() -> None:
    groups = [np.array([10] * 90), *(np.array([10]) for _ in range(10))]
    assert allot(groups, 200) == [18, 1, 1, *[0] * 8]
    assert allot(groups, 10) == [1, *[0] * 10]


@given(st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=20), min_size=1, max_size=8), st.integers(1, 600))
def test_the_budget_is_reached_by_less_than_a_document_and_no_source_is_a_document_off(
    sizes: list[list[int]], budget: int
) -> None:
    groups = [np.array(group) for group in sizes]
    total = sum(map(sum, sizes))
    counts = allot(groups, budget)
    taken = [group[:count] for group, count in zip(sizes, counts, strict=True)]
    if budget >= total:
        assert taken == sizes
        return
    assert budget <= sum(map(sum, taken)) < budget + max(map(max, sizes))
    for group, part in zip(sizes, taken, strict=True):
        quota = budget * sum(group) / total
        assert quota - max(group) <= sum(part) <= quota + max(group)


def test_within_a_source_the_least_hashes_are_taken(tmp_path: Path) -> None:
    paths = write_documents(tmp_path / "d", DOCUMENTS)
    sample = read_population(paths).sample(400)
    texts = set(sampled_texts(paths, budget=400))
    for source in ("books", "news"):
        order = [text for _, text, its in by_hash(DOCUMENTS) if its == source]
        taken = [text in texts for text in order]
        assert taken == sorted(taken, reverse=True)
        assert any(taken)
    assert (sample.documents, sample.text_bytes) == (len(texts), sum(map(len, texts)))
    assert 400 <= sample.text_bytes < 400 + 50


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 2500), st.integers(1, 6), st.randoms(use_true_random=False))
def test_neither_files_nor_rows_change_the_sample(
    tmp_path_factory: pytest.TempPathFactory, budget: int, files: int, chooser: random.Random
) -> None:
    folder = tmp_path_factory.mktemp("sample")
    whole = write_documents(folder / "a", DOCUMENTS)
    parts = write_documents(folder / "b", chooser.sample(DOCUMENTS, len(DOCUMENTS)), files=files)
    assert sampled_texts(whole, budget=budget) == sampled_texts(parts, budget=budget)


def test_documents_that_share_an_id_are_told_apart_by_text(tmp_path: Path) -> None:
    doubled = [("same", f"{word} text", "s") for word in ("one", "two", "six")]
    forth, back = write_documents(tmp_path / "a", doubled), write_documents(tmp_path / "b", doubled[::-1])
    assert sampled_texts(forth, budget=8) == sampled_texts(back, budget=8)


def test_a_budget_beyond_the_corpus_takes_it_whole(tmp_path: Path) -> None:
    paths = write_documents(tmp_path / "d", DOCUMENTS, files=3)
    assert sampled_texts(paths, budget=10**9) == sorted(text for _, text, _ in DOCUMENTS)


def test_a_small_source_is_heard_beside_a_large_one(tmp_path: Path) -> None:
    documents = [*((f"big-{i}", "x" * 100, "big") for i in range(99)), ("small", "y" * 100, "small")]
    paths = write_documents(tmp_path / "d", documents)
    assert sampled_texts(paths, budget=1000).count("y" * 100) == 1


def test_among_equal_sources_the_first_name_goes_first(tmp_path: Path) -> None:
    pair = [("1", "of b", "b"), ("2", "of a", "a")]
    forth, back = write_documents(tmp_path / "x", pair), write_documents(tmp_path / "y", pair[::-1])
    assert sampled_texts(forth, budget=4) == sampled_texts(back, budget=4) == ["of a"]


def test_a_column_that_there_is_not_is_left_out(tmp_path: Path) -> None:
    paths = write_documents(tmp_path / "d", DOCUMENTS)
    (batch, *_) = read_population(paths).sample(10**6).read(paths, columns=("text", "language", "source"))
    assert sorted(batch.schema.names) == ["source", "text"]
