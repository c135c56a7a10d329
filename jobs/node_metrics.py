"""CPU, memory, network and GPUs of every node in MLflow, while it trains.

MLflow has a monitor that samples and sends from one thread; it ends for good the first time that the server does not
answer. Here it only measures: what it finds goes the way of all metrics, through a queue that tries again.
"""

import socket
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Self

from gpt_core.recipe import Recipe
from jobs.metric_queue import Item, MetricQueue, Point
from jobs.tracking import open_store, recording, tracking_uri, watched_run

if TYPE_CHECKING:
    from jobs.mlflow_store import Store

CLOSE_SECONDS = 5.0  # nobody waits long for the figures of a machine


class NodeWatch:
    """While inside, a thread sends this machine's figures to the run: every `seconds` of MLflow's, and at the end.

    They stand at the second of the run that they were taken at, so that a job that starts again goes on behind itself.
    """

    def __init__(self, recipe: Recipe, run_id: str, *, node: str | None) -> None:
        self._recipe, self._run_id, self._node = recipe, run_id, node
        self._ended = threading.Event()
        self._opened: list[tuple[Store, int]] = []  # the store, and when the run began
        self._queue = MetricQueue(self._send, close_seconds=CLOSE_SECONDS)
        self._thread = threading.Thread(target=self._watch, name="node metrics", daemon=True)

    def _send(self, items: list[Item]) -> None:
        if not self._opened:
            store = open_store(self._recipe)
            self._opened.append((store, store.start_ms(self._run_id)))
        store, start_ms = self._opened[0]
        points = [item for item in items if isinstance(item, Point)]
        store.log_points(
            self._run_id, [point._replace(step=max(0, point.timestamp_ms - start_ms) // 1000) for point in points]
        )

    def _watch(self) -> None:
        with recording("the machine's figures"):
            from jobs.mlflow_store import NodeMonitor  # two seconds, on this thread

            monitor = NodeMonitor(tracking_uri(self._recipe), node=self._node)
            while True:
                ended = self._ended.wait(monitor.seconds)
                self._queue(0, monitor.read())
                if ended:
                    return

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join(CLOSE_SECONDS)
        self._queue.close()


class _NobodyWatches:
    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to do."""


def watch_node(recipe: Recipe) -> NodeWatch | _NobodyWatches:
    """A context in which MLflow shows what this machine does, once for all of its ranks.

    With several nodes the names hold the host's. Does nothing without GPTMILL_MLFLOW_RUN_ID, which every node must
    have, and where `tracking.system_metrics` is off.
    """
    run_id = watched_run("LOCAL_RANK")
    if run_id is None or not recipe.tracking.system_metrics:
        return _NobodyWatches()
    return NodeWatch(recipe, run_id, node=socket.gethostname() if recipe.cluster.train.nodes > 1 else None)
