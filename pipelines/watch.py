"""What MLflow learns of a run: one pipeline run, a nested run for each stage that runs, links to those that did not.

A run with nothing to do is not tracked, so that it costs no import of MLflow, unless `mlflow run` or a sweep asks.
"""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from gpt_core.artifact import Artifact
from gpt_core.errors import BusyError, PreemptedError
from gpt_core.recipe import Recipe
from jobs.job import LOG
from jobs.pipeline_run import PipelineRun, open_pipeline_run, record_late
from jobs.tracking import PARENT_RUN_ID
from jobs.tracking_check import check_tracking
from pipelines.plan import RUNS, PlannedStage

UNRECORDED = "unrecorded.json"  # what a tracking server that was away missed of the recipe's last run


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

    def skipped(self, planned: PlannedStage, artifact: Artifact) -> None:
        """The pipeline's run names the output that this run did not make."""
        if self.run is not None:
            self.run.skip_stage(planned.stage.name, artifact)

    def finished(self, report: Path | None, artifacts: Mapping[str, Artifact]) -> None:
        """The pipeline's run has succeeded and holds the report and the headline figures."""
        if self.run is not None:
            self.run.finish("FINISHED", report=report, metrics=headlines(artifacts))


def headlines(artifacts: Mapping[str, Artifact]) -> dict[str, float]:
    """What a pipeline's run is compared by: all that `evaluate` measured, and what picked the fine-tuned model's epoch.

    The latter are named `finetune_validation_...`; parts by source stand in the stage's own run alone.
    """
    evaluated, tuned = (
        artifacts[stage].manifest.figures if stage in artifacts else {} for stage in ("evaluate", "finetune")
    )
    figures = {name: value for name, value in evaluated.items() if "." not in name}
    return figures | {f"finetune_{name}": value for name, value in tuned.items() if name.startswith("validation_")}


@contextmanager
def watch_run(recipe: Recipe, *, needed: bool, run_id: str | None = None) -> Iterator[Watcher]:
    """A watcher for the run inside, which is MLflow's `run_id` or a new one; an error that leaves it ends it too.

    Raises UserError before anything starts where the tracking server cannot be used.
    """
    unrecorded = Path(recipe.workspace) / RUNS / recipe.name / UNRECORDED
    if not needed and run_id is None and PARENT_RUN_ID not in os.environ:
        record_late(recipe, unrecorded)
        yield Watcher(None)
        return
    check_tracking(recipe)
    record_late(recipe, unrecorded)
    run = open_pipeline_run(recipe, command=sys.orig_argv, unrecorded=unrecorded, run_id=run_id)
    try:
        yield Watcher(run)
    except (KeyboardInterrupt, SystemExit, PreemptedError, BusyError):
        run.finish("KILLED")
        raise
    except BaseException:
        run.finish("FAILED")
        raise
