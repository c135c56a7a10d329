"""Raw JSONL to clean documents, on Spark.

Writes documents/ and rejected/ (zstd Parquet) and stats.json. Every record of every input stands in one of the two
tables: in = kept + rejected, by reason. What is kept does not depend on the number of partitions. Raw files are
read one task a file; all else is spread over the partitions by id, one pass over the texts.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
from pyspark import StorageLevel
from pyspark.sql import DataFrame, Row, SparkSession, Window
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from gpt_core.artifact import write_json
from gpt_core.errors import UserError
from gpt_core.fingerprint import Json
from gpt_core.recipe import Recipe
from gpt_core.text.clean import JUDGED, RAW, Files, judge_batches, read_batches
from gpt_core.text.contamination import ContaminationIndex, index_evaluation_texts
from gpt_core.text.document import DOCUMENT_FIELDS
from gpt_core.text.inputs import expand_inputs
from gpt_core.text.read import RecordFormat
from gpt_core.text.rules import Rules
from jobs.job import Job, Outcome, run_job
from jobs.spark_session import files_for, partitions_of, schema_of, spark_session, write_table

SAMPLES_PER_REASON = 3
SAMPLE_CHARACTERS = 200
DOCUMENT_COLUMNS = [field.name for field in DOCUMENT_FIELDS]


def make(job: Job) -> Outcome:
    """The stage `clean`."""
    recipe = job.recipe
    files = raw_files(recipe)
    index = _index(recipe)
    documents, rejected = job.output / "documents", job.output / "rejected"
    input_bytes = sum(Path(path).stat().st_size for path, _ in files)
    with spark_session(job, input_bytes=input_bytes) as spark:
        judged = judge_corpus(spark, recipe, files, index).persist(StorageLevel.DISK_ONLY)
        groups = _count(judged)
        counts = _counts(groups)
        _refuse_nothing_kept(counts)
        kept = judged.where(F.col("reason").isNull()).select(DOCUMENT_COLUMNS)
        dropped = judged.where(F.col("reason").isNotNull()).select(*DOCUMENT_COLUMNS, "reason", "detail")
        n_kept = write_table(kept, documents, files=files_for(counts["text_bytes_kept"], spark))
        n_dropped = write_table(dropped, rejected, files=files_for(counts["text_bytes_in"], spark))
        samples = _reject_samples(judged)
    assert (n_kept, n_dropped) == (counts["documents_kept"], counts["documents_rejected"]), "tables lost records"
    assert counts["documents_in"] == n_kept + n_dropped, "records in and out do not balance"
    stats = write_json(job.output / "stats.json", {**_stats(groups), "reject_samples": samples})
    job.report(counts["documents_in"], counts["documents_in"], "documents")
    return Outcome(
        paths=[documents, rejected, stats],
        counts=counts,
        schemas={"documents": schema_of(documents), "rejected": schema_of(rejected)},
        engines=["pyspark", "pyarrow"],
    )


def raw_files(recipe: Recipe) -> Files:
    """Every raw file, with how its records are read."""
    corpus = recipe.corpus
    return [
        (path, RecordFormat(corpus.id_field, corpus.text_field, corpus.inputs[index].source))
        for index, path in expand_inputs(corpus)
    ]


def judge_corpus(spark: SparkSession, recipe: Recipe, files: Files, index: ContaminationIndex | None) -> DataFrame:
    """One row of JUDGED for every record of `files`."""
    clean, shared = recipe.clean, spark.sparkContext.broadcast(index)

    def read(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return read_batches((n for batch in batches for n in batch.column("id").to_pylist()), files)

    def judge(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return judge_batches(batches, Rules(clean, shared.value), files)

    return (
        spark.range(0, len(files), 1, numPartitions=len(files))
        .mapInArrow(read, from_arrow_schema(RAW))
        .repartition(partitions_of(spark), "id")
        .sortWithinPartitions("id", "file", "line")
        .mapInArrow(judge, from_arrow_schema(JUDGED))
    )


def _index(recipe: Recipe) -> ContaminationIndex | None:
    n = recipe.clean.decontaminate_ngram_words
    if n is None:
        return None
    files = [(path, recipe.corpus.text_field) for path in recipe.clean.decontaminate_files]
    if recipe.finetune is not None:
        files += [(path, recipe.finetune.text_field) for path in (recipe.finetune.validation, recipe.finetune.test)]
    return index_evaluation_texts(files, ngram_words=n)


def _count(judged: DataFrame) -> list[Row]:
    """Documents and bytes for each source, reason, identified language and power of two of the length."""
    well_formed = F.col("identified").isNotNull()
    octave = F.when(well_formed, F.length(F.bin(F.length("text"))) - 1)  # floor(log2(characters))
    grouped = judged.groupBy("source", "reason", "identified", octave.alias("octave"))
    rows: list[Row] = grouped.agg(
        F.count(F.lit(1)).alias("documents"),
        F.sum("text_bytes").alias("bytes_in"),
        F.sum(F.octet_length("text")).alias("bytes_out"),
    ).collect()
    return rows


def _counts(groups: list[Row]) -> dict[str, int]:
    """The manifest's counts."""
    counts = Counter(
        documents_in=0, documents_kept=0, documents_rejected=0, text_bytes_in=0, text_bytes_kept=0
    )  # a zero is told too
    for group in groups:
        counts["documents_in"] += group["documents"]
        counts["text_bytes_in"] += group["bytes_in"]
        if group["reason"] is None:
            counts["documents_kept"] += group["documents"]
            counts["text_bytes_kept"] += group["bytes_out"]
        else:
            counts["documents_rejected"] += group["documents"]
            counts[f"rejected.{group['reason']}"] += group["documents"]
    return dict(sorted(counts.items()))


def _refuse_nothing_kept(counts: dict[str, int]) -> None:
    if counts["documents_kept"]:
        return
    reasons = {name.removeprefix("rejected."): n for name, n in counts.items() if name.startswith("rejected.")}
    if not reasons:
        raise UserError("clean found no record in corpus.inputs; give files with one JSON object a line")
    most = max(reasons, key=lambda reason: reasons[reason])
    advice = {
        "malformed": "give files with one JSON object a line",
        "language": "add its language to clean.languages",
        "contaminated": "raise clean.decontaminate_ngram_words",
    }.get(most, f"loosen clean.{most.partition('.')[0]}")
    documents = counts["documents_in"]
    raise UserError(f"clean kept none of {documents} documents; {most} took most ({reasons[most]}); {advice}")


def _stats(groups: list[Row]) -> dict[str, Json]:
    """What stats.json tells, all keys sorted."""
    rejected: Counter[str] = Counter()
    languages: Counter[str] = Counter()
    sources: dict[str, Counter[str]] = defaultdict(lambda: Counter(**{"in": 0, "kept": 0, "bytes_kept": 0}))
    lengths: dict[bool, Counter[int]] = {True: Counter(), False: Counter()}
    for group in groups:
        documents, is_kept = group["documents"], group["reason"] is None
        sources[group["source"]]["in"] += documents
        if is_kept:
            sources[group["source"]].update({"kept": documents, "bytes_kept": group["bytes_out"]})
        else:
            rejected[group["reason"]] += documents
        if group["identified"] is not None:
            languages[group["identified"]] += documents
            lengths[is_kept][group["octave"]] += documents
    octaves = lengths[True].keys() | lengths[False].keys()
    span = range(min(octaves), max(octaves) + 1)
    return {
        "rejected": dict(sorted(rejected.items())),
        "languages": dict(sorted(languages.items())),
        "sources": {source: dict(figures) for source, figures in sorted(sources.items())},
        "length_histogram": {
            "edges_characters": [2**octave for octave in [*span, span.stop]],
            "kept": [lengths[True][octave] for octave in span],
            "rejected": [lengths[False][octave] for octave in span],
        },
    }


def _reject_samples(judged: DataFrame) -> dict[str, Json]:
    """Of each reason, the rejected documents with the least ids."""
    columns = ["reason", "id", "detail", F.substring("text", 1, SAMPLE_CHARACTERS).alias("text")]
    rank = F.row_number().over(Window.partitionBy("reason").orderBy("id", "detail", "text"))
    rows = judged.where(F.col("reason").isNotNull()).select(columns).withColumn("rank", rank)
    samples: defaultdict[str, list[Json]] = defaultdict(list)
    for row in sorted(
        rows.where(F.col("rank") <= SAMPLES_PER_REASON).collect(), key=lambda r: (r["reason"], r["rank"])
    ):
        samples[row["reason"]].append({name: row[name] for name in ("id", "detail", "text")})
    return dict(samples)


if __name__ == "__main__":
    run_job("clean", make)
