"""What MLflow is told: who ran what, on which inputs, with what result.

A pipeline run is one MLflow run, with a run nested below it for each stage that ran. Lineage: a stage's run has
the raw files and earlier outputs it read as datasets with their digests, and the fingerprint of what it makes as
a tag; the pipeline's run names every output and the run that made it.

The runner calls `check_tracking`, then `open_pipeline_run`. A job calls `metric_logger` and `register_classifier`,
which do nothing unless the runner named a run in GPTMILL_MLFLOW_RUN_ID. Once a run is open, a store that goes away
costs records and a warning each, never the pipeline. Importing this module does not import mlflow.

The store is `tracking.uri`, else the environment's MLFLOW_TRACKING_URI (`mlflow run` sets it), else
`{workspace}/mlflow.db` with artifacts in `{workspace}/mlartifacts`.
"""

import logging
import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from gpt_core.artifact import Artifact
from gpt_core.errors import SetupError, UserError
from gpt_core.fingerprint import Json, fingerprint
from gpt_core.recipe import Recipe
from jobs.environment import environment
from jobs.metric_queue import MetricQueue, Point, reason_of
from jobs.run_records import cut_tag, datasets_of, flatten_parameters, metrics_of, small_files_of

if TYPE_CHECKING:
    from jobs.mlflow_store import Store

RUN_ID = "GPTMILL_MLFLOW_RUN_ID"  # set for a job: the run of its stage
TRACKING_URI, PARENT_RUN_ID = "MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"  # MLflow's own; `mlflow run` sets both
IMPATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}  # seconds
SERVERS = ("http://", "https://")

Status = Literal["FINISHED", "FAILED", "KILLED"]

logger = logging.getLogger("gptmill")


class MetricSink(Protocol):
    """Where a training loop's figures go."""

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        """The figures of `step` are recorded, or will be."""

    def close(self) -> None:
        """All that can be recorded is recorded."""


# ------------------------------------------------------------------------------------------------- the store


def tracking_uri(recipe: Recipe) -> str:
    """Where the runs of `recipe` are recorded; a relative sqlite path is made absolute."""
    uri = recipe.tracking.uri or os.environ.get(TRACKING_URI) or _workspace_uri(recipe)
    path = uri.removeprefix("sqlite:///")
    return uri if path == uri else f"sqlite:///{Path(path).absolute()}"


def check_tracking(recipe: Recipe) -> None:
    """The store answers, takes runs in the recipe's experiment, and can hold its alias.

    Makes the workspace's own store (two seconds, once). Raises UserError with the URI, what it answered and the way
    out; at a server that is away at once, not after MLflow's four minutes of trying.
    """
    alias = recipe.tracking.alias
    if not re.fullmatch(r"[\w-]+", alias) or re.fullmatch(r"[vV]\d+|latest", alias):
        raise UserError(
            f"tracking.alias: {alias!r} is no alias for MLflow; use letters, digits, - and _, not v9 or latest"
        )
    with environment(IMPATIENCE), _worded(recipe):
        _experiment_id(recipe, _open_store(recipe))


def page_command(recipe: Recipe) -> str:
    """The shell command that opens MLflow's page on these runs; for a server its address, which is all one needs."""
    uri = tracking_uri(recipe)
    if uri.startswith(SERVERS):
        return uri
    script = Path(sys.executable).with_name("mlflow")
    shown = script.relative_to(Path.cwd()) if script.is_relative_to(Path.cwd()) else script
    command = [str(shown)] if script.exists() else [sys.executable, "-m", "mlflow"]
    return shlex.join([*command, "ui", "--backend-store-uri", uri])


# ---------------------------------------------------------------------------------------------- a pipeline run


def open_pipeline_run(recipe: Recipe, *, command: Sequence[str] = ()) -> "PipelineRun":
    """A run of the whole pipeline is open, with the recipe as parameters and as recipe.json.

    It is the run that MLFLOW_RUN_ID names (`mlflow run` sets it), else a new one named `recipe.name` in
    `tracking.experiment`. Raises UserError if the store cannot be used (see check_tracking) or has no such run.
    """
    tree: dict[str, Json] = recipe.model_dump(mode="json")
    with _worded(recipe):
        store = _open_store(recipe)
        run_id = os.environ.get(PARENT_RUN_ID)
        if run_id:
            experiment_id = store.experiment_of(run_id)
            if experiment_id is None:
                raise UserError(
                    f"{PARENT_RUN_ID}: {store.uri} has no run {run_id}; unset {PARENT_RUN_ID}, or let `mlflow run` "
                    f"record there: {TRACKING_URI}={store.uri}"
                )
            store.continue_run(run_id)
        else:
            experiment_id = _experiment_id(recipe, store)
            run_id = store.start_run(experiment_id, recipe.name, {})
        store.tag(run_id, {"gptmill.recipe": recipe.name, "gptmill.command": cut_tag(shlex.join(command))})
        present = store.parameters(run_id)  # `mlflow run -P pretrain.tokens=...` has logged it as it was typed
        store.log_parameters(run_id, {k: v for k, v in flatten_parameters(tree).items() if k not in present})
        store.log_json(run_id, tree, "recipe.json")
    return PipelineRun(recipe, store, run_id, experiment_id)


@dataclass
class PipelineRun:
    """One run of the pipeline in MLflow, and below it a run for each stage that runs.

    Made by open_pipeline_run. After that no method raises: what cannot be recorded is warned of. A stage's run id
    is None where its start could not be recorded; every method takes such a None and does nothing.
    """

    recipe: Recipe
    store: "Store"
    run_id: str
    experiment_id: str
    open_stages: dict[str, str] = field(default_factory=dict)  # run id -> stage
    patient: bool = True  # a store that was away is then asked once, until it answers

    @property
    def url(self) -> str | None:
        """The run's page on a tracking server; None for a database, which `page_command` opens."""
        if not self.store.uri.startswith(SERVERS):
            return None
        return f"{self.store.uri.rstrip('/')}/#/experiments/{self.experiment_id}/runs/{self.run_id}"

    def start_stage(
        self, stage: str, *, identity: Mapping[str, Json], inputs: Mapping[str, Path], command: Sequence[str]
    ) -> str | None:
        """A nested run named `stage` is open; returns its id.

        `identity` is the planned one: its slice of the recipe becomes the parameters, its files and inputs the
        datasets, with their digests. `inputs` says where the outputs of earlier stages stand.
        """
        run_id = None
        with self._recording(f"the start of {stage}"):
            tags = {
                "mlflow.parentRunId": self.run_id,
                "gptmill.stage": stage,
                "gptmill.recipe": self.recipe.name,
                "gptmill.fingerprint": fingerprint(dict(identity)),
                "gptmill.command": cut_tag(shlex.join(command)),
            }
            run_id = self.store.start_run(self.experiment_id, stage, tags)
            self.open_stages[run_id] = stage
            decisions = identity.get("recipe")
            self.store.log_parameters(run_id, flatten_parameters(decisions if isinstance(decisions, dict) else {}))
            self.store.log_datasets(run_id, datasets_of(identity, inputs))
        return run_id

    def environment(self, run_id: str | None) -> dict[str, str]:
        """What a job's environment needs so that its metrics and its model reach the stage's run."""
        return {RUN_ID: run_id, TRACKING_URI: self.store.uri} if run_id else {}

    def finish_stage(self, run_id: str | None, artifact: Artifact) -> None:
        """The stage's run holds the manifest's counts and figures, its small files and plots, and has succeeded."""
        if run_id is None:
            return
        manifest = artifact.manifest
        with self._recording(f"the end of {manifest.stage}"):
            self.store.log_metrics(run_id, metrics_of(artifact), step=manifest.counts.get("steps", 0))
            self.store.tag(run_id, {"gptmill.output": str(artifact.root)})
            for path in small_files_of(artifact):
                self.store.log_file(run_id, path)
            self._log_plots(run_id, artifact)
            self._name_output(manifest.stage, manifest.fingerprint, run_id)
        self._end_stage(run_id, "FINISHED")

    def fail_stage(self, run_id: str | None, message: str, *, log: Path | None = None) -> None:
        """The stage's run holds the message (and the log file) and has failed."""
        if run_id is None:
            return
        with self._recording(f"the failure of {self.open_stages.get(run_id, 'a stage')}"):
            self.store.tag(run_id, {"gptmill.error": cut_tag(message)})
            if log is not None and log.exists():
                self.store.log_file(run_id, log)
        self._end_stage(run_id, "FAILED")

    def skip_stage(self, stage: str, artifact: Artifact) -> None:
        """The pipeline's run names the output that was there already, and the run that made it where it is known."""
        with self._recording(f"that {stage} was whole already"):
            digest = artifact.manifest.fingerprint
            maker = self.store.find_run(self.experiment_id, tag="gptmill.fingerprint", value=digest)
            self._name_output(stage, digest, maker)

    def finish(self, status: Status, *, report: Path | None = None, metrics: Mapping[str, float] | None = None) -> None:
        """The pipeline's run holds the report and the headline metrics and has ended; open stages end with it."""
        for run_id in list(self.open_stages):
            self._end_stage(run_id, status)
        with self._recording("the result of the pipeline"):
            self.store.log_metrics(self.run_id, metrics or {}, step=0)
            if report is not None:
                self.store.log_file(self.run_id, report)
        with self._recording("the end of the pipeline"):
            self.store.end_run(self.run_id, status)

    @contextmanager
    def _recording(self, what: str) -> Iterator[None]:
        with _recording(what), nullcontext() if self.patient else environment(IMPATIENCE):
            self.patient = False
            yield
            self.patient = True

    def _end_stage(self, run_id: str, status: Status) -> None:
        stage = self.open_stages.pop(run_id, "a stage")
        with self._recording(f"the status of {stage}"):
            self.store.end_run(run_id, status)

    def _name_output(self, stage: str, digest: str, run_id: str | None) -> None:
        maker = {f"gptmill.{stage}.run_id": run_id} if run_id else {}
        self.store.tag(self.run_id, {f"gptmill.{stage}.fingerprint": digest, **maker})

    def _log_plots(self, run_id: str, artifact: Artifact) -> None:
        from jobs.plots import plots_of  # matplotlib loads only where something is drawn

        for name, figure in plots_of(artifact).items():
            self.store.log_figure(run_id, figure, name)


# -------------------------------------------------------------------------------------------- called by jobs


def metric_logger(recipe: Recipe) -> MetricSink:
    """Sends a training loop's figures to the stage's run, from another thread; the loop never waits for it.

    Does nothing without GPTMILL_MLFLOW_RUN_ID, and on every rank but 0. Call `close()` at the end.
    """
    run_id = _watched_run()
    if run_id is None:
        return _NoMetrics()
    stores: list[Store] = []

    def send(points: list[Point]) -> None:
        if not stores:
            stores.append(_open_store(recipe))  # on the queue's thread: the import delays no step
        stores[0].log_points(run_id, points)

    return MetricQueue(send)


def register_classifier(recipe: Recipe, folder: Path, example_texts: Sequence[str]) -> str | None:
    """The classifier in `folder` (Hugging Face layout with tokenizer.json) is a version of the registered model.

    The version carries `tracking.alias`. Returns its number, or None: without GPTMILL_MLFLOW_RUN_ID, on every rank
    but 0, and where the store failed, which is warned of.
    """
    run_id = _watched_run()
    version = None
    if run_id is not None:
        assert recipe.finetune is not None
        with _recording(f"the classifier in {folder}"):
            version = _open_store(recipe).register_classifier(
                folder,
                run_id=run_id,
                name=registered_model(recipe),
                alias=recipe.tracking.alias,
                tags={"gptmill.recipe": recipe.name, "gptmill.output": str(folder.parent)},
                max_tokens=recipe.finetune.max_tokens or recipe.model.context_length,
                example_texts=example_texts,
            )
    return version


def registered_model(recipe: Recipe) -> str:
    """The name in the model registry that the recipe's classifier gets."""
    return recipe.tracking.registered_model or f"{recipe.name}-classifier"


class _NoMetrics:
    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        """Nobody watches."""

    def close(self) -> None:
        """Nothing to do."""


def _watched_run() -> str | None:
    return os.environ.get(RUN_ID) if os.environ.get("RANK", "0") == "0" else None


# ------------------------------------------------------------------------------------------ opening and errors


def _open_store(recipe: Recipe) -> "Store":
    """The recipe's store; where that is the workspace's own, its folder stands."""
    from jobs.mlflow_store import Store

    uri = tracking_uri(recipe)
    if uri == _workspace_uri(recipe):
        Path(recipe.workspace).mkdir(parents=True, exist_ok=True)
    return Store(uri)


def _workspace_uri(recipe: Recipe) -> str:
    return f"sqlite:///{Path(recipe.workspace).absolute() / 'mlflow.db'}"


def _experiment_id(recipe: Recipe, store: "Store") -> str:
    ours = store.uri == _workspace_uri(recipe)
    location = (Path(recipe.workspace).absolute() / "mlartifacts").as_uri() if ours else None
    return store.experiment_id(recipe.tracking.experiment, artifact_location=location)


@contextmanager
def _recording(what: str) -> Iterator[None]:
    """What fails inside costs this record and is warned of. Artifact stores raise errors of many trees."""
    try:
        yield
    except Exception as error:
        logger.warning("MLflow: %s was not recorded: %s", what, reason_of(error))


@contextmanager
def _worded(recipe: Recipe) -> Iterator[None]:
    """Any failure inside becomes a SetupError that names the store, what it answered and the way out."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        given = TRACKING_URI if os.environ.get(TRACKING_URI) else "workspace"
        raise SetupError(
            f"{given if recipe.tracking.uri is None else 'tracking.uri'}: MLflow's store {tracking_uri(recipe)} cannot "
            f"be used: {reason_of(error)}; start it, correct tracking.uri, or leave tracking.uri and {TRACKING_URI} "
            "out to record in the workspace"
        ) from error
