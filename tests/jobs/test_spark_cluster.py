"""The Spark stages on a real cluster, a worker of which is killed in the middle: what comes out is what a laptop makes.

The corpus is the demo's, in plain files, so that there is work left when the worker dies.
"""

import gzip
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from spark_cluster import SparkCluster, spark_cluster
from spark_job import made, prepare, run_job, start_job, table

from gpt_core.artifact import Artifact
from gpt_core.fingerprint import Json

pytestmark = pytest.mark.spark
DEMO = Path(__file__).parents[2] / "data/demo"
FILES = 12
STEP_SECONDS = 120


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Json]:
    """Of the demo's documents, dealt to FILES plain files, one document in ten a second time under another id."""
    folder = tmp_path_factory.mktemp("raw")
    lines: list[str] = []
    for name in ("novels", "speeches", "encyclopedia"):
        with gzip.open(DEMO / f"{name}.jsonl.gz", "rt", encoding="utf-8") as records:
            lines += records
    again = [json.loads(line) for line in lines[::10]]
    lines += [json.dumps(record | {"id": f"{record['id']}-again"}) + "\n" for record in again]
    for number in range(FILES):
        (folder / f"part-{number:02d}.jsonl").write_text("".join(lines[number::FILES]), encoding="utf-8")
    return {"corpus": {"inputs": [{"path": str(folder / "*.jsonl")}]}, "clean": {"languages": None}}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkCluster]:
    with spark_cluster(tmp_path_factory.mktemp("cluster"), workers=2) as running:
        yield running


@pytest.fixture(scope="module")
def at_home(recipe: dict[str, Json], tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Artifact]:
    """What clean and dedup make without a cluster."""
    folder = tmp_path_factory.mktemp("home")
    return run(folder, "clean", recipe), run(folder, "dedup", recipe, clean=folder / "clean")


def run(folder: Path, stage: str, recipe: dict[str, Json], **inputs: Path) -> Artifact:
    prepare(folder / stage, recipe)
    done = run_job(f"jobs.{stage}_corpus", folder / stage, **inputs)
    assert done.returncode == 0, done.stderr
    return made(folder / stage)


def run_beside(
    cluster: SparkCluster,
    folder: Path,
    stage: str,
    recipe: dict[str, Json],
    is_in_the_middle: Callable[[Path], bool],
    **inputs: Path,
) -> Artifact:
    """The stage on the cluster, a worker of which dies in the middle, and is followed by another."""
    output = folder / stage
    prepare(output, recipe, partitions=5, master=cluster.url)
    job = start_job(f"jobs.{stage}_corpus", output, **inputs)
    deadline = time.monotonic() + STEP_SECONDS
    while not is_in_the_middle(output):
        assert job.poll() is None, job.communicate()
        assert time.monotonic() < deadline, f"{stage} came to no middle"
        time.sleep(0.01)
    cluster.kill_worker()
    assert job.poll() is None, "the job ended before its worker"
    cluster.start_worker()
    _, stderr = job.communicate()
    assert job.returncode == 0, stderr
    return made(output)


def files(artifact: Artifact, table: str) -> dict[str, str]:
    """Path -> SHA-256."""
    return {entry.path: entry.sha256 for entry in artifact.manifest.files if entry.path.startswith(f"{table}/")}


def test_a_worker_killed_in_the_middle_changes_nothing(
    cluster: SparkCluster,
    recipe: dict[str, Json],
    at_home: tuple[Artifact, Artifact],
    tmp_path: Path,
) -> None:
    clean, dedup = at_home
    assert dedup.manifest.counts["duplicates_exact"] > 800

    again = run_beside(cluster, tmp_path, "clean", recipe, lambda output: any(output.glob("documents/*.parquet")))
    assert again.manifest.counts == clean.manifest.counts
    assert again.file("stats.json").read_bytes() == clean.file("stats.json").read_bytes()
    for name in ("documents", "rejected"):
        assert files(again, name) == files(clean, name)

    inputs = {"clean": tmp_path / "clean"}
    again = run_beside(
        cluster, tmp_path, "dedup", recipe, lambda output: any(output.glob("spark-scratch/kept-002")), **inputs
    )
    assert again.manifest.counts == dedup.manifest.counts
    assert again.file("stats.json").read_bytes() == dedup.file("stats.json").read_bytes()
    assert files(again, "documents") == files(dedup, "documents")
    assert table(again, "duplicates") == table(dedup, "duplicates")
