"""Clean documents to unique ones, on Spark: exact duplicates, then fuzzy ones by MinHash.

1. Every document is sketched: a key of its folded text, and a hash for each band of its MinHash signature.
2. Documents with one folded text: the preferred one stands for all.
3. Documents that share a band: each is paired with the preferred one of that band, so that n of them give n - 1
   pairs. A pair counts if the exact Jaccard similarity of its shingles reaches dedup.min_jaccard.
4. Connected components of those pairs; the preferred document of each is kept.

Preferred is the longest text, then the least id. All of it runs on the cluster; the kept documents are the same for
any number of partitions, and in the same order: by a hash of the id. Writes documents/, duplicates/ and stats.json;
documents in = kept + exact + fuzzy duplicates. `duplicate_of` always names a kept document.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator

import pyarrow as pa
from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from gpt_core.artifact import write_json
from gpt_core.errors import StageError
from gpt_core.fingerprint import Json
from gpt_core.recipe import Dedup
from gpt_core.text.near import KEY_DIGITS, PAIR, SKETCH, sketch_batches, verify_batches
from jobs.job import Job, Outcome, run_job
from jobs.spark_session import files_for, partitions_of, schema_of, spark_session, write_table

MOST_ROUNDS = 50  # a round at least halves every path; 50 is beyond any corpus
SAMPLE_PAIRS = 5
DUPLICATE_BYTES = 128  # of a row of duplicates/, about


def make(job: Job) -> Outcome:
    """The stage `dedup`."""
    folder, duplicates_folder = job.output / "documents", job.output / "duplicates"
    tables = job.inputs["clean"].files("documents")
    with spark_session(job, input_bytes=sum(table.stat().st_size for table in tables)) as spark:
        documents = spark.read.parquet(*(table.absolute().as_uri() for table in tables))
        duplicates = find_duplicates(documents, job.recipe.dedup, partitions=partitions_of(spark))
        duplicates = duplicates.persist(StorageLevel.DISK_ONLY)
        kinds = {row["kind"]: row["count"] for row in duplicates.groupBy("kind").count().collect()}
        files = files_for(DUPLICATE_BYTES * sum(kinds.values()), spark)
        n_duplicates = write_table(_by_id_hash(duplicates, files), duplicates_folder, files=files)
        unique = documents.join(duplicates.select("id"), "id", "left_anti")
        files = files_for(job.inputs["clean"].manifest.counts["text_bytes_kept"], spark)
        n_kept = write_table(_by_id_hash(unique, files), folder, files=files)
        sources = _count_sources(documents, spark.read.parquet(folder.absolute().as_uri()))
        pairs = _sample_pairs(duplicates)
    counts = {
        "documents_in": sum(figures["in"] for figures in sources.values()),
        "documents_kept": n_kept,
        "duplicates_exact": kinds.get("exact", 0),
        "duplicates_fuzzy": kinds.get("fuzzy", 0),
        "text_bytes_kept": sum(figures["bytes_kept"] for figures in sources.values()),
    }
    assert n_duplicates == counts["duplicates_exact"] + counts["duplicates_fuzzy"], "the table lost duplicates"
    assert counts["documents_in"] == n_kept + n_duplicates, "documents in and out do not balance"
    stats: dict[str, Json] = {"sources": {name: dict(figures) for name, figures in sources.items()}, "pairs": pairs}
    job.report(counts["documents_in"], counts["documents_in"], "documents")
    return Outcome(
        paths=[folder, duplicates_folder, write_json(job.output / "stats.json", stats)],
        counts=counts,
        schemas={"documents": schema_of(folder), "duplicates": schema_of(duplicates_folder)},
        engines=["pyspark", "pyarrow"],
    )


def find_duplicates(documents: DataFrame, dedup: Dedup, *, partitions: int) -> DataFrame:
    """(id, source, duplicate_of, kind, jaccard) of every document that is not kept.

    An exact duplicate of a document that is itself dropped is a fuzzy duplicate of the kept one. `jaccard` is that
    of the two documents, also where a chain of pairs joins them.
    """
    texts = documents.select("id", "text")
    sketches = texts.mapInArrow(lambda batches: sketch_batches(batches, dedup), from_arrow_schema(SKETCH))
    twin = F.min("key").over(Window.partitionBy("exact"))
    sketches = sketches.withColumn("twin", twin).persist(StorageLevel.DISK_ONLY)
    candidates = pair_candidates(sketches.where("key = twin"))
    verified = measure(candidates, texts, dedup, partitions=partitions).where(F.col("jaccard") >= dedup.min_jaccard)
    verified = verified.persist(StorageLevel.DISK_ONLY)
    roots = connect(verified.select("member", "head"))
    fuzzy = roots.join(verified, ["member", "head"], "left").persist(StorageLevel.DISK_ONLY)
    chained = fuzzy.where("jaccard is null").select("member", "head")
    if not chained.isEmpty():
        fuzzy = fuzzy.where("jaccard is not null").unionByName(measure(chained, texts, dedup, partitions=partitions))
    twins = sketches.where("key <> twin").select(F.col("key").alias("member"), F.col("twin"))
    through = fuzzy.select(F.col("member").alias("twin"), "head", "jaccard")
    exact = twins.join(through, "twin", "left").select(
        "member",
        F.coalesce("head", "twin").alias("head"),
        F.when(F.col("head").isNull(), "exact").otherwise("fuzzy").alias("kind"),
        F.coalesce("jaccard", F.lit(1.0)).alias("jaccard"),
    )
    dropped = exact.unionByName(fuzzy.withColumn("kind", F.lit("fuzzy"))).select(
        _id("member").alias("id"), _id("head").alias("duplicate_of"), "kind", "jaccard"
    )
    joined = documents.select("id", "source").join(dropped, "id")
    return joined.select("id", "source", "duplicate_of", "kind", "jaccard")


def pair_candidates(sketches: DataFrame) -> DataFrame:
    """Distinct (member, head) keys: every document with the preferred one of each of its bands."""
    bands = sketches.select(F.col("key").alias("member"), F.explode("bands").alias("band"))
    head = F.min("member").over(Window.partitionBy("band"))
    return bands.withColumn("head", head).where("member <> head").select("member", "head").distinct()


def measure(pairs: DataFrame, texts: DataFrame, dedup: Dedup, *, partitions: int) -> DataFrame:
    """(member, head, jaccard) for distinct (member, head) keys. A text crosses the network once a pair it is in."""
    ngram_words = dedup.ngram_words

    def verify(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return verify_batches(batches, ngram_words=ngram_words)

    members = pairs.withColumn("id", _id("member"))
    heads = pairs.select("head").distinct().select(F.lit(None).cast("string").alias("member"), "head", _id("head"))
    wanted = members.unionByName(heads.toDF("member", "head", "id")).join(texts, "id").select("head", "member", "text")
    ordered = wanted.repartition(partitions, "head").sortWithinPartitions("head", F.col("member").asc_nulls_first())
    return ordered.mapInArrow(verify, from_arrow_schema(PAIR))


def connect(edges: DataFrame) -> DataFrame:
    """(member, head): the least key of the connected component of every key that is not it itself.

    Large star and small star by turns (Kiveris et al. 2014, Connected Components in MapReduce and Beyond), to their
    fixed point. `edges` are (member, head) with member > head.
    """
    edges = edges.localCheckpoint()
    former = _digest(edges)
    for _ in range(MOST_ROUNDS):
        if not former[0]:
            return edges
        edges = _small_star(_large_star(edges)).localCheckpoint()
        now = _digest(edges)
        if now == former:
            return edges
        former = now
    raise StageError(f"dedup: the components of near-duplicates are not settled after {MOST_ROUNDS} rounds")


def _large_star(edges: DataFrame) -> DataFrame:
    """Every greater neighbour of a key is joined to the least of the key and its neighbours."""
    both = edges.unionByName(edges.select(F.col("head").alias("member"), F.col("member").alias("head")))
    least = F.least("member", F.min("head").over(Window.partitionBy("member")))
    return both.withColumn("least", least).where("head > member").select(F.col("head").alias("member"), "least")


def _small_star(edges: DataFrame) -> DataFrame:
    """Every key and its lesser neighbours are joined to the least of them."""
    least = F.min("least").over(Window.partitionBy("member"))
    joined = edges.select("member", F.col("least").alias("neighbour"), least.alias("head"))
    ends = joined.select(F.explode(F.array("member", "neighbour")).alias("member"), "head")
    return ends.where("member <> head").distinct()


def _digest(edges: DataFrame) -> tuple[int, int]:
    """(count, exclusive or of the hashes): differs when the sets of edges differ."""
    row = edges.agg(F.count(F.lit(1)), F.bit_xor(F.xxhash64("member", "head"))).collect()[0]
    return row[0], row[1] or 0


def _id(key: str) -> Column:
    return F.expr(f"substring({key}, {KEY_DIGITS + 1})")


def _by_id_hash(frame: DataFrame, files: int) -> DataFrame:
    """The rows in an order that depends on their ids alone, cut into `files` partitions."""
    order = [F.xxhash64("id"), F.col("id")]
    return (frame.coalesce(1) if files == 1 else frame.repartitionByRange(files, *order)).sortWithinPartitions(*order)


def _count_sources(documents: DataFrame, kept: DataFrame) -> dict[str, dict[str, int]]:
    """Documents in and kept, and bytes kept, by source, as the tables on disk have them."""
    sources: defaultdict[str, dict[str, int]] = defaultdict(lambda: {"in": 0, "kept": 0, "bytes_kept": 0})
    for row in documents.groupBy("source").count().collect():
        sources[row["source"]]["in"] = row["count"]
    size = F.sum(F.octet_length("text")).alias("bytes")
    for row in kept.groupBy("source").agg(F.count(F.lit(1)).alias("documents"), size).collect():
        sources[row["source"]].update(kept=row["documents"], bytes_kept=row["bytes"])
    return dict(sorted(sources.items()))


def _sample_pairs(duplicates: DataFrame) -> list[Json]:
    """The least similar pairs: those a reader doubts first."""
    columns = ["id", "duplicate_of", "kind", "jaccard"]
    rows = duplicates.orderBy("jaccard", "id").limit(SAMPLE_PAIRS).select(columns).collect()
    return [{name: row[name] for name in columns} for row in rows]


if __name__ == "__main__":
    run_job("dedup", make)
