"""Claim: windows come out of Arrow shards at least three times as fast as out of a flat file of ids, mapped by numpy.

    make bench NAME=shard_reads

Random windows of 2,049 ids, 64 at a time, as int64, from 1 GB of uint16 ids in eight shards; the peer reads the same
ids as nanoGPT does (a slice of a np.memmap for each window, widened, stacked). All pages are in the page cache and
mapped by a first pass. By turns, medians, reads per CPU-second of one process; then what TrainingSamples gives of
tokens, order and positions in. `same_work` says that both gave the same windows.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gpt_core.data.batches import TrainingSamples
from gpt_core.data.index import ShardEntry
from gpt_core.data.shard_set import ShardSet
from gpt_core.data.shards import ShardMetadata, write_shard
from gpt_core.recipe import Pretrain

SHARDS, SHARD_TOKENS, BATCH, LENGTH, BATCHES, TURNS = 8, 64_000_000, 64, 2_049, 2_000, 5
METADATA = ShardMetadata(tokenizer_digest="0" * 64, vocab_size=50_304, end_of_text_id=50_303, seed=0)


def main() -> None:
    """Print every turn, then the claim as one line of JSON."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shards, flat = write_both(folder)
        starts = np.random.default_rng(1).integers(0, shards.n_tokens - LENGTH, (BATCHES, BATCH))
        ours = lambda batch: shards.gather(batch, LENGTH)  # noqa: E731
        peer = lambda batch: np.stack([flat[start : start + LENGTH].astype(np.int64) for start in batch])  # noqa: E731
        same_work = all(np.array_equal(ours(batch), peer(batch)) for batch in starts)
        figures: dict[str, list[float]] = {"ours": [], "peer": []}
        for _ in range(TURNS):
            for who, read in (("ours", ours), ("peer", peer)):
                figures[who].append(starts.size / cpu_seconds(read, starts))
                print(f"{who}: {figures[who][-1] / 1e3:,.0f} thousand reads per CPU-second", flush=True)
        for positions in (False, True):
            tell_samples(shards, positions=positions)
    best, other = (statistics.median(figures[who]) for who in ("ours", "peer"))
    claim = "random windows of 2,049 ids come out of shards three times as fast as out of a mapped flat file"
    print(
        json.dumps(
            {
                "claim": claim,
                "ours": round(best),
                "peer": round(other),
                "ratio": round(best / other, 2),
                "unit": "reads per CPU-second",
                "same_work": same_work,
            }
        )
    )


def write_both(folder: Path) -> tuple[ShardSet, np.ndarray]:
    """The same documents as shards, and as one flat file that is mapped."""
    entries = []
    with (folder / "flat.bin").open("wb") as flat:
        for number in range(SHARDS):
            random = np.random.default_rng(number)
            ids = random.integers(0, METADATA.end_of_text_id, SHARD_TOKENS, dtype=np.uint16)
            ends = np.unique(np.append(random.integers(1, SHARD_TOKENS, SHARD_TOKENS // 600), SHARD_TOKENS))
            ids[ends - 1] = METADATA.end_of_text_id
            entry = ShardEntry(f"shard-{number:05d}.arrow", "random", len(ends), len(ids))
            offsets = np.concatenate([[0], ends]).astype(np.int64)
            write_shard(folder / entry.path, [str(i) for i in range(len(ends))], ids, offsets, METADATA)
            ids.tofile(flat)
            entries.append(entry)
    shards = ShardSet(entries, METADATA, locate=lambda entry: folder / entry.path)
    return shards, np.memmap(folder / "flat.bin", dtype=np.uint16, mode="r")


def cpu_seconds(read: Callable[[np.ndarray], object], starts: np.ndarray) -> float:
    """What reading all batches takes."""
    started = time.process_time()
    for batch in starts:
        read(batch)
    return time.process_time() - started


def tell_samples(shards: ShardSet, *, positions: bool) -> None:
    """Print the tokens a CPU-second that training gets, in the order of the samples."""
    samples = TrainingSamples(shards, LENGTH - 1, Pretrain(batch_sequences=BATCH), ignored=-100)
    samples.batch(0, positions=positions)
    started = time.process_time()
    for step in range(BATCHES):
        samples.batch(step, positions=positions)
    rate = BATCHES * BATCH * (LENGTH - 1) / (time.process_time() - started)
    print(
        f"samples in their order{', with positions' if positions else ''}: {rate / 1e6:,.0f} million tokens", flush=True
    )


if __name__ == "__main__":
    main()
