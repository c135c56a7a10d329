"""The tokenizer stage: merges learned from a sample of the unique documents, or an existing tokenizer taken over.

Either way the tokenizer is tried on a sample: every text of it must come back from its ids, and report.json says what
they cost in tokens. One process, all its cores.
"""

from pathlib import Path

from gpt_core.artifact import write_json
from gpt_core.model.config import pad_vocabulary
from gpt_core.tokenizer.documents import require_documents
from gpt_core.tokenizer.existing import adopt_tokenizer
from gpt_core.tokenizer.measure import COLUMNS, MEASURED_BYTES, describe_tokenizer, measure_tokenizer
from gpt_core.tokenizer.sample import Sample, read_population
from gpt_core.tokenizer.tokenizer import Tokenizer
from gpt_core.tokenizer.train import train_tokenizer
from jobs.job import Job, Outcome, run_job

REPORT = "report.json"


def make(job: Job) -> Outcome:
    """tokenizer.json, tokenizer_config.json and report.json stand in the output."""
    dedup, settings = job.inputs["dedup"], job.recipe.tokenizer
    paths = dedup.files("documents")
    require_documents(paths, documents=dedup.manifest.counts["documents_kept"])
    population = read_population(paths)
    learned = {}
    if settings.path is not None:
        tokenizer = adopt_tokenizer(Path(settings.path), end_of_text=settings.end_of_text)
        origin = f"tokenizer.path: {settings.path}"
    else:
        sample = population.sample(settings.sample_bytes)
        tokenizer = _train(job, sample, paths)
        origin = "the learned tokenizer"
        learned = {"sample_documents": sample.documents, "sample_bytes": sample.text_bytes}
    measured = population.sample(MEASURED_BYTES if settings.path else min(MEASURED_BYTES, settings.sample_bytes))
    found = measure_tokenizer(tokenizer, measured.read(paths, columns=COLUMNS), name=origin)
    padded = pad_vocabulary(tokenizer.vocab_size)
    report = write_json(job.output / REPORT, describe_tokenizer(tokenizer, found, padded_vocab_size=padded))
    return Outcome(
        paths=[*tokenizer.save(job.output), report],
        counts={
            "vocab_size": tokenizer.vocab_size,
            "padded_vocab_size": padded,
            "special_tokens": len(tokenizer.special_tokens),
            **learned,
            "measured_documents": measured.documents,
            "measured_bytes": measured.text_bytes,
        },
        figures={"bytes_per_token": found.bytes_per_token},
        engines=("tokenizers",),
    )


def _train(job: Job, sample: Sample, paths: list[Path]) -> Tokenizer:
    """The tokenizer of the sample; whoever looks sees how far reading it is."""
    read = 0

    def seen(documents: int) -> None:
        nonlocal read
        read += documents
        job.report(read, sample.documents, "documents")

    return train_tokenizer(sample.texts(paths), job.recipe.tokenizer, seen=seen)


if __name__ == "__main__":
    run_job("tokenizer", make)
