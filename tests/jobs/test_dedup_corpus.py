"""The stage `dedup`: the kept set against an oracle, for any partition count, and the job end to end."""

import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import DataFrame, Row, SparkSession
from spark_job import made, prepare, run_job, table

from gpt_core.artifact import Manifest, list_files, open_artifact, write_manifest
from gpt_core.fingerprint import Json, fingerprint
from gpt_core.recipe import Dedup
from gpt_core.recipe_file import load_recipe
from gpt_core.text.minhash import exact_key, jaccard, shingles
from gpt_core.text.near import preference_key
from gpt_core.text.words import Splitter
from jobs.dedup_corpus import connect, find_duplicates
from jobs.job import Job
from jobs.spark_session import spark_session, write_table

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


def expected_kept(texts: dict[str, str], min_jaccard: float) -> set[str]:
    """The preferred document of each component of all pairs: every pair is measured."""
    splitter = Splitter()
    sets = {id_: shingles(splitter.split(text).words, 5) for id_, text in texts.items()}
    root = {id_: id_ for id_ in texts}

    def find(id_: str) -> str:
        return id_ if root[id_] == id_ else find(root[id_])

    for one, other in itertools.combinations(texts, 2):
        near = jaccard(sets[one], sets[other]) >= min_jaccard
        if near or exact_key(texts[one]) == exact_key(texts[other]):
            first, second = sorted([find(one), find(other)], key=lambda id_: preference_key(id_, texts[id_]))
            root[second] = first
    return {find(id_) for id_ in texts}


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    output = tmp_path_factory.mktemp("session") / "output"
    prepare(output, {"corpus": {"inputs": [{"path": "unused.jsonl"}]}})
    job = Job(recipe=load_recipe(output / "recipe.json"), inputs={}, output=output, rank=0)
    with spark_session(job, input_bytes=0) as session:
        yield session
    assert not (output / "spark-scratch").exists()


def frame(spark: SparkSession, texts: dict[str, str], *, partitions: int) -> DataFrame:
    rows = [(id_, text, id_.partition("-")[0], None, "en", {}) for id_, text in texts.items()]
    random.Random(partitions).shuffle(rows)
    columns = "id string, text string, source string, url string, language string, metadata map<string,string>"
    return spark.createDataFrame(rows, columns).repartition(partitions)


def dedup(spark: SparkSession, texts: dict[str, str], *, partitions: int) -> dict[str, Row]:
    spark.conf.set("spark.sql.shuffle.partitions", str(partitions))
    settings = Dedup.model_validate(DEDUP)
    found = find_duplicates(frame(spark, texts, partitions=partitions), settings, partitions=partitions).collect()
    assert len({row["id"] for row in found}) == len(found)
    return {row["id"]: row for row in found}


@pytest.fixture(scope="module")
def found(spark: SparkSession) -> dict[str, Row]:
    return dedup(spark, corpus(), partitions=3)


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


@pytest.mark.parametrize("partitions", [1, 7])
def test_any_number_of_partitions_gives_the_same_duplicates(
    spark: SparkSession, found: dict[str, Row], partitions: int
) -> None:
    assert dedup(spark, corpus(), partitions=partitions) == found


def test_components_are_found_whatever_their_shape(spark: SparkSession) -> None:
    generator = random.Random(3)
    nodes = [f"{i:03d}" for i in range(200)]
    edges = {(f"{i + 1:03d}", f"{i:03d}") for i in range(40)}  # a long chain
    edges |= {(max(pair), min(pair)) for pair in (generator.sample(nodes[50:150], 2) for _ in range(60))}
    root = {node: node for node in nodes}
    for _ in nodes:
        for member, head in edges:
            root[member] = root[head] = min(root[member], root[head])
    found = connect(spark.createDataFrame(sorted(edges), "member string, head string")).collect()
    assert {(row["member"], row["head"]) for row in found} == {(n, r) for n, r in root.items() if n != r}
    assert len(found) == len({row["member"] for row in found})


def test_no_edges_are_no_components(spark: SparkSession) -> None:
    assert connect(spark.createDataFrame([], "member string, head string")).collect() == []


def clean_output(spark: SparkSession, root: Path, texts: dict[str, str]) -> Path:
    root.mkdir()
    write_table(frame(spark, texts, partitions=2), root / "documents", files=2)
    size = sum(len(text.encode()) for text in texts.values())
    manifest = Manifest(
        stage="clean", fingerprint=fingerprint({}), identity={}, recipe_name="test", created_at="", inputs={},
        files=list_files(root, [root / "documents"]), counts={"text_bytes_kept": size}, figures={}, schemas={},
        versions={}, command=[], host="", git_commit=None, wall_seconds=0, cpu_seconds=0, peak_memory_bytes=0,
    )  # fmt: skip
    write_manifest(root, manifest)
    assert open_artifact(root) is not None
    return root


@pytest.fixture(scope="module")
def outputs(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The job's outputs with one partition and with seven."""
    folder = tmp_path_factory.mktemp("dedup")
    clean = clean_output(spark, folder / "clean", corpus())
    roots = [folder / "one", folder / "seven"]
    for root, partitions in zip(roots, (1, 7), strict=True):
        prepare(root, {"corpus": {"inputs": [{"path": "x.jsonl"}]}, "dedup": DEDUP}, partitions=partitions)
        done = run_job("jobs.dedup_corpus", root, clean=clean)
        assert done.returncode == 0, done.stderr
    return roots


def test_the_job_writes_every_document_to_one_of_two_tables(outputs: list[Path], found: dict[str, Row]) -> None:
    artifact = made(outputs[0])
    counts = artifact.manifest.counts
    kept, duplicates = table(artifact, "documents"), table(artifact, "duplicates")
    assert {row["id"] for row in kept} | {row["id"] for row in duplicates} == corpus().keys()
    assert {row["id"]: row for row in duplicates} == {id_: row.asDict() for id_, row in found.items()}
    assert counts["documents_in"] == len(kept) + len(duplicates) == len(corpus())
    assert counts["duplicates_exact"] + counts["duplicates_fuzzy"] == len(duplicates)
    assert counts["text_bytes_kept"] == sum(len(str(row["text"]).encode()) for row in kept)
    assert list(kept[0]) == ["id", "text", "source", "url", "language", "metadata"]


def test_statistics_name_each_source_and_the_doubtful_pairs(outputs: list[Path]) -> None:
    stats = json.loads((outputs[0] / "stats.json").read_text())
    assert stats["sources"]["a"] == {"in": 3, "kept": 1, "bytes_kept": len("  ".join(words("a")))}
    assert len(stats["pairs"]) == 5
    assert stats["pairs"] == sorted(stats["pairs"], key=lambda pair: (pair["jaccard"], pair["id"]))


def test_the_rows_and_their_order_do_not_depend_on_the_partitions(outputs: list[Path]) -> None:
    one, seven = (made(root) for root in outputs)
    assert table(one, "documents") == table(seven, "documents")
    assert table(one, "duplicates") == table(seven, "duplicates")
    assert one.manifest.counts == seven.manifest.counts
    assert (outputs[0] / "stats.json").read_text() == (outputs[1] / "stats.json").read_text()
