"""Claim: the order of samples and their tokens feed one process with 100 million tokens a second, from any sample.

    make bench NAME=iterator_feed
    python benchmarks/iterator_feed.py --megabytes 240 --steps 400 --runs 5

Batches of 64 windows of 2,049 ids in the seed's order, int64, with the positions that document masks need, out of page-
cached shards as the shards job wrote them. The peer is nanoGPT's loader over the same ids: random offsets into a
numpy.memmap, a tensor of each, stacked; it knows neither documents nor epochs. Besides: what the first batch costs at
sample 0 and at 10^9, and what it takes to open OPENED shards. `same_work`: a whole epoch of ours has every token of the
shards once as a target, the tail that the iterator tells apart; and the three limits below hold.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import corpus
import numpy as np
import psutil
import pyarrow as pa
import torch
from peers import CACHE
from shard_stage import run_shards, tokenizer_of, write_documents

from gpt_core.data.batches import TrainingSamples
from gpt_core.data.index import ShardEntry, ShardIndex, read_index, write_index
from gpt_core.data.shard_set import ShardSet, locate_in
from gpt_core.data.shards import ShardMetadata, write_shard
from gpt_core.recipe import Pretrain
from gpt_core.tasks.spec import IGNORED

CONTEXT, BATCH, OPENED, FAR = 2_048, 64, 10_000, 10**9
MOST_OPEN_SECONDS, MOST_OPEN_BYTES, MOST_RESUME = 1.0, 64 << 20, 2.0


def main() -> None:
    """Print each run's rates, then the claim as one line of JSON."""
    parser = argparse.ArgumentParser(description="The sample iterator.")
    parser.add_argument("--megabytes", type=float, default=1e6, help="of text; there are some 240")
    parser.add_argument("--steps", type=int, default=400, help="in a run")
    parser.add_argument("--runs", type=int, default=5, help="of each, by turns")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = [(row["id"], row["text"], row["source"]) for row in corpus.read(corpus.load(arguments.megabytes))]
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        work = Path(name)
        write_documents(work / "dedup", rows)
        artifact, _ = run_shards(work / "shards", work / "dedup", tokenizer_of([text for _, text, _ in rows]))
        shards = ShardSet.open(artifact, "train")
        shards.gather(np.array([0]), shards.n_tokens).astype(shards.dtype).tofile(work / "tokens.bin")
        samples = order(shards)
        whole = reads_all(samples, shards)
        feed(samples, 0, 0)  # the kernels are compiled
        rates: dict[str, list[float]] = {"ours": [], "peer": []}
        for run in range(arguments.runs):
            rates["ours"].append(rate(arguments.steps, partial(feed, samples, run * arguments.steps)))
            ids = np.memmap(work / "tokens.bin", shards.dtype, mode="r")
            generator = torch.Generator().manual_seed(run)
            rates["peer"].append(rate(arguments.steps, partial(feed_peer, ids, generator)))
            print(f"ours {rates['ours'][-1] / 1e6:.0f}, nanoGPT's loader {rates['peer'][-1] / 1e6:.0f} M tokens/s")
        near, far = (first_batch_seconds(shards, sample) for sample in (0, FAR))
        seconds, size = opening(work / "many")
    print(f"the first batch: {near * 1e3:.2f} ms at sample 0, {far * 1e3:.2f} ms at sample {FAR:,}")
    print(f"opening {OPENED:,} shards: {seconds * 1e3:.0f} ms, {size / 1e6:.1f} MB")
    ours, peer = statistics.median(rates["ours"]), statistics.median(rates["peer"])
    limits = seconds <= MOST_OPEN_SECONDS and size <= MOST_OPEN_BYTES and far <= MOST_RESUME * near
    print(
        json.dumps(
            {
                "claim": "tokens fed to one process, in order, with positions",
                "ours": round(ours / 1e6, 1),
                "peer": round(peer / 1e6, 1),
                "ratio": round(ours / peer, 1),
                "unit": "M tokens/s",
                "same_work": whole and limits,
            }
        )
    )


def order(shards: ShardSet) -> TrainingSamples:
    """The iterator, made anew."""
    return TrainingSamples(shards, CONTEXT, Pretrain(batch_sequences=BATCH), ignored=IGNORED)


def rate(steps: int, batch: Callable[[int], object]) -> float:
    """Tokens a second of wall time."""
    started = time.perf_counter()
    for step in range(steps):
        batch(step)
    return steps * BATCH * CONTEXT / (time.perf_counter() - started)


def feed(samples: TrainingSamples, first: int, step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Inputs, targets and positions of the step `first` + `step`."""
    batch = samples.batch(first + step, positions=True)
    ids = torch.from_numpy(batch.ids)
    return ids[:, :-1], torch.from_numpy(batch.targets), torch.from_numpy(batch.positions)


def feed_peer(ids: np.ndarray, generator: torch.Generator, _: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets at random offsets, each a tensor, stacked."""
    offsets = torch.randint(len(ids) - CONTEXT, (BATCH,), generator=generator).tolist()
    inputs = [torch.from_numpy(ids[at : at + CONTEXT].astype(np.int64)) for at in offsets]
    targets = [torch.from_numpy(ids[at + 1 : at + 1 + CONTEXT].astype(np.int64)) for at in offsets]
    return torch.stack(inputs), torch.stack(targets)


def reads_all(samples: TrainingSamples, shards: ShardSet) -> bool:
    """Whether an epoch has every token but the first and the tail as a target, once."""
    size = shards.metadata.vocab_size
    found = np.zeros(size, np.int64)
    for first in range(0, samples.n_sequences, BATCH):
        numbers = np.arange(first, min(first + BATCH, samples.n_sequences))
        found += np.bincount(samples.take(numbers).targets.ravel(), minlength=size)
    row = shards.gather(np.array([0]), shards.n_tokens)[0]
    used = row[1 : shards.n_tokens - samples.unused_tokens]
    return np.array_equal(found, np.bincount(used, minlength=size))


def first_batch_seconds(shards: ShardSet, sample: int) -> float:
    """What an iterator that is made anew takes to its first batch, median of five."""
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        order(shards).batch(sample // BATCH)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def opening(folder: Path) -> tuple[float, int]:
    """(seconds, bytes of memory) to open OPENED shards by their index, and to read a window of one."""
    metadata = ShardMetadata("0" * 64, 300, 299, 0)
    tokens = np.concatenate([np.zeros(4_095, np.uint16), np.array([299], np.uint16)])
    entries = []
    for number in range(OPENED):
        entries.append(ShardEntry(f"train/x/shard-{number:05d}.arrow", "x", 1, len(tokens)))
        write_shard(folder / entries[-1].path, pa.array([str(number)]), tokens, np.array([0, len(tokens)]), metadata)
    write_index(folder, ShardIndex(metadata, tuple(entries), ()))
    before = psutil.Process().memory_info().rss
    started = time.perf_counter()
    index = read_index(folder / "index.json")
    shards = ShardSet(index.train, index.metadata, locate=locate_in(folder))
    order(shards).take(np.array([FAR]))
    seconds = time.perf_counter() - started
    return seconds, psutil.Process().memory_info().rss - before


if __name__ == "__main__":
    main()
