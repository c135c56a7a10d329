"""Raw text to clean documents, on Spark.

Writes documents/ and rejected/ (zstd Parquet) and stats.json. Every record of every input stands in one of the two
tables: in = kept + rejected, by reason. Spark gives the parts of the corpus to tasks and finds ids that several
records share; texts go from the raw files to the tables in one pass, within a task, and never through the JVM.
What is written depends on the raw files and the recipe alone: not on partitions, executors or a task made twice.
"""

import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark import RDD, SparkContext

from gpt_core.artifact import write_json
from gpt_core.errors import UserError
from gpt_core.fingerprint import Json
from gpt_core.recipe import Fields, Recipe
from gpt_core.tasks.labelled import read_rows
from gpt_core.text.clean import IDS, Tally, clean_part, move_rows, plan_parts
from gpt_core.text.contamination import ContaminationIndex, index_evaluation_texts
from gpt_core.text.duplicates import share
from gpt_core.text.ids import MOVES, count_entries, find_beyond, find_duplicate_ids, hash_files
from gpt_core.text.inputs import expand_inputs
from gpt_core.text.read import Split, plan_splits, read_texts
from gpt_core.text.rules import Rules
from jobs.job import Job, Outcome, run_job
from jobs.spark_context import (
    Flow,
    count_rows,
    exchange,
    make_each,
    partitions_of,
    schema_of,
    scratch_of,
    spark_context,
)

MOST_TOLD = 20  # evaluation texts in stats.json


def make(job: Job) -> Outcome:
    """The stage `clean`."""
    recipe, documents, rejected = job.recipe, job.output / "documents", job.output / "rejected"
    parts = plan_parts(plan_splits(expand_inputs(recipe.raw)))
    index = _index(recipe)
    rules = Rules(recipe.clean, index)  # what a rule lacks is told before Spark starts
    rules.judge(pa.array(["Kernels are compiled once, not in every task at once."]))
    tally = Tally.empty(recipe.clean)
    with spark_context(job, input_bytes=sum(split.size for part in parts for split in part)) as context:
        numbers = context.parallelize(range(len(parts)), len(parts))
        for found in numbers.map(_cleaner(context, job, parts, index)).collect():
            tally.add(found)
        for file, found in _find_moves(context, job).mapPartitions(_mover(job)).collect():
            tally.add(found)
            (documents / file).unlink()
    counts = _counts(tally)
    _refuse_nothing_kept(counts)
    rows = (count_rows(documents), count_rows(rejected))
    assert rows == (counts["documents_kept"], counts["documents_rejected"]), "tables lost records"
    stats = write_json(job.output / "stats.json", _stats(tally))
    job.report(counts["documents_in"], counts["documents_in"], "documents")
    return Outcome(
        paths=[documents, rejected, stats],
        counts=counts,
        schemas={"documents": schema_of(documents), "rejected": schema_of(rejected)},
        engines=["pyspark", "pyarrow"],
    )


def _cleaner(
    context: SparkContext, job: Job, parts: list[list[Split]], index: ContaminationIndex | None
) -> Callable[[int], Tally]:
    """Makes one part of the corpus."""
    recipe, output, scratch = job.recipe, job.output.absolute(), scratch_of(job)
    shared = context.broadcast((parts, index))

    def clean(part: int) -> Tally:
        splits, texts = shared.value
        return clean_part(
            part,
            splits[part],
            Rules(recipe.clean, texts),
            output=output,
            scratch=scratch,
            max_record_bytes=recipe.raw.max_record_bytes,
            attempt=uuid.uuid4().hex,
        )

    return clean


def _find_moves(context: SparkContext, job: Job) -> RDD[pa.Table]:
    """MOVES of documents that another of the same id, or their input's limit, takes out; few, as a rule.

    Of several documents of one id stays the one with the least hash of its text; of an input with a limit stay those
    with the least hash of their id: whatever the order of the inputs.
    """
    parts = partitions_of(job, context)
    limits = [given.max_documents for given in job.recipe.raw.inputs]
    ids = make_each(context, sorted((scratch_of(job) / "ids").glob("*.parquet")), lambda _, path: pq.read_table(path))
    dealt = exchange(parts, Flow(ids, IDS, lambda table: share(table["high"].to_numpy(), parts)))
    by_id = dealt.map(lambda given: given[0])  # in the order of hashes
    moves = by_id.map(find_duplicate_ids)
    if any(limit is not None for limit in limits):
        counts = by_id.map(lambda table: count_entries(table, len(limits))).collect()
        moves = moves.union(
            by_id.mapPartitionsWithIndex(
                lambda part, tables: [find_beyond(table, limits, sum(counts[:part])) for table in tables]
            )
        )
    return exchange(parts, Flow(moves, MOVES, lambda table: hash_files(table, parts))).map(lambda given: given[0])


def _mover(job: Job) -> Callable[[Iterable[pa.Table]], Iterator[tuple[str, Tally]]]:
    """Takes rows out of files of documents/: (the file, what changes in the counts)."""
    clean, output = job.recipe.clean, job.output.absolute()

    def move(tables: Iterable[pa.Table]) -> Iterator[tuple[str, Tally]]:
        for table in tables:
            files: dict[str, dict[int, str]] = {}
            for row in table.to_pylist():
                files.setdefault(row["file"], {})[row["row"]] = row["reason"]
            for file, reasons in files.items():
                yield file, move_rows(file, reasons, clean, output=output, attempt=uuid.uuid4().hex)

    return move


def _index(recipe: Recipe) -> ContaminationIndex | None:
    n = recipe.clean.decontaminate_ngram_words
    if n is None:
        return None
    texts = list(_evaluation_texts(recipe))
    return index_evaluation_texts(texts, ngram_words=n) if texts else None


def _evaluation_texts(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """(name, text) of all that the corpus is kept free of: the files given for that, and the rows that are scored.

    Raises InputError for a file that cannot be read and a record that is none.
    """
    for path in recipe.clean.decontaminate_files:
        yield from read_texts(path, Fields(text=recipe.raw.fields.text))
    if recipe.finetune is not None:
        for split in (recipe.finetune.validation, recipe.finetune.test):
            for row in read_rows(Path(split), recipe.finetune) if split is not None else ():
                yield from ((Path(row.where).name, text) for text in row.texts)


def _counts(tally: Tally) -> dict[str, int]:
    """The manifest's counts."""
    counts = Counter(documents_in=0, documents_kept=0, documents_rejected=0, text_bytes_kept=0)  # a zero is told too
    counts["text_bytes_in"] = tally.text_bytes_in
    for group, documents in tally.documents.items():
        counts["documents_in"] += documents
        if group.reason is None:
            counts["documents_kept"] += documents
            counts["text_bytes_kept"] += tally.text_bytes[group]
        else:
            counts["documents_rejected"] += documents
            counts[f"rejected.{group.reason}"] += documents
    return dict(sorted(counts.items()))


def _refuse_nothing_kept(counts: dict[str, int]) -> None:
    if counts["documents_kept"]:
        return
    reasons = {name.removeprefix("rejected."): n for name, n in counts.items() if name.startswith("rejected.")}
    if not reasons:
        raise UserError("clean found no record in corpus.inputs; give files that hold documents")
    most = max(reasons, key=lambda reason: reasons[reason])
    advice = {
        "malformed": "look at corpus.inputs.0.format and corpus.fields",
        "language": "add its language to clean.languages",
        "contaminated": "raise clean.decontaminate_ngram_words",
    }.get(most, f"loosen clean.{most.partition('.')[0]}")
    documents = counts["documents_in"]
    raise UserError(f"clean kept none of {documents} documents; {most} took most ({reasons[most]}); {advice}")


def _stats(tally: Tally) -> dict[str, Json]:
    """What stats.json tells, all keys sorted."""
    rejected: Counter[str] = Counter()
    languages: Counter[str] = Counter()
    sources: dict[str, dict[str, int]] = {}
    lengths: dict[bool, Counter[int]] = {True: Counter(), False: Counter()}
    for group, documents in tally.documents.items():
        figures = sources.setdefault(group.source, {"in": 0, "kept": 0, "bytes_kept": 0})
        figures["in"] += documents
        if group.reason is None:
            figures["kept"] += documents
            figures["bytes_kept"] += tally.text_bytes[group]
        elif documents:
            rejected[group.reason] += documents
        if group.language is not None:
            languages[group.language] += documents
        if group.octave is not None:
            lengths[group.reason is None][group.octave] += documents
    octaves = lengths[True].keys() | lengths[False].keys()
    span = range(min(octaves), max(octaves) + 1)
    return {
        "rejected": dict(sorted(rejected.items())),
        "languages": dict(sorted(languages.items())),
        "sources": {source: {**figures} for source, figures in sorted(sources.items())},
        "length_histogram": {
            "edges_characters": [2**octave for octave in [*span, span.stop]],
            "kept": [lengths[True][octave] for octave in span],
            "rejected": [lengths[False][octave] for octave in span],
        },
        "measurements": tally.histograms.tell(),
        "pii": _nested(tally.pii),
        "contamination": [
            {"text": name, "documents": n}
            for name, n in sorted(tally.contamination.items(), key=lambda item: (-item[1], item[0]))[:MOST_TOLD]
        ],
        "edited": _nested(tally.edited),
        "reject_samples": {
            reason: [{"id": id_, "detail": detail, "text": text} for id_, detail, text in samples]
            for reason, samples in sorted(tally.samples.items())
        },
    }


def _nested(counter: Counter[tuple[str, str]]) -> dict[str, Json]:
    names = sorted({name for name, _ in counter})
    return {name: {what: n for (whose, what), n in sorted(counter.items()) if whose == name} for name in names}


if __name__ == "__main__":
    run_job("clean", make)
