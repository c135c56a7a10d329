"""The tokenizer stage: byte-level BPE merges from a sample of the unique documents. One process, all its cores."""

from gpt_core.tokenizer.documents import require_documents
from gpt_core.tokenizer.train import choose_sample, train_tokenizer
from jobs.job import Job, Outcome, run_job


def make(job: Job) -> Outcome:
    """tokenizer.json and tokenizer_config.json stand in the output."""
    dedup, settings = job.inputs["dedup"], job.recipe.tokenizer
    paths = dedup.files("documents")
    require_documents(paths, documents=dedup.manifest.counts["documents_kept"])
    sample = choose_sample(paths, sample_bytes=settings.sample_bytes)
    read = 0

    def seen(documents: int) -> None:
        nonlocal read
        read += documents
        job.report(read, sample.documents, "documents")

    tokenizer = train_tokenizer(sample.texts(paths), settings, seen=seen)
    measured_bytes = measured_tokens = 0
    for texts in sample.texts(paths, documents=sample.measured_documents):
        measured_bytes += sum(len(text.encode("utf-8")) for text in texts)
        measured_tokens += sum(len(ids) for ids in tokenizer.encode_batch(texts))
    return Outcome(
        paths=tokenizer.save(job.output),
        counts={
            "vocab_size": tokenizer.vocab_size,
            "sample_documents": sample.documents,
            "sample_bytes": sample.text_bytes,
        },
        figures={"bytes_per_token": measured_bytes / max(measured_tokens, 1)},
        engines=("tokenizers",),
    )


if __name__ == "__main__":
    run_job("tokenizer", make)
