"""The Spark stages on a real cluster, a worker of which is killed in the middle: what comes out is what a laptop makes.

The corpus is the demo's, in plain files, so that there is work left when the worker dies. The cluster has a secret;
its workers know nothing of gptmill: clean brings it in an archive, dedup finds it under the driver's path.
"""

import gzip
import json
import shutil
import site
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import requests
from spark_cluster import SparkCluster, spark_cluster, write_conf
from spark_job import made, prepare, run_job, start_job, table

from gpt_core.artifact import Artifact
from gpt_core.errors import SetupError
from gpt_core.fingerprint import Json
from jobs.spark_master import Access, Java, ask_master, require_access, start_java, stop_java

pytestmark = pytest.mark.spark
ROOT = Path(__file__).parents[2]
DEMO = ROOT / "data/demo"
PYTHON = """#!/bin/sh
# A Python without gptmill, but for what stands beside it.
touch {mark}
PYTHONPATH="$(dirname "$0")/../lib:{packages}:$PYTHONPATH" exec {python} "$@"
"""
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
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As small as an archive can be: the packages of this environment where they are, gptmill inside."""
    folder = tmp_path_factory.mktemp("archive")
    for package in ("gpt_core", "jobs"):
        shutil.copytree(ROOT / package, folder / "lib" / package, ignore=shutil.ignore_patterns("__pycache__"))
    python = folder / "bin/python"
    python.parent.mkdir()
    words = {"mark": folder / "used", "packages": site.getsitepackages()[0], "python": Path(sys.executable).resolve()}
    python.write_text(PYTHON.format(**words))
    python.chmod(0o755)
    path = folder / "environment.tar.gz"
    with tarfile.open(path, "w:gz") as file:
        for name in ("bin", "lib"):
            file.add(folder / name, name)
    return path


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
    archive: Path | None = None,
    **inputs: Path,
) -> Artifact:
    """The stage on the cluster, a worker of which dies in the middle, and is followed by another."""
    output = folder / stage
    prepare(output, recipe, partitions=5, master=cluster.url, archive=archive)
    job = start_job(f"jobs.{stage}_corpus", output, cluster.environment, **inputs)
    deadline = time.monotonic() + STEP_SECONDS
    while not is_in_the_middle(output):
        assert job.poll() is None, job.communicate()
        assert time.monotonic() < deadline, f"{stage} came to no middle"
        time.sleep(0.01)
    assert cluster.secret not in "".join(command_lines()), "everybody on the machine can read the secret"
    cluster.kill_worker()
    assert job.poll() is None, "the job ended before its worker"
    cluster.start_worker()
    stdout, stderr = job.communicate()
    assert job.returncode == 0, stderr
    (folder / f"{stage}.log").write_text(stdout + stderr)
    return made(output)


def command_lines() -> list[str]:
    """Of all that runs on this machine."""
    return [" ".join(one.info["cmdline"] or []) for one in psutil.process_iter(["cmdline"])]


def files(artifact: Artifact, table: str) -> dict[str, str]:
    """Path -> SHA-256."""
    return {entry.path: entry.sha256 for entry in artifact.manifest.files if entry.path.startswith(f"{table}/")}


def test_a_worker_killed_in_the_middle_changes_nothing(
    cluster: SparkCluster,
    recipe: dict[str, Json],
    at_home: tuple[Artifact, Artifact],
    archive: Path,
    tmp_path: Path,
) -> None:
    clean, dedup = at_home
    assert dedup.manifest.counts["duplicates_exact"] > 800

    again = run_beside(
        cluster, tmp_path, "clean", recipe, lambda output: any(output.glob("documents/*.parquet")), archive
    )
    assert (archive.parent / "used").exists()
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

    told = {path: path.read_bytes() for folder in (tmp_path, cluster.folder) for path in files_below(folder)}
    assert {path.name for path in told} >= {"master.log", "stderr", "clean.log", "manifest.json"}
    told |= {
        page: requests.get(page, timeout=10).content for url in cluster.pages() for page in (url, url + "/environment/")
    }
    assert [place for place, content in told.items() if cluster.secret.encode() in content] == [
        cluster.folder / "conf/spark-defaults.conf"
    ]


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_driver_without_the_secret_is_refused_before_it_starts(
    cluster: SparkCluster, recipe: dict[str, Json], tmp_path: Path
) -> None:
    prepare(tmp_path / "clean", recipe, master=cluster.url)
    conf = tmp_path / "conf/spark-defaults.conf"
    done = run_job("jobs.clean_corpus", tmp_path / "clean", environment=write_conf(conf.parent, ""))
    assert done.returncode == 2, done.stderr
    assert json.loads((tmp_path / "clean/error.json").read_text()) == {
        "kind": "user",
        "message": f"cluster.spark.master={cluster.url}: asks for a secret; put spark.authenticate true and "
        f"spark.authenticate.secret into {conf}, which you alone can read; SPARK_CONF_DIR names its folder",
    }
    assert "Exception" not in done.stderr


@pytest.fixture(scope="module")
def java() -> Iterator[Java]:
    """A Java with Spark in it; what it says of a secret, `knows` says."""
    running = start_java(None)
    yield running
    stop_java(running)


def knows(java: Java, secret: str | None) -> None:
    properties = java.jvm.java.lang.System.getProperties()
    properties.put("spark.authenticate", str(secret is not None).lower())
    properties.put("spark.authenticate.secret", secret or "")


def test_a_secret_that_is_not_the_masters_is_told(cluster: SparkCluster, java: Java) -> None:
    knows(java, "guessed")
    with pytest.raises(SetupError, match=r"refuses the secret of .*/spark-defaults\.conf; take the one that it was"):
        require_access(java, cluster.url)
    with pytest.raises(SetupError, match=r"is no Spark master .*; its page names the address, spark://HOST:7077"):
        require_access(java, cluster.pages()[0].replace("http", "spark"))
    knows(java, cluster.secret)
    assert require_access(java, cluster.url) == Access(authenticated=True)


def test_a_master_that_asks_nobody_for_a_secret_is_told(
    java: Java, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with spark_cluster(tmp_path, workers=0, guarded=False) as unguarded:
        knows(java, None)
        assert require_access(java, unguarded.url) == Access(authenticated=False)
        knows(java, "mine")
        with pytest.raises(SetupError, match="lets in who has no secret, and so not us; start it with"):
            require_access(java, unguarded.url)
    with pytest.raises(SetupError, match=r"no answer \(connection refused\); start it, or give the address"):
        ask_master(unguarded.url)
    monkeypatch.setenv("SPARK_CONF_DIR", write_conf(tmp_path / "all", "spark.authenticate.secret x")["SPARK_CONF_DIR"])
    conf = tmp_path / "all/spark-defaults.conf"
    conf.chmod(0o640)
    with pytest.raises(SetupError, match=f"{conf}: holds spark.authenticate.secret, and others can read it; chmod 600"):
        ask_master(unguarded.url)
