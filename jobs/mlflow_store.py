"""MLflow as gptmill uses it: one store, explicit run ids, no active run. The only mlflow import beside the served
models'; jobs/tracking.py and jobs/registry.py, which callers know, import it only where a run is tracked (mlflow takes
two seconds).
"""

import contextlib
import json
import logging
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import requests
from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.db.db_types import DATABASE_ENGINES, SQLITE
from mlflow.store.db.utils import create_sqlalchemy_engine
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.tracking.context.registry import resolve_tags

import gpt_core
from gpt_core.errors import UserError
from gpt_core.store_uri import without_secrets
from jobs.environment import environment
from jobs.metric_queue import Point, RefusedError, reason_of
from jobs.run_records import (
    MAX_METRICS_A_BATCH,
    MAX_PARAMS_A_BATCH,
    DatasetRecord,
    RecordedRun,
    RegisteredVersion,
    batches,
)

if TYPE_CHECKING:
    from jobs.served_models import ServedModel

GONE = "RESOURCE_DOES_NOT_EXIST"
HOPELESS = frozenset(  # answers that another try would not change
    {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", GONE, "PERMISSION_DENIED", "UNAUTHENTICATED"}
)
SYSTEM = "system/"  # before the names of a machine's figures
CHATTY = {  # below these levels they tell of each migration, of each try, and of errors that are raised and worded here
    "alembic": logging.WARNING,
    "mlflow.store.db.utils": logging.CRITICAL,
    "urllib3.connectionpool": logging.ERROR,
}
SILENCE = {"MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}  # of two lines for each run that ends
PROBE = "gptmill.probe"  # what is written and deleted to see whether it can be


def http_status(error: Exception) -> int | None:
    """The status of a server's refusal, as MLflow's clients of runs and of artifacts tell it; None for other errors."""
    if isinstance(error, MlflowException):
        return int(error.get_http_status_code())  # type: ignore[no-untyped-call]
    response = error.response if isinstance(error, requests.HTTPError) else None
    return response.status_code if response is not None else None


def _reach_database(uri: str) -> None:
    """Where `uri` is a database's, it lets us in: asked once, where MLflow's client would try for two minutes."""
    dialect = uri.partition(":")[0].partition("+")[0]
    if dialect in DATABASE_ENGINES and dialect != SQLITE:
        engine = create_sqlalchemy_engine(uri)  # type: ignore[no-untyped-call]
        engine.connect().close()
        engine.dispose()


@contextlib.contextmanager
def _may_be_gone() -> Iterator[None]:
    """Another one who tries the same may have deleted it."""
    try:
        yield
    except MlflowException as error:
        if error.error_code != GONE:
            raise


def _version(found: ModelVersion) -> RegisteredVersion:
    return RegisteredVersion(
        name=str(found.name),
        version=str(found.version),
        aliases=tuple(found.aliases or ()),
        run_id=found.run_id or None,
        tags=dict(found.tags),
        created_ms=int(found.creation_timestamp),
        source=str(found.source or ""),
    )


class NodeMonitor:
    """CPU, memory, disk, network and GPUs of this machine, as MLflow measures, names and shows them."""

    def __init__(self, uri: str, *, node: str | None) -> None:
        logging.getLogger("mlflow.system_metrics").setLevel(logging.WARNING)
        self._prefix = f"{SYSTEM}{node}/" if node else SYSTEM
        # It could send, too, but ends for good where a server does not answer: here it never starts.
        self._monitor: Any = SystemMetricsMonitor("", tracking_uri=uri)  # type: ignore[no-untyped-call]
        self.seconds = float(self._monitor.sampling_interval)
        self.read()  # the first share of the CPU is of no time at all

    def read(self) -> dict[str, float]:
        """The figures since the last reading, by MLflow's names."""
        self._monitor.collect_metrics()
        figures = self._monitor.aggregate_metrics()
        for part in self._monitor.monitors:
            part.clear_metrics()
        return {self._prefix + name: float(value) for name, value in figures.items()}


class Store:
    """The tracking store and model registry at `uri`. Methods raise what MLflow raises, but where they say else."""

    def __init__(self, uri: str) -> None:
        for name, level in CHATTY.items():
            logging.getLogger(name).setLevel(level)
        _reach_database(uri)
        self.uri = uri
        self.client = MlflowClient(uri)

    def experiment_id(self, name: str, *, artifact_location: str | None) -> str:
        """The experiment `name`, made if it is not there. Raises UserError for one that was deleted."""
        experiment = self.client.get_experiment_by_name(name)
        if experiment is None:
            try:
                return self.client.create_experiment(name, artifact_location=artifact_location)
            except MlflowException:  # another runner was faster
                experiment = self.client.get_experiment_by_name(name)
                if experiment is None:
                    raise
        if experiment.lifecycle_stage == "deleted":
            restore = f"MLFLOW_TRACKING_URI={without_secrets(self.uri)} mlflow experiments restore -x"
            raise UserError(
                f"tracking.experiment: {name!r} was deleted; name another, or restore it with "
                f"{restore} {experiment.experiment_id}"
            )
        return str(experiment.experiment_id)

    def artifact_location(self, experiment_id: str) -> str:
        """Where the experiment's artifacts are kept."""
        return str(self.client.get_experiment(experiment_id).artifact_location)

    def try_runs(self, experiment_id: str) -> None:
        """The experiment can be written in. Nothing stays of the try."""
        self.client.set_experiment_tag(experiment_id, PROBE, "written and deleted")
        with _may_be_gone():
            self.client.delete_experiment_tag(experiment_id, PROBE)

    def try_artifacts(self, location: str) -> None:
        """Artifacts can be written to `location`. Nothing stays of the try where they can be deleted, too."""
        repository: Any = get_artifact_repository(location, tracking_uri=self.uri)
        with tempfile.TemporaryDirectory() as folder:
            probe = Path(folder) / PROBE
            probe.write_text("gptmill may write artifacts here\n", encoding="utf-8")
            repository.log_artifact(str(probe))
        with contextlib.suppress(Exception):  # EDIT allows no deletion, and to a run that matters nothing
            repository.delete_artifacts(PROBE)

    def try_registration(self, name: str) -> None:
        """Versions of the registered model `name` can be made, and it too if there is none. Nothing stays."""
        try:
            self.client.get_registered_model(name)
        except MlflowException as error:
            if error.error_code != GONE:
                raise
            self._try_new_model()
            return
        self.client.set_registered_model_tag(name, PROBE, "written and deleted")
        with _may_be_gone():
            self.client.delete_registered_model_tag(name, PROBE)

    def _try_new_model(self) -> None:
        """A server asks who we are before it looks at the name: one without a name is made for nobody."""
        try:
            self.client.create_registered_model("")
        except MlflowException as error:
            if error.error_code != "INVALID_PARAMETER_VALUE":
                raise

    def experiment_of(self, run_id: str) -> str | None:
        """The id of the experiment that holds the run; None for no such run."""
        try:
            return str(self.client.get_run(run_id).info.experiment_id)
        except MlflowException as error:
            if error.error_code in HOPELESS:
                return None
            raise

    def start_run(self, experiment_id: str, name: str, tags: Mapping[str, str]) -> str:
        """A new run, with user, commit and the like as MLflow finds them for its own; returns its id."""
        found = {**resolve_tags(), "mlflow.source.name": "gptmill", **tags}
        return str(self.client.create_run(experiment_id, run_name=name, tags=found).info.run_id)

    def continue_run(self, run_id: str) -> None:
        """The run counts as running (again)."""
        self.client.update_run(run_id, status="RUNNING")

    def end_run(self, run_id: str, status: str) -> None:
        """The run has ended with `status`."""
        with environment(SILENCE):
            self.client.set_terminated(run_id, status)

    def find_run(self, experiment_id: str, *, tag: str, value: str) -> str | None:
        """The latest successful run of the experiment with this tag."""
        wanted = f"tags.`{tag}` = '{value}' and attributes.status = 'FINISHED'"
        found = self.client.search_runs([experiment_id], wanted, max_results=1)
        return str(found[0].info.run_id) if found else None

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        """The run carries the tags."""
        for key, value in tags.items():
            self.client.set_tag(run_id, key, value)

    def parameters(self, run_id: str) -> dict[str, str]:
        """The parameters that the run has."""
        return dict(self.client.get_run(run_id).data.params)

    def log_parameters(self, run_id: str, parameters: Mapping[str, str]) -> None:
        """The run has the parameters: new ones, or with the value they had, for MLflow lets none change."""
        for batch in batches([Param(key, value) for key, value in parameters.items()], MAX_PARAMS_A_BATCH):
            self.client.log_batch(run_id, params=batch)

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], *, step: int) -> None:
        """The run has the metrics, each as one point at `step`."""
        now = int(time.time() * 1000)
        self.log_points(run_id, [Point(key, value, now, step) for key, value in metrics.items()])

    def log_points(self, run_id: str, points: Sequence[Point]) -> None:
        """The run has the points. Raises RefusedError for an answer that another try would not change."""
        metrics = [Metric(p.key, p.value, p.timestamp_ms, p.step) for p in points]
        try:
            for batch in batches(metrics, MAX_METRICS_A_BATCH):
                self.client.log_batch(run_id, metrics=batch)
        except MlflowException as error:
            if error.error_code in HOPELESS:
                raise RefusedError(reason_of(error)) from error
            raise

    def log_missing(self, run_id: str, points: Sequence[Point]) -> None:
        """The run has the points; a metric that has a value at a point's step keeps it. Raises as log_points."""
        steps = {key: self._steps_of(run_id, key) for key in {point.key for point in points}}
        self.log_points(run_id, [point for point in points if point.step not in steps[point.key]])

    def last_step(self, run_id: str) -> int:
        """The last step of any metric of the run's training; -1 for a run without."""
        keys = [key for key in self.client.get_run(run_id).data.metrics if not key.startswith(SYSTEM)]
        return max((step for key in keys for step in self._steps_of(run_id, key)), default=-1)

    def _steps_of(self, run_id: str, key: str) -> set[int]:
        return {metric.step for metric in self.client.get_metric_history(run_id, key)}

    def start_ms(self, run_id: str) -> int:
        """When the run began, in Unix milliseconds."""
        return int(self.client.get_run(run_id).info.start_time)

    def log_text(self, run_id: str, text: str, path: str) -> None:
        """The run has the text among its artifacts, as the file `path`."""
        self.client.log_text(run_id, text, path)

    def log_datasets(self, run_id: str, records: Sequence[DatasetRecord]) -> None:
        """The run has the records as inputs. A digest holds 36 characters, so a tag holds the whole SHA-256."""
        inputs = [
            DatasetInput(
                Dataset(item.name, item.digest, "local", json.dumps({"uri": item.location})),
                tags=[InputTag("mlflow.data.context", item.role), InputTag("gptmill.sha256", item.sha256)],
            )
            for item in records
        ]
        if inputs:
            self.client.log_inputs(run_id, datasets=inputs)

    def log_file(self, run_id: str, path: Path) -> None:
        """The run has the file among its artifacts."""
        self.client.log_artifact(run_id, str(path))

    def log_json(self, run_id: str, tree: Mapping[str, object], name: str) -> None:
        """The run has the tree among its artifacts, as the JSON file `name`."""
        self.client.log_dict(run_id, dict(tree), name)

    def log_figure(self, run_id: str, figure: Figure, name: str) -> None:
        """The run has the figure among its artifacts, as the PNG `plots/name.png`."""
        self.client.log_figure(run_id, figure, f"plots/{name}.png", save_kwargs={"dpi": 144})

    def version_tagged(self, name: str, tag: str, value: str) -> str | None:
        """The number of the latest version of `name` with this tag."""
        found = self.client.search_model_versions(f"name = '{name}' and tags.`{tag}` = '{value}'")
        return max((str(each.version) for each in found), key=int, default=None)

    def log_version(
        self, served: "ServedModel", run_id: str, name: str, tags: Mapping[str, str], metrics: Mapping[str, float]
    ) -> str:
        """The model is logged in the run as code, gpt_core beside it, and is a new version of `name`; returns its
        number. Nothing is pickled.
        """
        from jobs.served_models import requirements  # brings torch

        assert gpt_core.__file__ is not None
        # Model.log takes neither a client nor the run's experiment: without these the model lies in experiment 0.
        ambient = {"MLFLOW_TRACKING_URI": self.uri, "MLFLOW_EXPERIMENT_ID": self.experiment_of(run_id) or ""}
        with environment(ambient):
            info = Model.log(
                artifact_path=None,
                name=name,
                flavor=mlflow.pyfunc,
                run_id=run_id,
                tags=dict(tags),
                python_model=str(served.code),
                artifacts={served.artifact: str(served.folder)},
                code_paths=[str(Path(gpt_core.__file__).parent)],
                model_config=dict(served.config),
                signature=served.signature,
                input_example=served.example,
                pip_requirements=requirements(),
            )
            version = mlflow.register_model(info.model_uri, name, tags=dict(tags))
        now = int(time.time() * 1000)
        points = [Metric(key, value, now, 0, model_id=info.model_id) for key, value in metrics.items()]
        self.client.log_batch(run_id, metrics=points)
        return str(version.version)

    def tell_version(self, name: str, number: str, tags: Mapping[str, str], description: str) -> None:
        """The version has the tags and the description."""
        for key, value in tags.items():
            self.client.set_model_version_tag(name, number, key, value)
        self.client.update_model_version(name, number, description)

    def describe_model(self, name: str, description: str) -> None:
        """The registered model has the description."""
        self.client.update_registered_model(name, description)

    def point(self, name: str, alias: str, number: str) -> None:
        """The alias leads to the version."""
        self.client.set_registered_model_alias(name, alias, number)

    # ----------------------------------------------------------------------------- reading, for `gptmill lineage`

    def model_version(self, name: str, *, version: str | None, alias: str | None) -> RegisteredVersion | None:
        """The version of the registered model, by its number or its alias; None where there is none."""
        try:
            found = (
                self.client.get_model_version_by_alias(name, alias)
                if alias is not None
                else self.client.get_model_version(name, version or "")
            )
        except MlflowException as error:
            if error.error_code in HOPELESS:
                return None
            raise
        return _version(found)

    def registered_versions(self) -> list[RegisteredVersion]:
        """Every version of every model in the registry at this URI that this account may see; none has its aliases."""
        client, found, token = MlflowClient(self.uri, registry_uri=self.uri), [], None
        while True:
            page = client.search_model_versions(page_token=token)
            found += [_version(each) for each in page]
            token = page.token
            if not token:
                return found

    def version_folder(self, version: RegisteredVersion) -> Path:
        """A folder with the version's files: the store's own where that is a local disk, else a copy."""
        uri = self.client.get_model_version_download_uri(version.name, version.version)
        return Path(download_artifacts(uri, tracking_uri=self.uri))

    def runs_tagged(self, tag: str, value: str) -> list[RecordedRun]:
        """The successful runs of any experiment with this tag, the latest first."""
        experiments = [experiment.experiment_id for experiment in self.client.search_experiments()]
        wanted = f"tags.`{tag}` = '{value}' and attributes.status = 'FINISHED'"
        return [self._recorded(run) for run in self.client.search_runs(experiments, wanted)]

    def run_tags(self, run_id: str) -> dict[str, str]:
        """The tags of the run; none for a run that is gone."""
        try:
            return dict(self.client.get_run(run_id).data.tags)
        except MlflowException as error:
            if error.error_code in HOPELESS:
                return {}
            raise

    def recorded_run(self, run_id: str) -> RecordedRun:
        """What the store knows of the run."""
        return self._recorded(self.client.get_run(run_id))

    def artifact_text(self, run_id: str, path: str) -> str | None:
        """The run's artifact `path`; None where the run has none, or its file is gone."""
        try:
            with tempfile.TemporaryDirectory() as folder:
                return Path(self.client.download_artifacts(run_id, path, folder)).read_text(encoding="utf-8")
        except (MlflowException, OSError) as error:
            if isinstance(error, OSError) or error.error_code in HOPELESS:
                return None
            raise

    def _recorded(self, run: Run) -> RecordedRun:
        tags = dict(run.data.tags)
        records = []
        for item in run.inputs.dataset_inputs if run.inputs else ():
            marks = {tag.key: tag.value for tag in item.tags}
            role, sha256 = marks.get("mlflow.data.context", ""), marks.get("gptmill.sha256", item.dataset.digest)
            location = json.loads(item.dataset.source).get("uri", item.dataset.name)
            records.append(DatasetRecord(item.dataset.name, role, sha256, location))
        return RecordedRun(str(run.info.run_id), str(run.info.experiment_id), tags, tuple(records))
