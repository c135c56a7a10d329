"""Claim: the shards job takes CPU-seconds in proportion to the corpus, and memory that does not grow with it.

    make bench NAME=shards_scaling
    python benchmarks/shards_scaling.py --copies 2 4 8 16

The corpus of corpus.py (240 MB) so many times over, every copy with ids of its own; local Ray, two CPUs, shards of
64 MB of text. What the job takes for some documents is subtracted from the CPU-seconds; memory is the peak of all its
processes, Ray's own in. `ours` is the growth of memory from half to the whole of the largest corpus, `ratio` 1 where it
is at most LIMIT and the exponent of CPU-seconds at most EXPONENT. `same_work`: all tokens, as many times.
"""

import argparse
import json
import math
import shutil
import tempfile
from itertools import pairwise
from pathlib import Path

import corpus
from peers import CACHE
from shard_stage import cpu_seconds, run_shards, tokenizer_of, write_documents

LIMIT, EXPONENT, SHARD_BYTES = 1.05, 1.05, 64_000_000


def main() -> None:
    """Print each size's cost, then the claim as one line of JSON."""
    parser = argparse.ArgumentParser(description="The shards job over larger and larger corpora.")
    parser.add_argument("--megabytes", type=float, default=1e6, help="of text in a copy; there are some 240")
    parser.add_argument("--copies", type=int, nargs="+", default=[2, 4, 8, 16], help="of the corpus")
    arguments = parser.parse_args()
    rows = [(row["id"], row["text"], row["source"]) for row in corpus.read(corpus.load(arguments.megabytes))]
    tokenizer = tokenizer_of([text for _, text, _ in rows])
    megabytes = sum(len(text.encode()) for _, text, _ in rows) / 1e6
    found: list[tuple[float, int, int]] = []  # CPU-seconds, bytes, tokens
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        work = Path(name)
        for copies in [0, *arguments.copies]:
            many = [(f"{key}-{copy}", text, source) for copy in range(copies) for key, text, source in rows]
            write_documents(work / "dedup", many or [(f"{i}", "a b", "x") for i in range(99)], files=max(1, copies))
            shards, cost = run_shards(work / "shards", work / "dedup", tokenizer, shard_text_bytes=SHARD_BYTES)
            tokens = shards.manifest.counts["train_tokens"] + shards.manifest.counts["validation_tokens"]
            found.append((cost.cpu_seconds, shards.manifest.peak_memory_bytes, tokens))
            print(
                f"{copies:2} copies, {copies * megabytes:7,.0f} MB: {cost.cpu_seconds:6.1f} CPU-seconds, "
                f"{cost.wall_seconds:5.1f} s, {shards.manifest.peak_memory_bytes / 1e9:.2f} GB; {cpu_seconds(shards)}",
                flush=True,
            )
            for folder in ("dedup", "shards"):
                shutil.rmtree(work / folder)
    start, *sizes = found
    exponent = math.log((sizes[-1][0] - start[0]) / (sizes[0][0] - start[0])) / math.log(
        arguments.copies[-1] / arguments.copies[0]
    )
    growth = sizes[-1][1] / sizes[-2][1]
    whole = all(
        more[2] * fewer_copies == fewer[2] * copies
        for (fewer, more), (fewer_copies, copies) in zip(pairwise(sizes), pairwise(arguments.copies), strict=True)
    )
    print(f"exponent of CPU-seconds {exponent:.3f}")
    print(
        json.dumps(
            {
                "claim": "memory of the shards job from half to the whole of a corpus of "
                f"{arguments.copies[-1] * megabytes / 1000:.1f} GB",
                "ours": round(growth, 3),
                "peer": None,
                "ratio": int(growth <= LIMIT and exponent <= EXPONENT),
                "unit": "times",
                "same_work": whole,
            }
        )
    )


if __name__ == "__main__":
    main()
