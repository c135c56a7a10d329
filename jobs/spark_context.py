"""Spark as the jobs use it: one context a job, and Arrow tables that its tasks hand to each other.

A local Spark binds to the loopback interface, shows no UI and leaves nothing behind: its scratch files stand in
the job's output folder until the job ends. Tasks are Python from end to end: the JVM places them, makes them again
where a machine is lost, and carries tables from one to another as bytes.
"""

import functools
import gc
import logging
import os
import re
import shutil
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark import RDD, SparkConf, SparkContext

from jobs.job import POLL_SECONDS, Job
from jobs.spark_conf import SCRATCH, spark_conf, worker_python, write_pod_template
from jobs.spark_master import require_access, start_java

SHORT_INPUT_BYTES = 256 << 20  # below it a local JVM starts cheaply rather than runs fast: 30 % less CPU on the demo

_ON_LOOPBACK = re.compile(r"spark://(127\.0\.0\.1|localhost):")
_T = TypeVar("_T")
_U = TypeVar("_U")
Make = Callable[[pa.Table], pa.Table]
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
def spark_context(job: Job, *, input_bytes: int) -> Iterator[SparkContext]:
    """A context as recipe.cluster.spark asks for; it ends, and its scratch files go, with the block.

    While it stands, the job reports how many of Spark's tasks are done. Raises SetupError if no Java starts, or the
    standalone master does not let this driver in.
    """
    scratch, master = scratch_of(job), job.recipe.cluster.spark.master
    scratch.mkdir(parents=True, exist_ok=True)
    logging.getLogger("py4j").setLevel(logging.WARNING)
    gateway = start_java(conf := _configure(job, input_bytes))
    if job.recipe.cluster.spark.manager == "standalone":
        conf.setAll(list(require_access(gateway, master).conf.items()))
    context = SparkContext(conf=conf, gateway=gateway)
    ended = threading.Event()
    watch = threading.Thread(target=_report_tasks, args=(job, context, ended), daemon=True)
    watch.start()
    try:
        yield context
    finally:
        ended.set()
        watch.join()
        context.stop()
        shutil.rmtree(scratch, ignore_errors=True)


def scratch_of(job: Job) -> Path:
    """The folder of files that the job needs while it runs; every task sees it, no manifest lists it."""
    return job.output.absolute() / SCRATCH


def partitions_of(job: Job, context: SparkContext) -> int:
    """Into how many parts tables are dealt."""
    return job.recipe.cluster.spark.partitions or 2 * context.defaultParallelism


def make_each(context: SparkContext, items: Sequence[_T], make: Callable[[int, _T], _U]) -> RDD[_U]:
    """What `make` returns of every item and its number, each in a task of its own."""
    numbered: RDD[tuple[int, _T]] = context.parallelize(list(enumerate(items)), max(1, len(items)))

    def made(item: tuple[int, _T]) -> _U:
        result = make(*item)
        _freeze()
        return result

    return numbered.map(made)


class Kept:
    """Tables in files, in order, and what is to be made of each."""

    def __init__(self, context: SparkContext, sources: list[tuple[Path, Make | None]], rows: int) -> None:
        self.context, self.sources, self.rows = context, sources, rows

    def __add__(self, other: "Kept") -> "Kept":
        return Kept(self.context, self.sources + other.sources, self.rows + other.rows)

    def map(self, make: Make) -> "Kept":
        """What `make` will return of each table; `rows` stay those of the files."""
        made: list[tuple[Path, Make | None]] = [
            (path, make if former is None else _chain(former, make)) for path, former in self.sources
        ]
        return Kept(self.context, made, self.rows)

    def tables(self) -> RDD[pa.Table]:
        """Each in a task."""
        return make_each(self.context, self.sources, lambda _, source: read_kept(*source))

    def collect(self, make: Callable[[pa.Table], _U]) -> list[_U]:
        """What `make` returns of each, here."""
        return list(self.tables().map(make).collect())


def _chain(first: Make, second: Make) -> Make:
    return lambda table: second(first(table))


def read_kept(path: Path, make: Make | None = None) -> pa.Table:
    """A table that was kept, or what `make` returns of it."""
    table = _unpack(path.read_bytes())
    return table if make is None else make(table)


class Scratch:
    """Tables written out: made once, cut from their history, and not lost with an executor."""

    def __init__(self, context: SparkContext, job: Job, name: str = "kept") -> None:
        self.context, self.folder, self.name, self.n = context, scratch_of(job), name, 0

    def keep(self, tables: RDD[pa.Table]) -> Kept:
        """The same tables, of which each partition has one."""
        self.n += 1
        folder = self.folder / f"{self.name}-{self.n:03d}"

        def write(part: int, tables: Iterable[pa.Table]) -> Iterator[tuple[Path, int]]:
            folder.mkdir(parents=True, exist_ok=True)
            (table,) = tables
            path, partial = folder / f"{part:06d}.arrow", folder / f".{uuid.uuid4().hex}"
            partial.write_bytes(_pack(table))
            partial.rename(path)
            yield path, len(table)

        written = tables.mapPartitionsWithIndex(write).collect()
        return Kept(self.context, [(path, None) for path, _ in written], sum(rows for _, rows in written))


class Flow(NamedTuple):
    """Tables of one schema, and the part that each row of such a table goes to."""

    tables: Kept | RDD[pa.Table]
    schema: pa.Schema
    parts_of: Callable[[pa.Table], npt.NDArray[np.int64]]


def exchange(parts: int, *flows: Flow) -> RDD[tuple[pa.Table, ...]]:
    """`parts` times a table of each flow: all rows that go to that part.

    Several flows must be Kept: what Spark itself unites needs a second Python worker for each.
    """
    schemas = [flow.schema for flow in flows]

    def gather(dealt: Iterable[tuple[int, tuple[int, bytes]]]) -> Iterator[tuple[pa.Table, ...]]:
        tables = [[schema.empty_table()] for schema in schemas]
        for _, (number, content) in dealt:
            tables[number].append(_unpack(content))
        yield tuple(map(pa.concat_tables, tables))

    return _deal(parts, flows).partitionBy(parts, int).mapPartitions(gather)


def _deal(parts: int, flows: Sequence[Flow]) -> RDD[tuple[int, tuple[int, bytes]]]:
    """(part, (number of the flow, rows)) of all tables."""
    parts_of = [flow.parts_of for flow in flows]

    def deal(number: int, table: pa.Table) -> Iterator[tuple[int, tuple[int, bytes]]]:
        numbers = parts_of[number](table)
        order = np.argsort(numbers, kind="stable")
        borders = np.searchsorted(numbers[order], np.arange(parts + 1))
        dealt = table.take(pa.array(order))
        for part in np.flatnonzero(np.diff(borders)).tolist():
            yield part, (number, _pack(dealt.slice(borders[part], borders[part + 1] - borders[part])))

    first = flows[0].tables
    if not isinstance(first, Kept):
        assert len(flows) == 1, "several flows are kept"
        return first.flatMap(lambda table: deal(0, table))
    sources: list[tuple[int, tuple[Path, Make | None]]] = []
    for number, flow in enumerate(flows):
        assert isinstance(flow.tables, Kept), "several flows are kept"
        sources += [(number, source) for source in flow.tables.sources]
    return make_each(first.context, sources, lambda _, source: source).flatMap(
        lambda source: deal(source[0], read_kept(*source[1]))
    )


def count_rows(folder: Path) -> int:
    """Rows of all Parquet files in `folder`; what a killed task left there is removed."""
    for path in folder.glob(".*"):
        path.unlink()
    return sum(int(pq.read_metadata(path).num_rows) for path in folder.iterdir())


def schema_of(folder: Path) -> dict[str, str]:
    """Column -> Arrow type of the table in `folder`."""
    schema = pq.read_schema(sorted(folder.iterdir())[0])
    return {field.name: str(field.type) for field in schema}


@functools.cache
def _freeze() -> None:
    """Spark's Python workers collect garbage after every task: let them not search, for 0.1 s, all that is imported."""
    gc.freeze()


def _pack(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def _unpack(content: bytes) -> pa.Table:
    return pa.ipc.open_stream(content).read_all()


def _configure(job: Job, input_bytes: int) -> SparkConf:
    """What this driver says; one that spark-submit started on a cluster has been told all."""
    cluster, scratch = job.recipe.cluster, scratch_of(job)
    if cluster.spark.deploy_mode == "cluster":
        return SparkConf()
    os.environ["PYSPARK_PYTHON"] = worker_python(cluster)
    conf = spark_conf(cluster, job.output.absolute())
    write_pod_template(cluster, job.output.absolute())
    if cluster.spark.manager == "local" or _ON_LOOPBACK.match(cluster.spark.master):
        conf |= {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
    if cluster.spark.manager == "local":
        quiet = scratch / "log4j2.properties"
        quiet.write_text(_QUIET, encoding="utf-8")
        options = [f"-Dlog4j2.configurationFile={quiet.as_uri()}", f'-Djava.io.tmpdir="{scratch}"']
        if input_bytes < SHORT_INPUT_BYTES:
            options += ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]
        conf |= {"spark.driver.extraJavaOptions": " ".join(options), "spark.local.dir": str(scratch)}
    configured = SparkConf().setAppName(f"gptmill-{job.recipe.name}").setMaster(cluster.spark.master)
    return configured.setAll(list(conf.items()))


def _report_tasks(job: Job, context: SparkContext, ended: threading.Event) -> None:
    """Until `ended`: report the tasks done among those of all Spark jobs seen so far."""
    tracker = context.statusTracker()
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
