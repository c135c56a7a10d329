"""Claim: 600,000 random reads of 2,049 tokens a CPU-second, at 2.02 bytes a token on disk.

    make bench NAME=shard_reads_vs_peers
    python benchmarks/shard_reads_vs_peers.py --megabytes 240 --reads 64000 --runs 5

Windows of 2,049 ids out of page-cached shards, as the shards job wrote them, into batches of int64, one process. The
peers have the same ids: mosaicml-streaming (MDS), an Arrow file with a record batch a sample, and numpy.memmap over a
bare file. `peer` is the fastest of MDS and Arrow; memmap, which knows no document, is printed beside them. `same_work`:
all read the same random samples with the same checksum.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import corpus
import numpy as np
from peers import CACHE, streaming_python
from shard_readers import BATCH
from shard_stage import run_shards, tokenizer_of, write_documents

from gpt_core.artifact import Artifact
from gpt_core.data.shard_set import ShardSet

LENGTH, MOST_BYTES = 2_049, 2.02
PEERS = ("mds", "arrow", "memmap")


def main() -> None:
    """Print each run's rates, then the claim as one line of JSON."""
    parser = argparse.ArgumentParser(description="Random reads of token windows.")
    parser.add_argument("--megabytes", type=float, default=1e6, help="of text; there are some 240")
    parser.add_argument("--reads", type=int, default=1000 * BATCH, help="in a run")
    parser.add_argument("--runs", type=int, default=5, help="of each, by turns")
    arguments = parser.parse_args()
    rows = [(row["id"], row["text"], row["source"]) for row in corpus.read(corpus.load(arguments.megabytes))]
    rates: dict[str, list[float]] = {name: [] for name in ("ours", *PEERS)}
    same_work = True
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        work = Path(name)
        write_documents(work / "dedup", rows)
        artifact, _ = run_shards(work / "shards", work / "dedup", tokenizer_of([text for _, text, _ in rows]))
        shards = ShardSet.open(artifact, "train")
        count = shards.n_tokens // LENGTH
        shards.gather(np.array([0]), count * LENGTH).astype(np.uint16).tofile(work / "tokens.bin")
        script = [str(streaming_python()), str(Path(__file__).with_name("shard_readers.py"))]
        subprocess.run([*script, "write", str(work / "peers"), str(work / "tokens.bin"), str(LENGTH)], check=True)
        sizes = {"ours": disk_bytes(artifact)}
        for run in range(arguments.runs):
            seconds, wanted = read_ours(shards, count, arguments.reads, seed=run)
            rates["ours"].append(arguments.reads / seconds)
            for peer in PEERS:
                done = subprocess.run(
                    [*script, peer, str(work / "peers"), str(arguments.reads), str(run)],
                    check=True,
                    capture_output=True,
                    text=True,
                )
                told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
                rates[peer].append(arguments.reads / told["cpu_seconds"])
                sizes[peer] = told["bytes_per_token"]
                same_work = same_work and told["checksum"] == wanted
            print(", ".join(f"{name} {found[-1]:,.0f}" for name, found in rates.items()), flush=True)
    medians = {name: statistics.median(found) for name, found in rates.items()}
    for name, size in sizes.items():
        print(f"{name:7} {medians[name]:12,.0f} reads a CPU-second, {size:.4f} bytes a token on disk")
    peer = max(medians["mds"], medians["arrow"])
    print(
        json.dumps(
            {
                "claim": f"random reads of {LENGTH} tokens at {sizes['ours']:.3f} bytes a token",
                "ours": round(medians["ours"]),
                "peer": round(peer),
                "ratio": round(medians["ours"] / peer, 1),
                "unit": "reads per CPU-second",
                "same_work": same_work and sizes["ours"] <= MOST_BYTES,
            }
        )
    )


def read_ours(shards: ShardSet, count: int, reads: int, *, seed: int) -> tuple[float, int]:
    """(CPU-seconds, checksum) of so many random samples."""
    order = np.random.default_rng(seed).integers(0, count, reads).reshape(-1, BATCH) * LENGTH
    shards.gather(np.arange(count) * LENGTH, LENGTH).sum()  # every page is in memory, every shard mapped
    rows, seconds, checksum = np.empty((BATCH, LENGTH), np.int64), 0.0, 0
    for starts in order:
        started = time.process_time()
        shards.gather(starts, LENGTH, rows)
        seconds += time.process_time() - started
        checksum += int(rows.sum())
    return seconds, checksum


def disk_bytes(artifact: Artifact) -> float:
    """Bytes of the shards on disk, borders and names of documents in, a token."""
    size = sum(entry.size_bytes for entry in artifact.manifest.files if entry.path.endswith(".arrow"))
    counts = artifact.manifest.counts
    return size / (counts["train_tokens"] + counts["validation_tokens"])


if __name__ == "__main__":
    main()
