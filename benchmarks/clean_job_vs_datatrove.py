"""Claim: the whole job, raw JSONL to unique clean documents, 30 times datatrove 0.10.1 per CPU-second.

    make bench NAME=clean_job_vs_datatrove
    python benchmarks/clean_job_vs_datatrove.py --megabytes 200 --peer-megabytes 8 --runs 3 [--full]

Ours: jobs.clean_corpus with preset fineweb (no language, PII, URL or contamination rule: the peer's job has none) and
jobs.dedup_corpus, on Spark's local[2], over `megabytes` of corpus.py, start-up and all. datatrove: its local executor
with two workers, the same four filters and its four MinHash stages, over a sample of the same documents (--full: over
all), because it takes seconds a megabyte; what it takes for a few documents, its start-up, is subtracted in its favour.
Both by turns; medians; of whole process trees.

`same_work`: over the shared sample both jobs keep or drop at least 97 % of the documents alike. Of a group of
duplicates the two may keep different ones, which counts as a difference.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import corpus
import pyarrow.parquet as pq
from peers import CACHE, datatrove_python
from process_tree import Cost, run_measured
from stages import ROOT, run_clean, run_dedup

from gpt_core.fingerprint import Json

TASKS, START_DOCUMENTS, LEAST_AGREEMENT = 4, 8, 0.97
CLEAN: dict[str, Json] = {
    "preset": "fineweb",
    "languages": None,
    "pii": None,
    "url": None,
    "decontaminate_ngram_words": None,
    "fix_mojibake": False,
}


def main() -> None:
    """Print each run's rates and the agreement, then the claim as one line of JSON."""
    arguments = parse_arguments()
    everything = corpus.load(arguments.megabytes)
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        work = Path(name)
        sample = deal(work / "sample", corpus.read(corpus.load(arguments.peer_megabytes)))
        agreement = compare(work, sample)
        few = deal(work / "few", pick_few(work, sample))
        peer_raw = deal(work / "all", corpus.read(everything)) if arguments.full else sample
        start = run_datatrove(few, work / "start")
        print(f"datatrove's start-up, subtracted: {tell(start)}", flush=True)
        ours, peer = [], []
        for run in range(arguments.runs):
            ours.append(rates(everything, run_ours(everything, work / f"ours-{run}")))
            print(f"ours {ours[-1][0]:.2f} MB per CPU-second, {ours[-1][1]:.2f} MB/s", flush=True)
            cost = run_datatrove(peer_raw, work / f"peer-{run}") - start
            peer.append(rates(sorted(peer_raw.glob("*.jsonl")), cost))
            print(f"datatrove {peer[-1][0]:.3f} MB per CPU-second, {peer[-1][1]:.3f} MB/s", flush=True)
    (rate, wall_rate), (peer_rate, peer_wall_rate) = (
        [statistics.median(found) for found in zip(*runs, strict=True)] for runs in (ours, peer)
    )
    print(f"by the clock: ours {wall_rate:.2f}, datatrove {peer_wall_rate:.3f} MB/s, {wall_rate / peer_wall_rate:.1f}")
    print(
        json.dumps(
            {
                "claim": "clean and dedup, raw JSONL to unique documents, per CPU-second of all processes",
                "ours": round(rate, 2),
                "peer": round(peer_rate, 3),
                "ratio": round(rate / peer_rate, 1),
                "unit": "MB per CPU-second",
                "same_work": agreement >= LEAST_AGREEMENT,
            }
        )
    )


def parse_arguments() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description="The clean and dedup jobs against datatrove's.")
    parser.add_argument("--megabytes", type=float, default=1e6, help="of text, for ours; there are some 235")
    parser.add_argument("--peer-megabytes", type=float, default=8, help="of the same text, for datatrove")
    parser.add_argument("--runs", type=int, default=3, help="of each, by turns")
    parser.add_argument("--full", action="store_true", help="datatrove reads everything too (an hour and more)")
    return parser.parse_args()


def deal(folder: Path, records: Iterable[dict[str, str]]) -> Path:
    """The folder, with the records in TASKS files."""
    folder.mkdir()
    files = [(folder / f"part-{number}.jsonl").open("w", encoding="utf-8") for number in range(TASKS)]
    for number, record in enumerate(records):
        files[number % TASKS].write(json.dumps(record, ensure_ascii=False) + "\n")
    for file in files:
        file.close()
    return folder


def pick_few(work: Path, sample: Path) -> list[dict[str, str]]:
    """START_DOCUMENTS of those that both jobs keep, so that every step of both has something to do."""
    kept = set(read_ids(work / "ours/dedup")) & set(kept_by_datatrove(work / "peer/unique"))
    records = corpus.read(sorted(sample.glob("*.jsonl")))
    return [record for record in records if record["id"] in kept][:START_DOCUMENTS]


def run_ours(raw: list[Path], work: Path) -> Cost:
    """The cost of both Spark jobs; work/clean and work/dedup hold their outputs."""
    _, clean = run_clean(raw, work, clean=CLEAN)
    _, dedup = run_dedup(work)
    return clean + dedup


def datatrove_with_readers() -> Path:
    """The interpreter of the peer's environment, with what its JSONL readers and writers need beside its filters."""
    python = datatrove_python()
    if subprocess.run([str(python), "-c", "import orjson"], check=False, stderr=subprocess.DEVNULL).returncode:
        install = [str(python), "-m", "pip", "install", "--quiet", "datatrove[io]==0.10.1"]
        subprocess.run(install, check=True)
    return python


def run_datatrove(raw: Path, work: Path) -> Cost:
    """The cost of its five pipelines; work/filtered and work/unique hold what they keep."""
    script = Path(__file__).with_name("datatrove_job.py")
    return run_measured([str(datatrove_with_readers()), str(script), str(raw), str(work), str(TASKS)], cwd=ROOT)


def rates(paths: Iterable[Path], cost: Cost) -> tuple[float, float]:
    """MB of text per CPU-second and per second."""
    megabytes = sum(len(record["text"].encode()) for record in corpus.read(paths)) / 1e6
    return megabytes / cost.cpu_seconds, megabytes / cost.wall_seconds


def compare(work: Path, sample: Path) -> float:
    """The share of the sample's documents that both jobs keep or both drop in the end; prints it stage by stage."""
    paths = sorted(sample.glob("*.jsonl"))
    run_ours(paths, work / "ours")  # compiles the kernels too, on a machine that has not yet
    run_datatrove(sample, work / "peer")
    ids = {record["id"] for record in corpus.read(paths)}
    share = 0.0
    for stage, folder in (("clean", "filtered"), ("dedup", "unique")):
        ours, peer = set(read_ids(work / "ours" / stage)), set(kept_by_datatrove(work / "peer" / folder))
        share = 1 - len(ours ^ peer) / len(ids)
        print(
            f"after {stage}: of {len(ids)} documents ours keeps {len(ours)}, datatrove {len(peer)}; {share:.4f} alike "
            f"({len(ours - peer)} ours alone, {len(peer - ours)} datatrove alone)",
            flush=True,
        )
    return share


def read_ids(output: Path) -> Iterator[str]:
    """The ids of the documents that a stage of ours kept."""
    for path in sorted((output / "documents").glob("*.parquet")):
        yield from pq.read_table(path, columns=["id"])["id"].to_pylist()


def kept_by_datatrove(folder: Path) -> Iterator[str]:
    """The ids of the documents in the folder."""
    return (record["id"] for record in corpus.read(sorted(folder.glob("*.jsonl"))))


def tell(cost: Cost) -> str:
    """For people."""
    return f"{cost.cpu_seconds:.1f} CPU-seconds, {cost.wall_seconds:.1f} s"


if __name__ == "__main__":
    main()
