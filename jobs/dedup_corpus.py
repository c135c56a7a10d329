"""Clean documents to unique ones, on Spark: common lines, exact duplicates, fuzzy ones by MinHash.

0. Where dedup.lines asks for it, lines that too many documents have are dropped from all of them.
1. Every document is sketched: a key of its folded text, and a hash for each band of its MinHash signature.
2. Documents with one folded text are duplicates of one of them, which stands for all.
3. Of documents that share a band each is paired with one of them, so that n give n - 1 pairs. A pair counts if the
   exact Jaccard similarity of its shingles reaches dedup.min_jaccard.
4. Connected components of the duplicates. Of each is kept the document whose source stands first in
   dedup.source_priority, then the longest, then that with the least id.

Spark sees numbers (a node of 64 bits a document); texts go from file to file within a task, and through the JVM for
candidate pairs alone. The kept documents are the same for any number of partitions and any order of the input.
Writes documents/, duplicates/ and stats.json; documents in = kept + exact + fuzzy + emptied (all their lines common).
"""

import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import reduce
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
from pyspark import RDD
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from gpt_core.artifact import write_json
from gpt_core.errors import StageError, UserError
from gpt_core.fingerprint import Json
from gpt_core.recipe import Dedup
from gpt_core.text.near import PAIR, verify_batches
from gpt_core.text.sketch import Dropped, count_lines, drop_common_lines, keep_unique, read_text, sketch_file
from jobs.job import Job, Outcome, run_job
from jobs.spark_session import count_rows, partitions_of, schema_of, scratch_of, spark_session, write_table

MOST_ROUNDS = 50  # a round at least halves every path; 50 is beyond any corpus
MEMBERS_AT_ONCE = 1_000  # of one head that a task verifies: a hot band is shared among many tasks
SAMPLE_PAIRS, SAMPLE_CLUSTERS, SAMPLE_MEMBERS, SAMPLE_CHARACTERS = 5, 5, 5, 200
JACCARD_EDGES = [round(0.5 + 0.05 * i, 2) for i in range(11)]

_T = TypeVar("_T")


def make(job: Job) -> Outcome:
    """The stage `dedup`."""
    dedup, folder = job.recipe.dedup, job.output / "documents"
    tables = job.inputs["clean"].files("documents")
    with spark_session(job, input_bytes=sum(table.stat().st_size for table in tables)) as spark:
        rounds = Checkpoints(spark, scratch_of(job))
        lines: dict[str, Json] | None = None
        if dedup.lines is not None:
            tables, lines = _drop_lines(spark, job, tables)
        sketches = _sketch(spark, job, tables)
        candidates = rounds.keep(pair_candidates(sketches))
        texts = spark.read.parquet(*(table.absolute().as_uri() for table in tables)).select(_node(dedup), "text")
        measured = rounds.keep(measure(candidates, texts, dedup, partitions=partitions_of(spark)))
        verified = measured.where(F.col("jaccard") >= dedup.min_jaccard)
        twins = _twins(sketches)
        components = connect(rounds.keep(verified.select("member", "head").unionByName(twins)), rounds)
        duplicates = rounds.keep(
            _name_duplicates(
                components,
                sketches,
                verified,
                lambda pairs: measure(pairs, texts, dedup, partitions=partitions_of(spark)),
            )
        )
        kinds = {row["kind"]: row["count"] for row in duplicates.groupBy("kind").count().collect()}
        columns = ["id", "source", "duplicate_of", "cluster", "kind", "jaccard"]
        n_duplicates = write_table(
            duplicates.select(columns).orderBy("id").coalesce(1), job.output / "duplicates", files=1
        )
        kept = _write_unique(spark, job, tables, duplicates)
        sources_in = {row["source"]: row["count"] for row in sketches.groupBy("source").count().collect()}
        stats: dict[str, Json] = {
            "sources": {
                name: {"in": n, "kept": kept.get(name, (0, 0))[0], "bytes_kept": kept.get(name, (0, 0))[1]}
                for name, n in sorted(sources_in.items())
            },
            "pairs": _sample_pairs(duplicates),
            "clusters": _describe_clusters(duplicates, tables, sketches),
            "jaccard_histogram": _describe_pairs(measured, dedup),
            "lines": lines,
        }
    counts = {
        "documents_in": sum(sources_in.values()),
        "documents_kept": sum(n for n, _ in kept.values()),
        "duplicates_exact": kinds.get("exact", 0),
        "duplicates_fuzzy": kinds.get("fuzzy", 0),
        "documents_emptied": kinds.get("lines", 0),
        "text_bytes_kept": sum(size for _, size in kept.values()),
    }
    assert n_duplicates == sum(kinds.values()), "the table lost duplicates"
    assert count_rows(folder) == counts["documents_kept"], "the table lost documents"
    assert counts["documents_in"] == counts["documents_kept"] + n_duplicates, "documents in and out do not balance"
    if not counts["documents_kept"]:
        raise UserError("dedup kept no document: all their lines are common; raise dedup.lines.max_documents")
    job.report(counts["documents_in"], counts["documents_in"], "documents")
    return Outcome(
        paths=[folder, job.output / "duplicates", write_json(job.output / "stats.json", stats)],
        counts=counts,
        schemas={"documents": schema_of(folder), "duplicates": schema_of(job.output / "duplicates")},
        engines=["pyspark", "pyarrow"],
    )


class Checkpoints:
    """Tables written out and read back: cut from their history, and not lost with an executor."""

    def __init__(self, spark: SparkSession, scratch: Path) -> None:
        self.spark, self.scratch, self.n = spark, scratch, 0

    def keep(self, frame: DataFrame) -> DataFrame:
        """The same rows."""
        self.n += 1
        uri = (self.scratch / f"kept-{self.n:03d}").as_uri()
        frame.write.option("compression", "lz4").parquet(uri)
        return self.spark.read.schema(frame.schema).parquet(uri)


def _by_file(spark: SparkSession, tables: Iterable[Path], make: Callable[[Path], _T]) -> list[_T]:
    """What `make` returns of every file of documents, each in a task of its own."""
    paths = [table.absolute() for table in tables]
    files: RDD[Path] = spark.sparkContext.parallelize(paths, len(paths))
    found: list[_T] = files.map(make).collect()
    return found


def _attempt() -> str:
    return uuid.uuid4().hex


def _drop_lines(spark: SparkSession, job: Job, tables: list[Path]) -> tuple[list[Path], dict[str, Json]]:
    """(the documents without common lines, what that took)."""
    settings, scratch = job.recipe.dedup.lines, scratch_of(job)
    assert settings is not None, "dedup.lines is off"
    _by_file(spark, tables, lambda path: count_lines(path, settings, scratch / "lines", attempt=_attempt()))
    lines = spark.read.parquet((scratch / "lines").as_uri()).withColumn("file", F.input_file_name())
    total = lines.groupBy("hash").agg(F.sum("documents").alias("total"))
    common = total.where(F.col("total") > settings.max_documents)
    per_file = lines.join(common, "hash").groupBy("file").agg(F.collect_list("hash").alias("hashes"))
    names = per_file.select(F.element_at(F.split("file", "/"), -1).alias("file"), "hashes").rdd
    by_name = {path.stem: str(path.absolute()) for path in tables}
    edited = scratch / "edited"

    def drop(named: tuple[str, set[int]]) -> Dropped:
        path, hashes = named
        return drop_common_lines(Path(path), hashes, settings, edited, attempt=_attempt())

    found = names.map(lambda row: (by_name[_source_stem(row["file"])], set(row["hashes"])))
    untouched = spark.sparkContext.parallelize([(path, set[int]()) for path in by_name.values()])
    merged = found.union(untouched).reduceByKey(lambda a, b: a | b, numPartitions=len(by_name))
    dropped = reduce(Dropped.__add__, merged.map(drop).collect())
    told: dict[str, Json] = {
        "dropped": dropped.lines,
        "documents": dropped.documents,
        "bytes": dropped.text_bytes,
        "common": common.count(),
    }
    return sorted(edited.glob("*.parquet")), told


def _source_stem(name: str) -> str:
    """part-00000-000 for part-00000-000-000.parquet, the file a task wrote of it."""
    return Path(name).stem.rpartition("-")[0]


def _sketch(spark: SparkSession, job: Job, tables: list[Path]) -> DataFrame:
    """SKETCHES of all documents."""
    dedup, folder = job.recipe.dedup, scratch_of(job) / "sketches"
    _by_file(spark, tables, lambda path: sketch_file(path, dedup, folder, attempt=_attempt()))
    sketches = spark.read.parquet(folder.as_uri()).withColumn("node", _node(dedup))
    if not sketches.groupBy("node").count().where("count > 1").isEmpty():
        raise StageError("dedup: the ids of two documents have one 64-bit hash; choose another dedup.seed")
    return sketches


def _node(dedup: Dedup) -> Column:
    """The number by which Spark knows a document; two documents of one node would be taken for one."""
    return F.xxhash64(F.lit(dedup.seed), "id").alias("node")


def _twins(sketches: DataFrame) -> DataFrame:
    """(member, head): every document with one folded text, and the least of their nodes."""
    texts = sketches.where("characters > 0").groupBy("exact_high", "exact_low")
    heads = texts.agg(F.min("node").alias("head"), F.count(F.lit(1)).alias("n")).where("n > 1")
    joined = sketches.select("exact_high", "exact_low", F.col("node").alias("member"))
    return joined.join(heads, ["exact_high", "exact_low"]).where("member <> head").select("member", "head")


def pair_candidates(sketches: DataFrame) -> DataFrame:
    """Distinct (member, head): every document with the least node of each of its bands; of twins the least alone."""
    key = ["exact_high", "exact_low"]
    lone = (
        sketches.where("characters > 0")
        .groupBy(*key)
        .agg(F.min_by("bands", "node").alias("bands"), F.min("node").alias("member"))
    )
    bands = lone.select("member", F.posexplode("bands").alias("place", "band")).select("member", "band")
    heads = bands.groupBy("band").agg(F.min("member").alias("head"), F.count(F.lit(1)).alias("n")).where("n > 1")
    pairs = bands.join(heads.select("band", "head"), "band").where("member <> head")
    return pairs.select("member", "head").distinct()


def measure(pairs: DataFrame, texts: DataFrame, dedup: Dedup, *, partitions: int) -> DataFrame:
    """(member, head, jaccard) for distinct (member, head). A text crosses the network once for each task it is in."""
    ngram_words = dedup.ngram_words

    def verify(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return verify_batches(batches, ngram_words=ngram_words)

    salt = F.pmod(F.xxhash64("member"), F.ceil(F.col("n") / MEMBERS_AT_ONCE)).alias("salt")
    sizes = pairs.groupBy("head").agg(F.count(F.lit(1)).alias("n"))
    members = pairs.join(sizes, "head").select("head", "member", salt)
    heads = members.select("head", "salt").distinct()
    wanted = members.select("head", "salt", "member", F.col("member").alias("node")).unionByName(
        heads.select("head", "salt", _null("long").alias("member"), F.col("head").alias("node"))
    )
    placed = texts.join(wanted, "node").select("head", "salt", "member", "text")
    placed = placed.repartition(partitions, "head", "salt")
    ordered = placed.sortWithinPartitions("head", "salt", F.col("member").asc_nulls_first())
    return ordered.select("head", "member", "text").mapInArrow(verify, from_arrow_schema(PAIR))


def connect(edges: DataFrame, rounds: Checkpoints) -> DataFrame:
    """(member, head): the least node of the connected component of every node that is not it itself.

    Large star and small star by turns (Kiveris et al. 2014, Connected Components in MapReduce and Beyond), to their
    fixed point.
    """
    larger = F.greatest("member", "head").alias("member")
    edges = rounds.keep(edges.select(larger, F.least("member", "head").alias("head")).distinct())
    former = _digest(edges)
    for _ in range(MOST_ROUNDS):
        if not former[0]:
            return edges
        edges = rounds.keep(_small_star(_large_star(edges)))
        now = _digest(edges)
        if now == former:
            return edges
        former = now
    raise StageError(f"dedup: the components of near-duplicates are not settled after {MOST_ROUNDS} rounds")


def _large_star(edges: DataFrame) -> DataFrame:
    """Every greater neighbour of a node is joined to the least of the node and its neighbours."""
    both = edges.unionByName(edges.select(F.col("head").alias("member"), F.col("member").alias("head")))
    least = both.groupBy("member").agg(F.min("head").alias("least"))
    joined = both.join(least, "member").withColumn("least", F.least("member", "least")).where("head > member")
    return joined.select(F.col("head").alias("member"), "least")


def _small_star(edges: DataFrame) -> DataFrame:
    """Every node and its lesser neighbours are joined to the least of them."""
    least = edges.groupBy("member").agg(F.min("least").alias("head"))
    joined = edges.join(least, "member").select("member", F.col("least").alias("neighbour"), "head")
    ends = joined.select(F.explode(F.array("member", "neighbour")).alias("member"), "head")
    return ends.where("member <> head").distinct()


def _digest(edges: DataFrame) -> tuple[int, int]:
    """(count, exclusive or of the hashes): differs when the sets of edges differ."""
    row = edges.agg(F.count(F.lit(1)), F.bit_xor(F.xxhash64("member", "head"))).collect()[0]
    return row[0], row[1] or 0


def _name_duplicates(
    components: DataFrame, sketches: DataFrame, verified: DataFrame, measure_pairs: Callable[[DataFrame], DataFrame]
) -> DataFrame:
    """(id, source, file, row, duplicate_of, cluster, kind, jaccard) of every document that is not kept.

    `kind` is exact where it has the folded text of the kept one. `jaccard` is that of the two documents, also where
    a chain of pairs joins them. `cluster` is the same for all duplicates of one document.
    """
    nodes = components.unionByName(components.select(F.col("head").alias("member"), "head").distinct())
    facts = ["node", "id", "source", "file", "row", "priority", "characters", "exact_high", "exact_low"]
    known = nodes.join(sketches.select(facts).withColumnRenamed("node", "member"), "member")
    best = F.struct("priority", -F.col("characters"), "id", "member", "exact_high", "exact_low")
    kept = known.groupBy("head").agg(F.min(best).alias("kept"))
    dropped = known.join(kept, "head").where(F.col("member") != F.col("kept.member"))
    is_exact = (F.col("exact_high") == F.col("kept.exact_high")) & (F.col("exact_low") == F.col("kept.exact_low"))
    named = dropped.select(
        "member",
        F.col("kept.member").alias("keeper"),
        "id",
        "source",
        "file",
        "row",
        F.col("kept.id").alias("duplicate_of"),
        F.hex("head").alias("cluster"),
        F.when(is_exact, "exact").otherwise("fuzzy").alias("kind"),
    )
    either = verified.unionByName(
        verified.select(F.col("head").alias("member"), F.col("member").alias("head"), "jaccard")
    )
    either = either.withColumnRenamed("head", "keeper")
    found = named.join(either, ["member", "keeper"], "left")
    found = found.withColumn("jaccard", F.when(F.col("kind") == "exact", 1.0).otherwise(F.col("jaccard")))
    chained = found.where("jaccard is null").select("member", F.col("keeper").alias("head"))
    if not chained.isEmpty():
        late = measure_pairs(chained).select("member", F.col("head").alias("keeper"), F.col("jaccard").alias("late"))
        found = found.join(late, ["member", "keeper"], "left").withColumn("jaccard", F.coalesce("jaccard", "late"))
    emptied = sketches.where("characters = 0").select(
        "id", "source", "file", "row", _null("string").alias("duplicate_of"), _null("string").alias("cluster"),
        F.lit("lines").alias("kind"), _null("double").alias("jaccard"),
    )  # fmt: skip
    return found.select(emptied.columns).unionByName(emptied)


def _null(kind: str) -> Column:
    return F.lit(None).cast(kind)


def _write_unique(
    spark: SparkSession, job: Job, tables: list[Path], duplicates: DataFrame
) -> dict[str, tuple[int, int]]:
    """documents/ holds all but the duplicates. Returns (documents, bytes of text) kept, by source."""
    folder = job.output.absolute() / "documents"
    by_name = {path.name: str(path.absolute()) for path in tables}
    dropped = duplicates.select("file", "row").rdd.map(lambda row: (by_name[row["file"]], row["row"]))
    named = dropped.groupByKey(len(by_name)).mapValues(set)
    untouched = spark.sparkContext.parallelize([(path, set[int]()) for path in by_name.values()])
    rows = named.union(untouched).reduceByKey(lambda a, b: a | b, numPartitions=len(by_name))

    def keep(given: tuple[str, set[int]]) -> dict[str, tuple[int, int]]:
        return dict(keep_unique(Path(given[0]), given[1], folder, attempt=_attempt()))

    documents, text_bytes = Counter[str](), Counter[str]()
    for found in rows.map(keep).collect():
        for source, (n, size) in found.items():
            documents[source] += n
            text_bytes[source] += size
    return {source: (n, text_bytes[source]) for source, n in sorted(documents.items())}


def _sample_pairs(duplicates: DataFrame) -> list[Json]:
    """The least similar pairs: those a reader doubts first."""
    columns = ["id", "duplicate_of", "kind", "jaccard"]
    rows = (
        duplicates.where("jaccard is not null").orderBy("jaccard", "id").limit(SAMPLE_PAIRS).select(columns).collect()
    )
    return [{name: row[name] for name in columns} for row in rows]


def _describe_clusters(duplicates: DataFrame, tables: list[Path], sketches: DataFrame) -> dict[str, Json]:
    """How many documents, the kept one in, the clusters have; the largest of them."""
    groups = duplicates.where("cluster is not null").groupBy("cluster", "duplicate_of")
    sized = groups.agg((F.count(F.lit(1)) + 1).alias("size"), F.min("id").alias("one"))
    octave = F.floor(F.log2("size")).cast("int").alias("octave")
    octaves = {row["octave"]: row["count"] for row in sized.groupBy(octave).count().collect()}
    largest: list[Json] = []
    for row in sized.orderBy(F.desc("size"), "duplicate_of").limit(SAMPLE_CLUSTERS).collect():
        members = duplicates.where(F.col("cluster") == row["cluster"]).orderBy("id").limit(SAMPLE_MEMBERS)
        kept = sketches.where(F.col("id") == row["duplicate_of"]).select("source", "file", "row").collect()[0]
        path = next(table for table in tables if table.name == kept["file"])
        largest.append(
            {
                "id": row["duplicate_of"],
                "source": kept["source"],
                "size": row["size"],
                "text": read_text(path, kept["row"])[:SAMPLE_CHARACTERS],
                "members": [member["id"] for member in members.select("id").collect()],
            }
        )
    sizes: dict[str, Json] = {}
    for number in range(1, max(octaves, default=0) + 1):
        name = "2-3" if number == 1 else f"{2**number}-{2 ** (number + 1) - 1}"
        sizes[name] = octaves.get(number, 0)
    return {"sizes": sizes, "largest": largest}


def _describe_pairs(measured: DataFrame, dedup: Dedup) -> dict[str, Json]:
    """Candidate pairs by their similarity, and whether they counted."""
    place = F.greatest(F.lit(0), F.least(F.lit(9), F.floor((F.col("jaccard") - 0.5 + 1e-9) / 0.05))).cast("int")
    counts: dict[bool, list[int]] = {True: [0] * 10, False: [0] * 10}
    counted = (F.col("jaccard") >= dedup.min_jaccard).alias("counted")
    for row in measured.groupBy(place.alias("place"), counted).count().collect():
        counts[row["counted"]][row["place"]] = row["count"]
    return {"edges": list(JACCARD_EDGES), "verified": list(counts[True]), "refused": list(counts[False])}


if __name__ == "__main__":
    run_job("dedup", make)
