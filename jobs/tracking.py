"""MLflow for jobs, and where its store is. What the runner records is in jobs/pipeline_run.py, what it asks before that
in jobs/tracking_check.py.

A job calls `metric_logger`, `watch_node` (jobs/node_metrics.py) and `register_models` (jobs/registry.py), which do
nothing unless the runner named a run in GPTMILL_MLFLOW_RUN_ID. A store that goes away costs a warning, never the job.
Importing this module does not import mlflow.

The store is `tracking.uri`, else the environment's MLFLOW_TRACKING_URI (`mlflow run` sets it), else
`{workspace}/mlflow.db` with artifacts in `{workspace}/mlartifacts`. Credentials come from the environment alone, and
only a database's URI there holds them: nothing that is shown or stored has it whole.
"""

import json
import logging
import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from gpt_core.artifact import write_atomically
from gpt_core.recipe import Recipe
from gpt_core.store_uri import without_secrets
from jobs.metric_queue import Item, MetricQueue, Note, Point, reason_of
from jobs.run_records import cut_tag, store_name

if TYPE_CHECKING:
    from jobs.mlflow_store import Store

RUN_ID = "GPTMILL_MLFLOW_RUN_ID"  # set for a job: the run of its stage
TRACKING_URI, PARENT_RUN_ID = "MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"  # MLflow's own; `mlflow run` sets both
REGISTRY_URI = "MLFLOW_REGISTRY_URI"  # MLflow's own; default: the tracking store
STORES = ".stores.json"  # in a workspace
RETRIES, TIMEOUT_SECONDS = "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"
IMPATIENCE = {RETRIES: "1", TIMEOUT_SECONDS: "10"}  # once more, at once: a server closes idle and broken connections
OF_JOBS = {RETRIES: "0", TIMEOUT_SECONDS: "30"}  # the queue of a job's metrics tries again by itself
PATIENCE = {RETRIES: "7", TIMEOUT_SECONDS: "120"}  # MLflow's own: four minutes, for what is sent once
SERVERS = ("http://", "https://")
CHAMPION = "champion"  # the alias of the best version of a registered model

logger = logging.getLogger("gptmill")


class MetricSink(Protocol):
    """Where a training loop's figures go."""

    def __call__(self, step: int, values: Mapping[str, float], *, unix_ms: int | None = None) -> None:
        """The figures of `step` are recorded, or will be, as of `unix_ms` or else of now."""

    def tag(self, name: str, text: str) -> None:
        """The run has the tag, or will have it."""

    def text(self, path: str, text: str) -> None:
        """The run has the text file among its artifacts, or will have it."""

    def close(self) -> None:
        """All that can be recorded is recorded."""


# ------------------------------------------------------------------------------------------------- the store


def tracking_uri(recipe: Recipe) -> str:
    """Where the runs of `recipe` are recorded; a relative sqlite path is made absolute."""
    uri = recipe.tracking.uri or os.environ.get(TRACKING_URI) or _workspace_uri(recipe)
    path = uri.removeprefix("sqlite:///")
    return uri if path == uri else f"sqlite:///{Path(path).absolute()}"


def remember_store(recipe: Recipe) -> None:
    """The workspace names the stores outside it that its runs are recorded in, and their models, without secrets.

    `gptmill gc` asks all of them what it must not remove.
    """
    given = {tracking_uri(recipe), os.environ.get(REGISTRY_URI) or tracking_uri(recipe)} - {_workspace_uri(recipe)}
    known = known_stores(Path(recipe.workspace))
    stores = sorted({*known, *map(without_secrets, given)})
    if stores != known:
        write_atomically(Path(recipe.workspace) / STORES, json.dumps(stores, indent=1) + "\n")


def known_stores(workspace: Path) -> list[str]:
    """What `remember_store` noted."""
    try:
        stores: list[str] = json.loads((workspace / STORES).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    return stores


def page_command(recipe: Recipe) -> str:
    """The shell command that opens MLflow's page on these runs; for a server its address, which is all one needs.

    A URI with a password is named by the environment's variable that has it.
    """
    uri = tracking_uri(recipe)
    if uri.startswith(SERVERS):
        return without_secrets(uri)
    script = Path(sys.executable).with_name("mlflow")
    shown = script.relative_to(Path.cwd()) if script.is_relative_to(Path.cwd()) else script
    command = [str(shown)] if script.exists() else [sys.executable, "-m", "mlflow"]
    secret = recipe.tracking.uri is None and without_secrets(uri) != uri
    named = f'"${TRACKING_URI}"' if secret else shlex.quote(uri)
    return f"{shlex.join([*command, 'ui', '--backend-store-uri'])} {named}"


# -------------------------------------------------------------------------------------------- called by jobs


def metric_logger(recipe: Recipe) -> MetricSink:
    """Sends a training loop's figures to the stage's run, from another thread; the loop never waits for it.

    A step that the run has already, from an attempt that was killed, keeps what it has. Does nothing without
    GPTMILL_MLFLOW_RUN_ID, and on every rank but 0. Call `close()` at the end.
    """
    run_id = watched_run("RANK")
    if run_id is None:
        return _NoMetrics()
    stores: list[tuple[Store, int]] = []

    def send(items: list[Item]) -> None:
        if not stores:  # on the queue's thread: the import delays no step
            opened = open_store(recipe)
            stores.append((opened, opened.last_step(run_id)))
        store, last_step = stores[0]
        points = [item._replace(key=store_name(item.key)) for item in items if isinstance(item, Point)]
        store.log_missing(run_id, [point for point in points if point.step <= last_step])
        store.log_points(run_id, [point for point in points if point.step > last_step])
        for note in [item for item in items if isinstance(item, Note)]:
            if note.kind == "tag":
                store.tag(run_id, {note.name: cut_tag(note.text)})
            else:
                store.log_text(run_id, note.text, note.name)

    return MetricQueue(send)


def registered_model(recipe: Recipe) -> str:
    """The name in the model registry that the recipe's fine-tuned model gets."""
    return recipe.tracking.registered_model or f"{recipe.name}-classifier"


def registered_language_model(recipe: Recipe) -> str:
    """The name in the model registry that the recipe's pre-trained model gets."""
    return recipe.tracking.registered_language_model or f"{recipe.name}-language-model"


class _NoMetrics:
    def __call__(self, step: int, values: Mapping[str, float], *, unix_ms: int | None = None) -> None:
        """Nobody watches."""

    def tag(self, name: str, text: str) -> None:
        """Nobody watches."""

    def text(self, path: str, text: str) -> None:
        """Nobody watches."""

    def close(self) -> None:
        """Nothing to do."""


def watched_run(first: Literal["RANK", "LOCAL_RANK"]) -> str | None:
    """The run that this process records in, where it is the first of all ranks, or of its machine's."""
    return os.environ.get(RUN_ID) if os.environ.get(first, "0") == "0" else None


# ------------------------------------------------------------------------------------------ opening and errors


def open_store(recipe: Recipe) -> "Store":
    """The recipe's store; where that is the workspace's own, its folder stands."""
    from jobs.mlflow_store import Store

    uri = tracking_uri(recipe)
    if uri == _workspace_uri(recipe):
        Path(recipe.workspace).mkdir(parents=True, exist_ok=True)
    return Store(uri)


def _workspace_uri(recipe: Recipe) -> str:
    return f"sqlite:///{Path(recipe.workspace).absolute() / 'mlflow.db'}"


def find_experiment(recipe: Recipe, store: "Store") -> str:
    """The id of the recipe's experiment, made if it is not there."""
    ours = store.uri == _workspace_uri(recipe)
    location = (Path(recipe.workspace).absolute() / "mlartifacts").as_uri() if ours else None
    return store.experiment_id(recipe.tracking.experiment, artifact_location=location)


@contextmanager
def recording(what: str) -> Iterator[None]:
    """What fails inside costs this record and is warned of. Artifact stores raise errors of many trees."""
    try:
        yield
    except Exception as error:
        logger.warning("MLflow: %s was not recorded: %s", what, reason_of(error))
