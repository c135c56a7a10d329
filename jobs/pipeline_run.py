"""What the runner tells MLflow: who ran what, on which inputs, with what result.

A pipeline run is one MLflow run, with a run nested below it for each stage that ran. Lineage: a stage's run has
the raw files and earlier outputs it read as datasets with their digests, and the fingerprint of what it makes as
a tag; the pipeline's run names every output and the run that made it.

The runner calls `check_tracking` (jobs/tracking_check.py), then `open_pipeline_run`. Once a run is open, a store that
goes away costs a warning each time, never the pipeline. What it missed of whole stages, every point of their metrics
in, is recorded when the pipeline ends; where it is still away then, `unrecorded.json` beside the recipe's links says
so, and the next `gptmill run` of the recipe calls `record_late`.
"""

import json
import logging
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from gpt_core.artifact import Artifact, open_artifact, write_json
from gpt_core.errors import UserError
from gpt_core.fingerprint import Json, fingerprint
from gpt_core.recipe import Recipe
from gpt_core.store_uri import without_secrets
from jobs.environment import environment
from jobs.job import IDENTITY, RECIPE
from jobs.run_note import NOTE, How, StageNote, pipeline_note
from jobs.run_records import (
    cut_tag,
    datasets_of,
    flatten_parameters,
    is_cut,
    metrics_of,
    points_of,
    small_files_of,
)
from jobs.tracking import (
    IMPATIENCE,
    OF_JOBS,
    PARENT_RUN_ID,
    RUN_ID,
    SERVERS,
    TRACKING_URI,
    find_experiment,
    open_store,
    recording,
    remember_store,
    tracking_uri,
)
from jobs.tracking_check import worded

if TYPE_CHECKING:
    from jobs.mlflow_store import Store

Status = Literal["FINISHED", "FAILED", "KILLED"]

logger = logging.getLogger("gptmill")


def open_pipeline_run(
    recipe: Recipe, *, command: Sequence[str] = (), unrecorded: Path | None = None, run_id: str | None = None
) -> "PipelineRun":
    """A run of the whole pipeline is open, with the recipe as parameters and as recipe.json.

    It is `run_id`, else the run that MLFLOW_RUN_ID names (`mlflow run` sets it), else a new one named `recipe.name` in
    `tracking.experiment`. What the store misses is noted in the file `unrecorded`. Raises UserError if the store cannot
    be used (see check_tracking) or has no such run.
    """
    tree: dict[str, Json] = recipe.model_dump(mode="json")
    with worded(recipe):
        store = open_store(recipe)
        run_id, experiment_id = open_run(recipe, store, run_id, name=recipe.name)
        with ending_on_failure(store, run_id):
            store.tag(run_id, {"gptmill.recipe": recipe.name, "gptmill.command": cut_tag(shlex.join(command))})
            remember_store(recipe)
            log_new_parameters(store, run_id, flatten_parameters(tree, whole=RECIPE))
            store.log_json(run_id, tree, RECIPE)
    return PipelineRun(recipe, store, run_id, experiment_id, unrecorded)


def open_run(recipe: Recipe, store: "Store", run_id: str | None, *, name: str) -> tuple[str, str]:
    """(id, experiment) of the run `run_id`, else of MLFLOW_RUN_ID's, else of a new one: it counts as running."""
    run_id = run_id or os.environ.get(PARENT_RUN_ID)
    if not run_id:
        experiment_id = find_experiment(recipe, store)
        return store.start_run(experiment_id, name, {}), experiment_id
    found = store.experiment_of(run_id)
    if found is None:
        raise UserError(
            f"{PARENT_RUN_ID}: {store.uri} has no run {run_id}; unset {PARENT_RUN_ID}, or let `mlflow run` "
            f"record there: {TRACKING_URI}={store.uri}"
        )
    store.continue_run(run_id)
    return run_id, found


@contextmanager
def ending_on_failure(store: "Store", run_id: str) -> Iterator[None]:
    """A run whose beginning cannot be recorded has failed."""
    try:
        yield
    except Exception:
        with recording("the end of the run"):
            store.end_run(run_id, "FAILED")
        raise


def log_new_parameters(store: "Store", run_id: str, parameters: Mapping[str, str]) -> None:
    """The run has the parameters; `mlflow run -P pretrain.tokens=...` has logged one as it was typed, and it stays."""
    present = store.parameters(run_id)
    store.log_parameters(run_id, {name: text for name, text in parameters.items() if name not in present})


def record_late(recipe: Recipe, unrecorded: Path) -> None:
    """What the store missed of the recipe's last run is recorded, if it was noted and the store answers now."""
    if not unrecorded.exists():
        return
    missed = json.loads(unrecorded.read_text(encoding="utf-8"))
    if missed["uri"] != without_secrets(tracking_uri(recipe)):  # another store cannot know the run
        return
    with recording("what the store missed of the last run"):
        with environment(IMPATIENCE):
            store = open_store(recipe)
        run = PipelineRun(recipe, store, missed["run_id"], missed["experiment_id"], unrecorded, patient=False)
        run.missed = [(run_id, Path(output)) for run_id, output in missed["stages"]]
        for stage, how, run_id, output in missed["notes"]:
            run.notes[stage] = StageNote(stage, how, run_id, open_artifact(Path(output)) if output else None)
        report = Path(missed["report"]) if missed["report"] else None
        run.finish(missed["status"], report=report, metrics=missed["metrics"])


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
    unrecorded: Path | None = None
    missed: list[tuple[str | None, Path]] = field(default_factory=list)  # run and output of whole stages
    open_stages: dict[str, str] = field(default_factory=dict)  # run id -> stage
    notes: dict[str, StageNote] = field(default_factory=dict)  # by stage
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
            parameters = flatten_parameters(decisions if isinstance(decisions, dict) else {}, whole=IDENTITY)
            self.store.log_parameters(run_id, parameters)
            if is_cut(parameters, whole=IDENTITY):
                self.store.log_json(run_id, identity, IDENTITY)
            self.store.log_datasets(run_id, datasets_of(identity, inputs))
        return run_id

    def environment(self, run_id: str | None) -> dict[str, str]:
        """What a job's environment needs so that its metrics and its model reach the stage's run."""
        own = {name: value for name, value in OF_JOBS.items() if name not in os.environ}
        return {RUN_ID: run_id, TRACKING_URI: self.store.uri, **own} if run_id else {}

    def finish_stage(self, run_id: str | None, artifact: Artifact) -> None:
        """The stage's run holds its figures, every step's that the job could not send, its small files and plots.

        It has succeeded. Where its start was not recorded, it is now, from the manifest.
        """
        if not self._finish_stage(run_id, artifact):
            self.missed.append((run_id, artifact.root))

    def _finish_stage(self, run_id: str | None, artifact: Artifact) -> bool:
        manifest = artifact.manifest
        if run_id is None:
            inputs = {name: Path(path) for name, path in manifest.inputs.items()}
            run_id = self.start_stage(
                manifest.stage, identity=manifest.identity, inputs=inputs, command=manifest.command
            )
        if run_id is None:
            return False
        with self._recording(f"the end of {manifest.stage}"):
            points = points_of(artifact)
            self.store.log_missing(run_id, points)
            series = {point.key for point in points}
            results = {name: value for name, value in metrics_of(artifact).items() if name not in series}
            self.store.log_metrics(run_id, results, step=manifest.counts.get("steps", 0))
            self.store.tag(run_id, {"gptmill.output": str(artifact.root)})
            for path in small_files_of(artifact):
                self.store.log_file(run_id, path)
            self._log_plots(run_id, artifact)
            self._name_output("made", run_id, artifact)
        recorded = self.patient
        self._end_stage(run_id, "FINISHED")
        return recorded and self.patient

    def fail_stage(self, run_id: str | None, message: str, *, log: Path | None = None) -> None:
        """The stage's run holds the message (and the log file) and has failed."""
        if run_id is None:
            return
        with self._recording(f"the failure of {self.open_stages.get(run_id, 'a stage')}"):
            self.store.tag(run_id, {"gptmill.error": cut_tag(message)})
            self._note(StageNote(self.open_stages[run_id], "failed", run_id, None))
            if log is not None and log.exists():
                self.store.log_file(run_id, log)
        self._end_stage(run_id, "FAILED")

    def skip_stage(self, stage: str, artifact: Artifact) -> None:
        """The pipeline's run names the output that was there already, and the run that made it where it is known."""
        with self._recording(f"that {stage} was whole already"):
            digest = artifact.manifest.fingerprint
            maker = self.store.find_run(self.experiment_id, tag="gptmill.fingerprint", value=digest)
            self._name_output("was there", maker, artifact)

    def finish(self, status: Status, *, report: Path | None = None, metrics: Mapping[str, float] | None = None) -> None:
        """The pipeline's run holds the report and the headline metrics and has ended; open stages end with it.

        What the store missed before is recorded now, or noted in `unrecorded`.
        """
        for run_id in list(self.open_stages):
            self._end_stage(run_id, status)
        missed = [(run_id, output, open_artifact(output)) for run_id, output in self.missed]
        self.missed = [(r, output) for r, output, made in missed if made and not self._finish_stage(r, made)]
        with self._recording("the result of the pipeline"):
            self.store.log_metrics(self.run_id, metrics or {}, step=0)
            if report is not None:
                self.store.log_file(self.run_id, report)
        with self._recording("the end of the pipeline"):
            self.store.end_run(self.run_id, status)
        if self.unrecorded is None:
            return
        if self.patient and not self.missed:
            self.unrecorded.unlink(missing_ok=True)
            return
        write_json(
            self.unrecorded,
            {
                "uri": without_secrets(self.store.uri),
                "run_id": self.run_id,
                "experiment_id": self.experiment_id,
                "status": status,
                "metrics": dict(metrics or {}),
                "report": str(report) if report else None,
                "stages": [[run_id, str(output)] for run_id, output in self.missed],
                "notes": [
                    [note.stage, note.how, note.run_id, str(note.output.root) if note.output else None]
                    for note in self.notes.values()
                ],
            },
        )
        logger.warning("MLflow: %s names what was not recorded; the next `gptmill run` sends it", self.unrecorded)

    @contextmanager
    def _recording(self, what: str) -> Iterator[None]:
        with recording(what), nullcontext() if self.patient else environment(IMPATIENCE):
            self.patient = False
            yield
            self.patient = True

    def _end_stage(self, run_id: str, status: Status) -> None:
        stage = self.open_stages.pop(run_id, "a stage")
        with self._recording(f"the status of {stage}"):
            self.store.end_run(run_id, status)

    def _name_output(self, how: How, run_id: str | None, artifact: Artifact) -> None:
        stage = artifact.manifest.stage
        maker = {f"gptmill.{stage}.run_id": run_id} if run_id else {}
        self.store.tag(self.run_id, {f"gptmill.{stage}.fingerprint": artifact.manifest.fingerprint, **maker})
        self._note(StageNote(stage, how, run_id, artifact))

    def _note(self, told: StageNote) -> None:
        """The pipeline's page tells what became of the stage, in a table of all so far."""
        self.notes[told.stage] = told
        note = pipeline_note(list(self.notes.values()), experiment_id=self.experiment_id)
        self.store.tag(self.run_id, {NOTE: note})

    def _log_plots(self, run_id: str, artifact: Artifact) -> None:
        from jobs.plots import plots_of  # matplotlib loads only where something is drawn

        for name, figure in plots_of(artifact).items():
            self.store.log_figure(run_id, figure, name)
