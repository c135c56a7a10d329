"""Claim: inside the Ray job text is encoded at 100 MB a CPU-second of the actors, ids equal to Hugging Face's.

    make bench NAME=encode_vs_peers
    python benchmarks/encode_vs_peers.py --megabytes 240 --runs 3

The shards job (jobs.tokenize_corpus, local Ray, two CPUs) over the corpus of corpus.py and 4,000 documents of odd
Unicode, with a vocabulary of 32,768: by turns with the fast encoder (auto), with Hugging Face's tokenizers
(reference), and a pool of processes over the same tokenizers, as Megatron-LM's preprocess_data.py does. `ours` and
`peer` are MB of text a CPU-second of the actors, which read Parquet, encode and write runs. `same_work`: every shard of
the two jobs has the same checksum, so that every document has the same ids, and the pool finds as many tokens.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import corpus
from peers import CACHE
from process_tree import Cost, run_measured
from shard_stage import cpu_seconds, digests, odd_documents, run_shards, tokenizer_of, write_documents
from stages import ROOT


def main() -> None:
    """Print each run's rates, then the claim as one line of JSON."""
    parser = argparse.ArgumentParser(description="The shards job against Hugging Face's tokenizers.")
    parser.add_argument("--megabytes", type=float, default=1e6, help="of text; there are some 240")
    parser.add_argument("--runs", type=int, default=3, help="of each, by turns")
    arguments = parser.parse_args()
    rows = [(row["id"], row["text"], row["source"]) for row in corpus.read(corpus.load(arguments.megabytes))]
    tokenizer = tokenizer_of([text for _, text, _ in rows])
    rows += odd_documents()
    megabytes = sum(len(text.encode()) for _, text, _ in rows) / 1e6
    rates: dict[str, list[float]] = {"auto": [], "reference": []}
    costs: dict[str, list[Cost]] = {"auto": [], "reference": [], "pool": []}
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        work = Path(name)
        write_documents(work / "dedup", rows)
        raw = work / "raw.jsonl"
        with raw.open("w", encoding="utf-8") as lines:
            lines.writelines(json.dumps({"id": key, "text": text}, ensure_ascii=False) + "\n" for key, text, _ in rows)
        found = set()
        for run in range(arguments.runs):
            for encoder in ("auto", "reference"):
                shards, cost = run_shards(work / f"{encoder}-{run}", work / "dedup", tokenizer, encoder=encoder)
                rates[encoder].append(megabytes / cpu_seconds(shards)["encode"])
                costs[encoder].append(cost)
                found.add(json.dumps(digests(shards)))
                tokens = shards.manifest.counts["train_tokens"] + shards.manifest.counts["validation_tokens"]
                print(f"{encoder:10} {rates[encoder][-1]:7.2f} MB a CPU-second of the actors, {tell(cost, megabytes)}")
            script = Path(__file__).with_name("hf_multiprocessing.py")
            out = work / f"pool-{run}"
            command = [sys.executable, str(script), str(tokenizer / "tokenizer.json"), "2", str(out), str(raw)]
            costs["pool"].append(run_measured(command, cwd=ROOT))
            print(f"{'pool':10} {tell(costs['pool'][-1], megabytes)}", flush=True)
            found.add(json.dumps(digests(shards)) if out.with_suffix(".bin").stat().st_size == 2 * tokens else "")
    ours, peer = statistics.median(rates["auto"]), statistics.median(rates["reference"])
    walls = {name: statistics.median(cost.wall_seconds for cost in runs) for name, runs in costs.items()}
    cpus = {name: statistics.median(cost.cpu_seconds for cost in runs) for name, runs in costs.items()}
    for name in ("reference", "pool"):
        print(
            f"the whole job against {name}: {walls[name] / walls['auto']:.1f} times by the clock, "
            f"{cpus[name] / cpus['auto']:.1f} times in CPU-seconds"
        )
    print(
        json.dumps(
            {
                "claim": "text encoded by the actors of the shards job, reading and writing in",
                "ours": round(ours, 1),
                "peer": round(peer, 2),
                "ratio": round(ours / peer, 1),
                "unit": "MB per CPU-second",
                "same_work": len(found) == 1,
            }
        )
    )


def tell(cost: Cost, megabytes: float) -> str:
    """For people."""
    rate = megabytes / cost.wall_seconds
    return f"whole job {cost.wall_seconds:.1f} s, {cost.cpu_seconds:.1f} CPU-seconds, {rate:.1f} MB/s"


if __name__ == "__main__":
    main()
