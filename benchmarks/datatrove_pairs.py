"""datatrove's MinHash over one JSONL folder: run in the peer's own environment by the benchmarks.

    python benchmarks/datatrove_pairs.py RAW WORK

Prints as one line of JSON the ids that its filter removes, and the cluster of each document that is in one.
"""

import json
import sys
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import (
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter

BUCKETS = 14


def main() -> None:
    """One task a step: the cluster's numbers are then those of one reader."""
    raw, work = Path(sys.argv[1]), Path(sys.argv[2])
    config = MinhashConfig(n_grams=5, num_buckets=BUCKETS, hashes_per_bucket=8)
    reader = JsonlReader(str(raw), glob_pattern="*.jsonl")
    removed = JsonlWriter(str(work / "removed"), compression=None)
    kept = JsonlWriter(str(work / "kept"), compression=None)
    stages = [
        ([reader, MinhashDedupSignature(str(work / "signatures"), config=config)], 1),
        ([MinhashDedupBuckets(str(work / "signatures"), str(work / "pairs"), config=config)], BUCKETS),
        (
            [MinhashDedupCluster(str(work / "pairs"), str(work / "remove"), config=config, save_cluster_id=True)],
            1,
        ),
        (
            [
                reader,
                MinhashDedupFilter(str(work / "remove"), exclusion_writer=removed, load_cluster_ids=True),
                kept,
            ],
            1,
        ),
    ]
    for number, (steps, n) in enumerate(stages):
        logs = str(work / f"logs/{number}")
        LocalPipelineExecutor(steps, tasks=n, workers=1, logging_dir=logs, start_method="fork").run()
    clusters: dict[str, int] = {}
    gone: list[str] = []
    for folder, ids in (("removed", gone), ("kept", [])):
        for path in sorted((work / folder).rglob("*.jsonl")):
            for line in path.read_text(encoding="utf-8").splitlines():
                record = json.loads(line)
                ids.append(record["id"])
                number = record["metadata"].get("minhash_cluster_id", -1)
                if number not in (None, -1):
                    clusters[record["id"]] = number
    print(json.dumps({"removed": gone, "clusters": clusters}))


if __name__ == "__main__":
    main()
