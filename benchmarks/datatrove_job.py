"""datatrove's filters and its four MinHash stages over JSONL: run in the peer's own environment by the benchmarks.

    python benchmarks/datatrove_job.py RAW WORK TASKS

RAW: a folder of JSONL files, best a multiple of TASKS. WORK/filtered and WORK/unique hold what is kept. Two workers.
The filters stand in the order that is cheapest for datatrove (its cached words serve two of them), and nothing is
compressed. Workers are forked, so that whoever waits for this process is told the CPU time of all of them.
"""

import sys
from pathlib import Path
from typing import Any

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import (
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter

WORKERS, BUCKETS = 2, 14


def main() -> None:
    """WORK/unique holds the documents that are kept."""
    raw, work, tasks = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    config = MinhashConfig(n_grams=5, num_buckets=BUCKETS, hashes_per_bucket=8)
    filtered = str(work / "filtered")
    stages: list[tuple[list[Any], int]] = [
        (
            [
                JsonlReader(str(raw), glob_pattern="*.jsonl"),
                GopherQualityFilter(),
                GopherRepetitionFilter(),
                C4QualityFilter(filter_no_terminal_punct=False),
                FineWebQualityFilter(),
                JsonlWriter(filtered, compression=None),
            ],
            tasks,
        ),
        ([JsonlReader(filtered), MinhashDedupSignature(str(work / "signatures"), config=config)], tasks),
        ([MinhashDedupBuckets(str(work / "signatures"), str(work / "pairs"), config=config)], BUCKETS),
        ([MinhashDedupCluster(str(work / "pairs"), str(work / "remove"), config=config)], 1),
        (
            [
                JsonlReader(filtered),
                MinhashDedupFilter(str(work / "remove")),
                JsonlWriter(str(work / "unique"), compression=None),
            ],
            tasks,
        ),
    ]
    for number, (steps, n) in enumerate(stages):
        logs = str(work / f"logs/{number}")
        LocalPipelineExecutor(steps, tasks=n, workers=min(WORKERS, n), logging_dir=logs, start_method="fork").run()


if __name__ == "__main__":
    main()
