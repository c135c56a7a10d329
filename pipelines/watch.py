"""What MLflow learns of a run: one pipeline run, a nested run for each stage that runs, links to those that did not.

A run with nothing to do is not tracked, so that it costs no import of MLflow, unless `mlflow run` asked for it.
"""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from gpt_core.artifact import Artifact
from gpt_core.recipe import Recipe
from jobs.job import LOG
from jobs.pipeline_run import PipelineRun, open_pipeline_run, record_late
from jobs.tracking import PARENT_RUN_ID
from jobs.tracking_check import check_tracking
from pipelines.plan import RUNS, PlannedStage

UNRECORDED = "unrecorded.json"  # what a tracking server that was away missed of the recipe's last run
HEADLINES = (
    "validation_loss",
    "validation_bits_per_byte",
    "test_accuracy",
    "scratch_test_accuracy",
    "majority_accuracy",
)


class Watcher:
    """Tells MLflow what happens to the stages; with no pipeline run it does nothing."""

    def __init__(self, run: PipelineRun | None) -> None:
        self.run = run
        self.run_ids: dict[str, str | None] = {}

    @property
    def page(self) -> str | None:
        """The address of the pipeline's run; None where a database holds it, or nothing ran."""
        return self.run.url if self.run is not None else None

    def started(self, planned: PlannedStage) -> dict[str, str]:
        """The stage's nested run is open. Returns what the job's environment needs to reach it."""
        if self.run is None:
            return {}
        name = planned.stage.name
        self.run_ids[name] = self.run.start_stage(
            name, identity=planned.identity, inputs=planned.inputs, command=planned.command
        )
        return self.run.environment(self.run_ids[name])

    def made(self, planned: PlannedStage, artifact: Artifact) -> None:
        """The stage's nested run has succeeded and holds its manifest, figures and plots."""
        if self.run is not None:
            self.run.finish_stage(self.run_ids[planned.stage.name], artifact)

    def failed(self, planned: PlannedStage, error: BaseException) -> None:
        """The stage's nested run has failed and holds the message and the log."""
        if self.run is not None:
            message = str(error) or type(error).__name__
            self.run.fail_stage(self.run_ids[planned.stage.name], message, log=planned.output / LOG)

    def skipped(self, planned: PlannedStage) -> None:
        """The pipeline's run names the output that stood there already."""
        if self.run is not None and planned.artifact is not None:
            self.run.skip_stage(planned.stage.name, planned.artifact)

    def finished(self, report: Path | None, artifacts: Mapping[str, Artifact]) -> None:
        """The pipeline's run has succeeded and holds the report and the headline figures."""
        if self.run is not None:
            figures = artifacts["evaluate"].manifest.figures if "evaluate" in artifacts else {}
            headlines = {name: figures[name] for name in HEADLINES if name in figures}
            self.run.finish("FINISHED", report=report, metrics=headlines)


@contextmanager
def watch_run(recipe: Recipe, *, needed: bool) -> Iterator[Watcher]:
    """A watcher for the run inside; an error that leaves it ends the pipeline's run too.

    Raises UserError before anything starts where the tracking server cannot be used.
    """
    unrecorded = Path(recipe.workspace) / RUNS / recipe.name / UNRECORDED
    if not needed and PARENT_RUN_ID not in os.environ:
        record_late(recipe, unrecorded)
        yield Watcher(None)
        return
    check_tracking(recipe)
    record_late(recipe, unrecorded)
    run = open_pipeline_run(recipe, command=sys.orig_argv, unrecorded=unrecorded)
    try:
        yield Watcher(run)
    except (KeyboardInterrupt, SystemExit):
        run.finish("KILLED")
        raise
    except BaseException:
        run.finish("FAILED")
        raise
