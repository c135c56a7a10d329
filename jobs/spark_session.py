"""Spark as the jobs use it: one session a job, and tables written as plain Parquet files.

A local Spark binds to the loopback interface, shows no UI and leaves nothing behind: its scratch files stand in
the job's output folder until the job ends. On a cluster they stand where its configuration says.
"""

import logging
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
from pyspark.errors import PySparkRuntimeError
from pyspark.sql import DataFrame, SparkSession

from gpt_core.errors import SetupError
from jobs.job import POLL_SECONDS, Job

SCRATCH = "spark-scratch"  # below the output folder; no manifest lists it
FILE_BYTES = 256 << 20  # of text in an output file of a large corpus
SHORT_INPUT_BYTES = 256 << 20  # below it a local JVM starts cheaply rather than runs fast: 30 % less CPU on the demo
LEAST_FILE_BYTES = 4 << 20  # and of a small one, so that later stages have a file for every core

_QUIET = """rootLogger.level = error
rootLogger.appenderRef.stderr.ref = stderr
logger.gateway.name = org.apache.spark.api.python.PythonGatewayServer
logger.gateway.level = error
appender.stderr.type = Console
appender.stderr.name = stderr
appender.stderr.target = SYSTEM_ERR
appender.stderr.layout.type = PatternLayout
appender.stderr.layout.pattern = %d{yyyy-MM-dd HH:mm:ss,SSS} spark %p %c{1}: %m%n%ex{3}
"""


@contextmanager
def spark_session(job: Job, *, input_bytes: int) -> Iterator[SparkSession]:
    """A session as recipe.cluster.spark asks for; it ends, and its scratch files go, with the block.

    While it stands, the job reports how many of Spark's tasks are done. Raises SetupError if no Java starts.
    """
    scratch = scratch_of(job)
    scratch.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    logging.getLogger("py4j").setLevel(logging.WARNING)
    try:
        session = _start(job, scratch, input_bytes)
    except PySparkRuntimeError as error:
        raise SetupError(
            f"Spark did not start ({error.getCondition()}); it needs Java 17 or newer on PATH or in JAVA_HOME"
        ) from None
    ended = threading.Event()
    watch = threading.Thread(target=_report_tasks, args=(job, session, ended), daemon=True)
    watch.start()
    try:
        yield session
    finally:
        ended.set()
        watch.join()
        session.stop()
        shutil.rmtree(scratch, ignore_errors=True)


def scratch_of(job: Job) -> Path:
    """The folder of files that the job needs while it runs; every task sees it, no manifest lists it."""
    return job.output.absolute() / SCRATCH


def count_rows(folder: Path) -> int:
    """Rows of all Parquet files in `folder`; what a killed task left there is removed."""
    for path in folder.glob(".*"):
        path.unlink()
    return sum(int(pq.read_metadata(path).num_rows) for path in folder.iterdir())


def partitions_of(session: SparkSession) -> int:
    """Partitions of a shuffle."""
    return int(str(session.conf.get("spark.sql.shuffle.partitions")))


def files_for(text_bytes: int, session: SparkSession) -> int:
    """How many files a table with that much text is written to: few, but work for every core."""
    cores: int = session.sparkContext.defaultParallelism
    return max(1, min(cores, text_bytes // LEAST_FILE_BYTES), -(-text_bytes // FILE_BYTES))


def write_table(frame: DataFrame, folder: Path, *, files: int) -> int:
    """`folder` holds the rows of `frame` as part-00000.parquet and so on, zstd, and nothing else. Returns the rows.

    The count is read back from the files.
    """
    frame.coalesce(files).write.mode("overwrite").option("compression", "zstd").parquet(folder.absolute().as_uri())
    rows = 0
    for path in sorted(folder.iterdir()):
        if path.suffix != ".parquet" or path.name.startswith("."):
            path.unlink()
            continue
        rows += pq.read_metadata(path).num_rows
        path.rename(folder / f"{'-'.join(path.name.split('-')[:2])}.parquet")
    return rows


def schema_of(folder: Path) -> dict[str, str]:
    """Column -> Arrow type of the table in `folder`."""
    schema = pq.read_schema(sorted(folder.iterdir())[0])
    return {field.name: str(field.type) for field in schema}


def _start(job: Job, scratch: Path, input_bytes: int) -> SparkSession:
    cluster = job.recipe.cluster.spark
    conf = {
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.driver.memory": cluster.driver_memory,
        "spark.executor.memory": cluster.executor_memory,
        "spark.executorEnv.PYTHONPATH": str(Path(__file__).resolve().parents[1]),
        "spark.sql.parquet.columnarReaderBatchSize": "256",  # rows of texts: 4,096 long ones do not fit the heap
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.execution.arrow.maxRecordsPerBatch": "1000",
        "spark.sql.execution.arrow.maxBytesPerBatch": str(32 << 20),
        "spark.sql.inMemoryColumnarStorage.batchSize": "1000",
        "spark.sql.warehouse.dir": str(scratch / "warehouse"),
    }
    if "//127.0.0.1:" in cluster.master or "//localhost:" in cluster.master:
        conf |= {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
    if cluster.master.startswith("local"):
        quiet = scratch / "log4j2.properties"
        quiet.write_text(_QUIET, encoding="utf-8")
        options = [f"-Dlog4j2.configurationFile={quiet.as_uri()}", f'-Djava.io.tmpdir="{scratch}"']
        if input_bytes < SHORT_INPUT_BYTES:
            options += ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]
        conf |= {
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.driver.extraJavaOptions": " ".join(options),
            "spark.local.dir": str(scratch),
        }
    builder = SparkSession.builder.appName(f"gptmill-{job.recipe.name}").master(cluster.master)
    for key, value in conf.items():
        builder = builder.config(key, value)
    session: SparkSession = builder.getOrCreate()
    partitions = cluster.partitions or 2 * session.sparkContext.defaultParallelism
    session.conf.set("spark.sql.shuffle.partitions", str(partitions))
    return session


def _report_tasks(job: Job, session: SparkSession, ended: threading.Event) -> None:
    """Until `ended`: report the tasks done among those of all Spark jobs seen so far."""
    tracker = session.sparkContext.statusTracker()
    seen: dict[int, tuple[int, int]] = {}
    while not ended.wait(POLL_SECONDS):
        for stage in tracker.getActiveStageIds():
            info = tracker.getStageInfo(stage)
            if info is not None:
                seen[stage] = (info.numCompletedTasks, info.numTasks)
        for stage in seen.keys() - set(tracker.getActiveStageIds()):
            seen[stage] = (seen[stage][1], seen[stage][1])
        if seen:
            done, total = (sum(column) for column in zip(*seen.values(), strict=True))
            job.report(done, total, "tasks")
