"""Does a standalone master let a driver in? Asked by Spark's own handshake, which takes a moment.

A driver that is not let in waits for a minute, and is then told by Spark (4.3) that no master answers, whatever the
reason. The secret stands in spark-defaults.conf in SPARK_CONF_DIR: Spark takes a driver's from nowhere else, but for
a command line. It is read by Java alone.
"""

import os
import re
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from py4j.java_gateway import JavaGateway as Java
from py4j.java_gateway import JavaObject
from py4j.protocol import Py4JJavaError
from pyspark import SparkConf
from pyspark.errors import PySparkRuntimeError
from pyspark.java_gateway import launch_gateway

from gpt_core.errors import SetupError
from jobs.spark_conf import spark_home

ANSWER_SECONDS = 10
_GUARDED = re.compile("challenge|Sasl")  # in what a master says to who brings no secret
SECRET = "spark.authenticate.secret"  # noqa: S105  the key's name


@dataclass(frozen=True)
class Access:
    """A master that lets us in."""

    authenticated: bool  # it asked for the secret; an open one runs the code of whoever reaches it

    @property
    def conf(self) -> dict[str, str]:
        """What the driver must say beyond the site's conf: what it is sent, and sends, is encrypted."""
        return {"spark.network.crypto.enabled": "true"} if self.authenticated else {}


def ask_master(master: str) -> Access:
    """As `require_access`, of a Java of its own."""
    _require_private(_defaults_file())
    _require_port(master)
    gateway = start_java(None)
    try:
        return require_access(gateway, master)
    finally:
        stop_java(gateway)


def stop_java(gateway: Java) -> None:
    """It has ended."""
    gateway.shutdown()
    gateway.proc.stdin.close()
    gateway.proc.wait()


def start_java(conf: SparkConf | None) -> Java:
    """A Java with Spark and the site's conf in it. Raises SetupError if none starts."""
    try:
        return launch_gateway(conf)
    except PySparkRuntimeError as error:
        raise SetupError(
            f"Spark did not start ({error.getCondition()}); it needs Java 17 or newer on PATH or in JAVA_HOME"
        ) from None


def require_access(gateway: Java, master: str) -> Access:
    """One of the masters in spark://HOST:PORT,HOST:PORT lets us in. Raises SetupError that says why not."""
    defaults = _defaults_file()
    _require_private(defaults)
    _require_port(master)
    conf = gateway.jvm.SparkConf(True)
    authenticated = bool(conf.getBoolean("spark.authenticate", False))
    if authenticated:
        conf.set("spark.network.crypto.enabled", "true")
    if _knock(gateway, conf, master) is None:
        return Access(authenticated)
    field = f"cluster.spark.master={master}"
    conf.set("spark.network.crypto.enabled", "false").set("spark.authenticate", "false")
    problem = _knock(gateway, conf, master)
    if problem is None:
        raise SetupError(
            f"{field}: lets in who has no secret, and so not us; start it with the spark-defaults.conf that is "
            f"{defaults} here"
        )
    if not _GUARDED.search(problem):
        raise SetupError(f"{field}: is no Spark master ({problem}); its page names the address, spark://HOST:7077")
    if authenticated:
        raise SetupError(f"{field}: refuses the secret of {defaults}; take the one that it was started with")
    raise SetupError(
        f"{field}: asks for a secret; put spark.authenticate true and {SECRET} into {defaults}, which you alone can "
        "read; SPARK_CONF_DIR names its folder"
    )


def _knock(gateway: Java, conf: JavaObject, master: str) -> str | None:
    """None if a master lets in whoever has this conf, else what the last said, in one line."""
    problem = ""
    with _rpc(gateway, conf) as rpc:
        for host, port in _places(master):
            try:
                rpc.setupEndpointRef(gateway.jvm.org.apache.spark.rpc.RpcAddress(host, port), "Master")
            except Py4JJavaError as error:
                problem = _reason(error)
            else:
                return None
    return problem


@contextmanager
def _rpc(gateway: Java, conf: JavaObject) -> Iterator[JavaObject]:
    """Spark's network without a port of its own."""
    jvm = gateway.jvm
    conf = conf.clone().set("spark.rpc.lookupTimeout", f"{ANSWER_SECONDS}s")
    conf.set("spark.rpc.io.connectionTimeout", f"{ANSWER_SECONDS}s").set("spark.rpc.io.threads", "1")
    guard = jvm.org.apache.spark.SecurityManager
    defaults = [getattr(guard, f"$lessinit$greater$default${number}")() for number in (2, 3)]
    log, level = jvm.org.apache.logging.log4j.core.config.Configurator, jvm.org.apache.logging.log4j.Level
    log.setLevel("org.apache.spark.network", level.OFF)  # we tell what it would, without a trace
    rpc = jvm.org.apache.spark.rpc.RpcEnv.create("gptmill", "127.0.0.1", 0, conf, guard(conf, *defaults), True)
    try:
        yield rpc
    finally:
        rpc.shutdown()
        log.setLevel("org.apache.spark.network", level.WARN)


def _require_port(master: str) -> None:
    """One of the masters' ports is open: a wrong address is told without Java, and at once."""
    reason = ""
    for host, port in _places(master):
        try:
            socket.create_connection((host, port), timeout=ANSWER_SECONDS).close()
        except (OSError, OverflowError) as error:
            reason = (getattr(error, "strerror", None) or str(error)).lower()
        else:
            return
    raise SetupError(
        f"cluster.spark.master={master}: no answer ({reason}); start it, or give the address that its page names"
    )


def _places(master: str) -> list[tuple[str, int]]:
    pairs = (place.rpartition(":") for place in master.removeprefix("spark://").split(","))
    return [(host, int(port)) for host, _, port in pairs]


def _defaults_file() -> Path:
    """Where Spark reads its conf."""
    return Path(os.environ.get("SPARK_CONF_DIR") or Path(spark_home(), "conf")) / "spark-defaults.conf"


def _require_private(path: Path) -> None:
    """Nobody else can read a secret in it. Raises SetupError."""
    try:
        shared = stat.S_IMODE(path.stat().st_mode) & 0o077
        holds_secret = bool(shared) and SECRET in path.read_text(encoding="utf-8")
    except OSError:
        return
    if holds_secret:
        raise SetupError(f"{path}: holds {SECRET}, and others can read it; chmod 600 {path}")


def _reason(error: Py4JJavaError) -> str:
    """What is at the bottom of a Java error: its last cause's first line."""
    causes = [line.removeprefix("Caused by: ") for line in str(error).splitlines() if line.startswith("Caused by: ")]
    return causes[-1].strip() if causes else str(error.java_exception)
