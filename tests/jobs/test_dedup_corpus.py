"""The stage `dedup`: the kept set against an oracle, for any partition count, and the job end to end."""

import itertools
import json
import random
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyspark import SparkContext
from spark_job import made, prepare, run_job, table
from stage_output import write_output

from gpt_core.artifact import Artifact
from gpt_core.fingerprint import Json
from gpt_core.recipe_file import load_recipe
from gpt_core.text.clean import DOCUMENTS
from jobs.dedup_corpus import Deduplicator
from jobs.job import Job
from jobs.spark_context import spark_context

Row = dict[str, object]

pytestmark = pytest.mark.spark
DEDUP: dict[str, Json] = {"bands": 40, "rows_per_band": 3, "min_jaccard": 0.6}


def words(seed: str, count: int = 60) -> list[str]:
    """Words that no other seed has."""
    return [f"{seed}{i:02d}" for i in range(count)]


def corpus() -> dict[str, str]:
    """id -> text: exact, near and chained duplicates, ties and strangers."""
    a, b, c, d = words("a"), words("b"), words("c"), words("d")
    texts = {
        "a-1": " ".join(a),
        "a-0": " ".join(a).upper(),  # exact, equally long: the lesser id is kept
        "a-spaced": "  ".join(a),  # exact and longer: kept
        "b-long": " ".join([*b, "more"]),
        "b-near": " ".join([*b[:30], "x", *b[31:]]),  # Jaccard 51 / 62
        "b-twin": "\n".join([*b[:30], "x", *b[31:]]),  # exact to one that goes: fuzzy to the kept one
        "b-far": " ".join([*b[:12], "x", *b[13:24], "x", *b[25:36], "x", *b[37:48], "x", *b[49:]]),  # too far
        "short-0": "yes",
        "short-1": "Yes.",
        "short-2": "no",
    }
    for step in range(5):  # each near the next, the ends far apart
        texts[f"c-{step}"] = " ".join(["y" + w[1:] if i < 6 * step else w for i, w in enumerate(c)])
    texts |= {f"d-{i}": " ".join([*d[:i], "z", *d[i + 1 :]]) for i in range(0, 60, 6)}  # a hot band
    texts |= {f"stranger-{i}": " ".join(words(f"s{i}x")) for i in range(20)}
    return texts


def preference(id_: str, text: str) -> tuple[int, str]:
    return (-len(text), id_)


def shingles(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + 5]) for i in range(max(1, len(words) - 4))}


def expected_kept(texts: dict[str, str], min_jaccard: float) -> set[str]:
    """The preferred document of each component of all pairs: every pair is measured."""
    sets = {id_: shingles(text) for id_, text in texts.items()}
    root = {id_: id_ for id_ in texts}

    def find(id_: str) -> str:
        return id_ if root[id_] == id_ else find(root[id_])

    for one, other in itertools.combinations(texts, 2):
        near = len(sets[one] & sets[other]) / len(sets[one] | sets[other]) >= min_jaccard
        if near or texts[one].lower().split() == texts[other].lower().split():
            first, second = sorted([find(one), find(other)], key=lambda id_: preference(id_, texts[id_]))
            root[second] = first
    return {find(id_) for id_ in texts}


def clean_output(root: Path, texts: dict[str, str], *, files: int) -> Path:
    """What the stage clean would have made of `texts`, shuffled, in so many files."""
    rows = [
        {
            "id": id_,
            "text": text,
            "source": id_.partition("-")[0],
            "language": "en",
            "metadata": [],
            "place": f"x {id_}",
        }
        for id_, text in texts.items()
    ]
    random.Random(files).shuffle(rows)
    (root / "documents").mkdir(parents=True)
    for number in range(files):
        part = pa.Table.from_pylist(rows[number::files], DOCUMENTS)
        pq.write_table(part, root / "documents" / f"part-{number:05d}-000.parquet", row_group_size=7)
    size = sum(len(text.encode()) for text in texts.values())
    write_output(root, "clean", {"documents_kept": len(texts), "text_bytes_kept": size})
    return root


def run(
    folder: Path, texts: dict[str, str], *, files: int = 2, partitions: int = 3, **settings: Json
) -> tuple[Artifact, dict[str, Row]]:
    """(the job's output, its duplicates by id)."""
    clean = clean_output(folder / "clean", texts, files=files)
    recipe: dict[str, Json] = {"corpus": {"inputs": [{"path": "x.jsonl"}]}, "dedup": DEDUP | settings}
    prepare(folder / "dedup", recipe, partitions=partitions)
    done = run_job("jobs.dedup_corpus", folder / "dedup", clean=clean)
    assert done.returncode == 0, done.stderr
    artifact = made(folder / "dedup")
    return artifact, {str(row["id"]): row for row in table(artifact, "duplicates")}


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, dict[str, Row]]:
    return run(tmp_path_factory.mktemp("dedup"), corpus())


@pytest.fixture(scope="module")
def found(output: tuple[Artifact, dict[str, Row]]) -> dict[str, Row]:
    return output[1]


def test_what_is_kept_is_what_measuring_every_pair_would_keep(found: dict[str, Row]) -> None:
    texts = corpus()
    kept = texts.keys() - found.keys()
    assert kept == expected_kept(texts, 0.6)
    assert len(kept) == 20 + 1 + 1 + 2 + 1 + 2  # strangers, a, b and the far one, c, d, short


def test_the_kept_copy_is_the_longest_then_the_least_id(found: dict[str, Row]) -> None:
    assert {id_: found[id_]["duplicate_of"] for id_ in ("a-0", "a-1")} == {"a-0": "a-spaced", "a-1": "a-spaced"}
    assert found["b-near"]["duplicate_of"] == "b-long"
    assert {row["duplicate_of"] for id_, row in found.items() if id_.startswith("d-")} == {"d-0"}


def test_kinds_and_similarities_are_those_of_the_two_documents(found: dict[str, Row]) -> None:
    assert (found["a-0"]["kind"], found["a-0"]["jaccard"]) == ("exact", 1.0)
    assert (found["b-near"]["kind"], found["b-near"]["jaccard"]) == ("fuzzy", 51 / 62)
    assert (found["b-twin"]["kind"], found["b-twin"]["jaccard"]) == ("fuzzy", 51 / 62)
    assert (found["short-0"]["kind"], found["short-0"]["duplicate_of"]) == ("fuzzy", "short-1")  # `yes`, `Yes.`
    assert found["b-near"]["source"] == "b"


def test_a_chain_is_one_component_and_its_far_end_tells_its_own_similarity(found: dict[str, Row]) -> None:
    chain = {id_: row for id_, row in found.items() if id_.startswith("c-")}
    assert {row["duplicate_of"] for row in chain.values()} == {"c-0"}
    assert [round(chain[f"c-{step}"]["jaccard"], 3) for step in (1, 2, 3, 4)] == [
        round(common / (112 - common), 3) for common in (50, 44, 38, 32)
    ]


def test_one_cluster_has_one_name_and_another_another(found: dict[str, Row]) -> None:
    clusters = {
        kept: {row["cluster"] for row in found.values() if row["duplicate_of"] == kept} for kept in ("d-0", "c-0")
    }
    assert all(len(names) == 1 for names in clusters.values())
    assert clusters["d-0"] != clusters["c-0"]


def test_any_number_of_files_and_partitions_and_any_order_give_the_same(
    output: tuple[Artifact, dict[str, Row]], tmp_path: Path
) -> None:
    artifact, found = output
    again, found_again = run(tmp_path, corpus(), files=5, partitions=1)
    assert found_again == found
    assert again.manifest.counts == artifact.manifest.counts
    assert {row["id"] for row in table(again, "documents")} == {row["id"] for row in table(artifact, "documents")}
    assert again.file("stats.json").read_text() == artifact.file("stats.json").read_text()


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkContext]:
    folder = tmp_path_factory.mktemp("context")
    with spark_context(make_job(folder / "output", partitions=1), input_bytes=0) as running:
        yield running
    assert not (folder / "output/spark-scratch").exists()


def make_job(output: Path, *, partitions: int) -> Job:
    prepare(output, {"corpus": {"inputs": [{"path": "x.jsonl"}]}, "dedup": DEDUP}, partitions=partitions)
    return Job(recipe=load_recipe(output / "recipe.json"), inputs={}, output=output, rank=0)


@settings(max_examples=6)
@given(
    ids=st.sets(st.sampled_from(sorted(corpus())), min_size=1),
    files=st.integers(1, 4),
    partitions=st.integers(1, 4),
    fits_in_a_task=st.booleans(),
)
@example(ids={"stranger-0"}, files=2, partitions=3, fits_in_a_task=True)
@example(ids=set(corpus()), files=3, partitions=2, fits_in_a_task=False)
def test_any_documents_in_any_files_and_partitions_give_what_measuring_every_pair_would(
    context: SparkContext, ids: set[str], files: int, partitions: int, fits_in_a_task: bool
) -> None:
    texts = {id_: text for id_, text in corpus().items() if id_ in ids}
    with tempfile.TemporaryDirectory() as name:
        clean = clean_output(Path(name) / "clean", texts, files=files)
        job = make_job(Path(name) / "dedup", partitions=partitions)
        paths = sorted((clean / "documents").glob("*.parquet"))
        deduplicator = Deduplicator(context, job, paths, text_bytes=1_000)
        if not fits_in_a_task:
            deduplicator.links_at_once = 0
        named = [row for table in deduplicator.find().named.collect(lambda table: table) for row in table.to_pylist()]
    assert texts.keys() - {row["id"] for row in named} == expected_kept(texts, 0.6)
    assert len({row["id"] for row in named}) == len(named)


def test_the_preferred_source_is_kept_and_common_lines_are_dropped(tmp_path: Path) -> None:
    footer = "All rights reserved by the company."
    texts = {f"w-{i}": f"{' '.join(words(f'w{i}x'))}\n{footer}" for i in range(4)}
    texts |= {"x-0": " ".join(words("a")), "y-0": f"{' '.join(words('a'))} more", "z-0": footer.upper()}
    lines: Json = {"max_documents": 3}
    artifact, found = run(tmp_path, texts, lines=lines, source_priority=["x"])
    assert {id_: (row["duplicate_of"], row["kind"]) for id_, row in found.items()} == {
        "y-0": ("x-0", "fuzzy"),
        "z-0": (None, "lines"),
    }
    rows = table(artifact, "documents")
    kept = {row["id"]: row["text"] for row in rows}
    assert kept == {id_: text.partition("\n")[0] for id_, text in texts.items() if id_ not in found}
    assert all(row["place"] == f"x {row['id']}" for row in rows)
    assert artifact.manifest.counts["documents_emptied"] == 1
    stats = json.loads(artifact.file("stats.json").read_text())
    assert stats["lines"] == {"dropped": 5, "documents": 5, "bytes": 4 * 36 + 35, "common": 1}


def test_a_hot_band_is_shared_among_tasks_and_gives_the_same(
    output: tuple[Artifact, dict[str, Row]], tmp_path: Path
) -> None:
    texts = {f"h-{i:03d}": " ".join([*words("h")[: i % 55], f"u{i}", *words("h")[i % 55 + 1 :]]) for i in range(120)}
    _, found = run(tmp_path, texts)
    assert texts.keys() - found.keys() == expected_kept(texts, 0.6)


def test_the_job_writes_every_document_to_one_of_two_tables(output: tuple[Artifact, dict[str, Row]]) -> None:
    artifact, found = output
    counts = artifact.manifest.counts
    kept = table(artifact, "documents")
    assert {row["id"] for row in kept} | found.keys() == corpus().keys()
    assert counts["documents_in"] == len(kept) + len(found) == len(corpus())
    assert counts["duplicates_exact"] + counts["duplicates_fuzzy"] == len(found)
    assert counts["text_bytes_kept"] == sum(len(str(row["text"]).encode()) for row in kept)
    assert list(kept[0]) == ["id", "text", "source", "url", "language", "metadata", "place"]
    assert all(row["place"] == f"x {row['id']}" for row in kept)
    assert {row["text"] for row in kept} <= set(corpus().values())


def test_statistics_name_sources_pairs_and_clusters(output: tuple[Artifact, dict[str, Row]]) -> None:
    stats = json.loads(output[0].file("stats.json").read_text())
    assert stats["sources"]["a"] == {"in": 3, "kept": 1, "bytes_kept": len("  ".join(words("a")))}
    counts = output[0].manifest.counts
    for figure, count in (("in", "documents_in"), ("kept", "documents_kept"), ("bytes_kept", "text_bytes_kept")):
        assert sum(source[figure] for source in stats["sources"].values()) == counts[count]
    assert len(stats["pairs"]) == 5
    assert stats["pairs"] == sorted(stats["pairs"], key=lambda pair: (pair["jaccard"], pair["id"]))
    assert stats["clusters"]["sizes"] == {"2-3": 3, "4-7": 1, "8-15": 1}
    largest = stats["clusters"]["largest"][0]
    assert (largest["id"], largest["size"], len(largest["members"])) == ("d-0", 10, 5)
    histogram = stats["jaccard_histogram"]
    assert len(histogram["edges"]) == 11
    assert sum(histogram["verified"]) > 0
