"""What a sweep tells MLflow: one run for the sweep, nested below it a pipeline's run for each combination.

A combination's run carries the sweep's id as the tag `gptmill.sweep`. Once the sweep's run is open, a store that goes
away costs a warning each time, never the sweep.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpt_core.recipe import Recipe
from jobs.pipeline_run import Status, ending_on_failure, log_new_parameters, open_run
from jobs.run_note import NOTE, MemberNote, sweep_note
from jobs.run_records import cut_parameter, cut_tag, store_name
from jobs.tracking import open_store, recording
from jobs.tracking_check import worded

if TYPE_CHECKING:
    from jobs.mlflow_store import Store

GRID = "grid.json"


def open_sweep_run(recipe: Recipe, grid: Mapping[str, Sequence[str]], *, command: Sequence[str]) -> "SweepRun":
    """The run of a sweep over `grid` (field -> its values) is open, with the grid as parameters.

    It is the run that MLFLOW_RUN_ID names, else a new one. Raises UserError if the store cannot be used.
    """
    with worded(recipe):
        store = open_store(recipe)
        run_id, experiment_id = open_run(recipe, store, None, name=f"{recipe.name} sweep")
        tags = {"gptmill.recipe": recipe.name, "gptmill.sweep": run_id, "gptmill.command": cut_tag(shlex.join(command))}
        with ending_on_failure(store, run_id):
            store.tag(run_id, tags)
            listed = {store_name(name): cut_parameter(", ".join(values), whole=GRID) for name, values in grid.items()}
            log_new_parameters(store, run_id, listed)
            store.log_json(run_id, {name: list(values) for name, values in grid.items()}, GRID)
    return SweepRun(store, run_id, experiment_id, recipe.name)


@dataclass
class SweepRun:
    """One sweep in MLflow. No method raises: what cannot be recorded is warned of."""

    store: "Store"
    run_id: str
    experiment_id: str
    name: str  # the recipe's

    def start_member(self, label: str) -> str | None:
        """A run for a combination is open below the sweep's; its id, or None where that failed."""
        name = f"{self.name} {label}"
        with recording(f"the start of {name}"):
            tags = {"mlflow.parentRunId": self.run_id, "gptmill.sweep": self.run_id}
            return self.store.start_run(self.experiment_id, name, tags)
        return None

    def end_member(self, run_id: str | None, status: Status, message: str) -> None:
        """The combination's run has ended early and says why."""
        if run_id is not None:
            with recording("why a combination ended"):
                self.store.tag(run_id, {"gptmill.error": cut_tag(message)})
                self.store.end_run(run_id, status)

    def tell(self, fields: Sequence[str], members: Sequence[MemberNote], *, judged_by: str) -> None:
        """The sweep's page shows the runs so far with their values and figures."""
        with recording("the table of the sweep"):
            note = sweep_note(fields, members, judged_by=judged_by, experiment_id=self.experiment_id)
            self.store.tag(self.run_id, {NOTE: note})

    def finish(self, status: Status, best: MemberNote | None = None) -> None:
        """The sweep's run has ended; it names the best run and has its figures as its own."""
        if best is not None:
            with recording("the best of the sweep"):
                self.store.tag(self.run_id, {"gptmill.best": best.name, "gptmill.best.run_id": best.run_id or ""})
                self.store.log_metrics(self.run_id, best.figures, step=0)
        with recording("the end of the sweep"):
            self.store.end_run(self.run_id, status)
