"""Claim: clean and dedup take time in proportion to their input, memory that does not grow, and survive skew.

    make bench NAME=clean_scaling

Both jobs over 1, 2, 4, 8 and 16 times `base` MB of corpus.py, a smaller corpus part of a larger one: CPU-seconds of
all processes, less those of a corpus of a few documents; the exponent is the slope of their logarithms. Peak memory:
of each job's process tree, as its manifest tells it.

Then three corpora that are one-sided: a document of 200 MB, 100,000 documents of one text, and 20,000 near-duplicates
of one document, which share their bands. What is kept of them is known. Printed is the slowest of Spark's tasks.
`same_work`: every corpus came out as it must.
"""

import argparse
import json
import math
import os
import random
import statistics
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import corpus
from peers import CACHE
from stages import KEEP_ALL, run_clean, run_dedup

from gpt_core.artifact import Artifact
from gpt_core.fingerprint import Json

STEPS = (1, 2, 4, 8, 16)
RULES: dict[str, Json] = {"preset": "fineweb", "languages": None, "url": None, "decontaminate_ngram_words": None}
MOST_EXPONENT, MOST_GROWTH = 1.05, 1.5
LARGE_BYTES, IDENTICAL, NEAR = 200_000_000, 100_000, 20_000


def main() -> None:
    """Print each size and each one-sided corpus, then the claim as one line of JSON."""
    parser = argparse.ArgumentParser(description="How clean and dedup grow, and what skew does to them.")
    parser.add_argument("--base", type=float, default=14, help="MB of text in the least corpus")
    parser.add_argument("--runs", type=int, default=2, help="over all sizes, one after the other")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        work = Path(name)
        exponent, growth = measure_sizes(work, arguments.base, arguments.runs)
        sound = [measure_skew(work / case, case) for case in ("large", "identical", "near")]
    print(
        json.dumps(
            {
                "claim": "CPU-seconds of clean and dedup grow as size to the power of, from 1x to 16x; memory is flat",
                "ours": round(exponent, 3),
                "peer": MOST_EXPONENT,
                "ratio": round(MOST_EXPONENT / exponent, 2),
                "unit": "exponent",
                "same_work": all(sound) and growth <= MOST_GROWTH,
            }
        )
    )


def measure_sizes(work: Path, base: float, runs: int) -> tuple[float, float]:
    """(the exponent, how many times the memory of 4x that of 16x is)."""
    starts, found = [], {step: [] for step in STEPS}
    memory: dict[int, int] = {}
    few = work / "few.jsonl"
    records = list(corpus.read(corpus.load(base)))[:200]
    few.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    for run in range(runs):
        starts.append(run_both([few], work / f"few-{run}")[0])
        for step in STEPS:
            seconds, peak = run_both(corpus.load(base * step), work / f"{step}-{run}")
            found[step].append(seconds)
            memory[step] = max(peak, memory.get(step, 0))
            print(f"{base * step:6.0f} MB: {seconds:6.1f} CPU-seconds, {peak / 1e9:.2f} GB", flush=True)
    start = statistics.median(starts)
    points = [(math.log(step), math.log(statistics.median(found[step]) - start)) for step in STEPS]
    exponent = statistics.linear_regression(*zip(*points, strict=True)).slope
    print(f"a corpus of {len(records)} documents takes {start:.1f} CPU-seconds; exponent {exponent:.3f}", flush=True)
    return exponent, memory[16] / memory[4]


def run_both(raw: list[Path], work: Path) -> tuple[float, int]:
    """(CPU-seconds of both jobs, bytes of memory of the larger)."""
    cleaned, clean = run_clean(raw, work, clean=RULES)
    unique, dedup = run_dedup(work)
    peak = max(artifact.manifest.peak_memory_bytes for artifact in (cleaned, unique))
    return clean.cpu_seconds + dedup.cpu_seconds, peak


def measure_skew(work: Path, case: str) -> bool:
    """Whether what is kept of a one-sided corpus is what must be."""
    work.mkdir()
    raw = work / "raw.jsonl"
    with raw.open("w", encoding="utf-8") as file:
        for id_, text in enumerate(one_sided(case)):
            file.write(json.dumps({"id": str(id_), "text": text}) + "\n")
    with event_log(work / "events"):
        sections: dict[str, Json] = {"corpus": {"max_record_bytes": 2 * LARGE_BYTES}, "clean": KEEP_ALL}
        _, clean = run_clean([raw], work, **sections)
        artifact, dedup = run_dedup(work)
    told = f"{case}: clean {clean.wall_seconds:.1f} s, dedup {dedup.wall_seconds:.1f} s"
    print(f"{told}; {tell_tasks(work / 'events')}", flush=True)
    return is_sound(case, artifact)


def one_sided(case: str) -> Iterator[str]:
    """The texts of a corpus."""
    words = [word for record in corpus.read(corpus.load(1)) for word in record["text"].split()]
    draw = random.Random(0)
    if case == "large":
        text, size = [], 0
        while size < LARGE_BYTES:
            text.append(draw.choice(words))
            size += len(text[-1].encode()) + 1
        yield "\n".join(" ".join(text[at : at + 12]) for at in range(0, len(text), 12))
    elif case == "identical":
        yield from (" ".join(words[:300]) for _ in range(IDENTICAL))
    else:
        for _ in range(NEAR):
            copy = words[:300]
            copy[draw.randrange(300)] = draw.choice(words)
            yield " ".join(copy)


def is_sound(case: str, artifact: Artifact) -> bool:
    """Whether one document is kept, and how the others went."""
    counts = artifact.manifest.counts
    gone = {"large": (0, 0), "identical": (IDENTICAL - 1, 0)}.get(case)
    found = (counts["duplicates_exact"], counts["duplicates_fuzzy"])
    return counts["documents_kept"] == 1 and (gone == found if gone else sum(found) == NEAR - 1)


class event_log:  # noqa: N801  reads as what it does
    """Spark writes its event log to the folder, as a user would have it: by spark-defaults.conf."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> None:
        self.folder.mkdir()
        conf = (
            f"spark.eventLog.enabled true\nspark.eventLog.compress false\nspark.eventLog.dir {self.folder.as_uri()}\n"
        )
        (self.folder / "spark-defaults.conf").write_text(conf)
        os.environ["SPARK_CONF_DIR"] = str(self.folder)

    def __exit__(self, *_: object) -> None:
        del os.environ["SPARK_CONF_DIR"]


def tell_tasks(folder: Path) -> str:
    """The slowest task, and what share of all tasks' time it took."""
    times = [
        event["Task Info"]["Finish Time"] - event["Task Info"]["Launch Time"]
        for event in events(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".conf")
        if event["Event"] == "SparkListenerTaskEnd"
    ]
    return f"the slowest of {len(times)} tasks took {max(times) / 1e3:.1f} s of {sum(times) / 1e3:.1f} s"


def events(paths: Iterable[Path]) -> Iterator[dict[str, Json]]:
    """What Spark wrote down."""
    for path in paths:
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("{"):
                yield json.loads(line)


if __name__ == "__main__":
    main()
