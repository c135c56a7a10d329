"""A sweep: every combination of listed values as a pipeline run of its own, compared by a figure on validation data.

What two combinations have in common has one fingerprint and is made once. A combination that fails is told, and the
others go on. Test figures are shown, never chosen by.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from gpt_core.artifact import MANIFEST, Artifact
from gpt_core.errors import GptmillError, PreemptedError, RecipeError, StageError, UserError
from gpt_core.fingerprint import fingerprint
from gpt_core.recipe import Recipe
from gpt_core.store_uri import without_secrets
from jobs.environment import environment
from jobs.job import LOG
from jobs.registry import CANDIDATES_ONLY, register_models
from jobs.run_note import MemberNote
from jobs.sweep_run import SweepRun, open_sweep_run
from jobs.tracking import RUN_ID, page_command
from jobs.tracking_check import check_tracking
from pipelines.checks import check_before_start, prepare_workspace
from pipelines.grid import Combination
from pipelines.plan import PlannedStage, make_plan
from pipelines.runner import run_recipe

COUNTS = {"clean": "documents_kept", "dedup": "documents_kept", "shards": "train_tokens"}  # of the last stage


@dataclass(frozen=True)
class Judge:
    """The figure that combinations are compared by; with sign -1 less is better."""

    stage: str
    figure: str
    sign: Literal[1, -1]
    test: str | None  # of `evaluate`, to show beside it

    @property
    def words(self) -> str:
        """`validation accuracy of finetune, more is better`."""
        return f"{self.figure.replace('_', ' ')} of {self.stage}, {'more' if self.sign > 0 else 'less'} is better"


@dataclass
class Tried:
    """What became of a combination."""

    combination: Combination
    run_id: str | None = None
    error: str | None = None
    ran: list[str] = field(default_factory=list)
    artifacts: Mapping[str, Artifact] = field(default_factory=dict)

    def figure(self, stage: str, name: str) -> float | None:
        """A figure or a count of the stage's manifest; None where there is none."""
        artifact = self.artifacts.get(stage)
        if artifact is None:
            return None
        found = artifact.manifest.figures.get(name)
        return found if found is not None else artifact.manifest.counts.get(name)


@dataclass
class Sweep:
    """All combinations so far, and what they are judged by: None where no chosen stage measures on validation data."""

    judge: Judge | None
    last_stage: str
    run_id: str
    tracking_command: str  # opens MLflow's page
    tried: list[Tried] = field(default_factory=list)
    same_text: bool = True  # all are measured on the same validation data

    @property
    def best(self) -> Tried | None:
        """The combination with the best validation figure; the first of equals. None where all are equal."""
        judge = self.judge
        if judge is None:
            return None
        judged = [
            (value, tried) for tried in self.tried if (value := tried.figure(judge.stage, judge.figure)) is not None
        ]
        if len(judged) > 1 and len({value for value, _ in judged}) == 1:
            return None
        return max(judged, key=lambda pair: judge.sign * pair[0], default=(0.0, None))[1]

    def headlines(self, tried: Tried) -> dict[str, float]:
        """The validation figure, then the test figure, or else how much the last stage kept."""
        if self.judge is None:
            names = [(self.last_stage, COUNTS[self.last_stage])] if self.last_stage in COUNTS else []
        else:
            names = [(self.judge.stage, self.judge.figure)]
            names += [("evaluate", self.judge.test)] if self.judge.test is not None else []
        found = {name: tried.figure(stage, name) for stage, name in names}
        return {name: value for name, value in found.items() if value is not None}

    @property
    def judged_by(self) -> str:
        """What a reader must know of the comparison."""
        if self.judge is None:
            return "No chosen stage measures on validation data, so none is best."
        equal = " All are equal, so none is best." if self.best is None and len(self.tried) > 1 else ""
        differ = (
            "" if self.same_text else " Their validation data differ, so that the figures are not of the same thing."
        )
        return f"Judged by {self.judge.words}.{equal}{differ}"


def run_sweep(
    base: Recipe, combinations: Sequence[Combination], *, console: Console, only: str | None, until: str | None
) -> Sweep:
    """Every combination has run, or failed with its error told; all were checked before the first began.

    Raises UserError for what can be known before, PreemptedError where a SIGTERM stopped a training.
    """
    prepare_workspace(Path(base.workspace))
    plans = check_combinations(combinations, only=only, until=until)
    check_tracking(base)
    grid = {name: list(dict.fromkeys(c.values[name] for c in combinations)) for name in combinations[0].values}
    console.print(describe_work(plans), highlight=False, soft_wrap=True)
    run = open_sweep_run(base, grid, command=sys.orig_argv)
    judge, last = find_judge(base, plans[0])
    sweep = Sweep(judge, last, run.run_id, page_command(base), same_text=_same_validation(plans, judge))
    failed: dict[Path, str] = {}  # output -> the combination that could not make it
    try:
        for number, combination in enumerate(combinations, start=1):
            console.print(f"\n{number} of {len(combinations)}: {combination.label}", highlight=False, soft_wrap=True)
            with environment({CANDIDATES_ONLY: "1"}):
                sweep.tried.append(_try(combination, run, failed, console=console, only=only, until=until))
            run.tell(list(grid), _members(sweep), judged_by=sweep.judged_by)
    except BaseException as error:
        run.finish("KILLED" if isinstance(error, KeyboardInterrupt | SystemExit | PreemptedError) else "FAILED")
        raise
    if sweep.best is not None:
        _register(sweep.best)
    best = next((member for member in _members(sweep) if member.best), None)
    run.finish("FAILED" if any(tried.error for tried in sweep.tried) else "FINISHED", best)
    return sweep


def _try(
    combination: Combination,
    run: SweepRun,
    failed: dict[Path, str],
    *,
    console: Console,
    only: str | None,
    until: str | None,
) -> Tried:
    """What became of the combination, told. Raises PreemptedError alone."""
    recipe, since = combination.recipe, time.time()
    tried = Tried(combination, run_id=run.start_member(combination.label))
    waiting: list[PlannedStage] = []
    try:
        waiting += [p for p in make_plan(recipe, only=only, until=until) if p.action == "run"]
        for planned in waiting:  # it would fail here, too, and take its time
            if planned.output in failed:
                raise StageError(f"{planned.stage.name}: failed already, for {failed[planned.output]}")
        result = run_recipe(recipe, console=console, only=only, until=until, run_id=tried.run_id, wait=True)
        tried.ran, tried.artifacts = result.ran, result.artifacts
    except PreemptedError as error:
        run.end_member(tried.run_id, "KILLED", str(error))
        raise
    except GptmillError as error:
        tried.error = without_secrets(str(error))
        run.end_member(tried.run_id, "FAILED", tried.error)
        console.print(f"failed     {tried.error}", highlight=False, soft_wrap=True, markup=False)
        failed.update({planned.output: combination.label for planned in waiting if _failed(planned.output, since)})
    return tried


def _register(best: Tried) -> None:
    """The best combination's models are candidates, and champions where they are better than those."""
    made = best.artifacts
    if best.run_id is None or "evaluate" not in made:
        return
    folders = {stage: made[stage].root / "model" for stage in ("finetune", "pretrain") if stage in made}
    with environment({RUN_ID: best.run_id}):
        register_models(
            best.combination.recipe,
            task_folder=folders.get("finetune"),
            language_folder=folders.get("pretrain"),
            figures=made["evaluate"].manifest.figures,
        )


def _failed(output: Path, since: float) -> bool:
    """Whether a job for the output was started after `since`, in Unix seconds, and has not made it."""
    log = output / LOG
    return log.exists() and log.stat().st_mtime >= since and not (output / MANIFEST).exists()


def check_combinations(
    combinations: Sequence[Combination], *, only: str | None, until: str | None
) -> list[list[PlannedStage]]:
    """The plan of each combination, all of which could start now, and no two of which make the same.

    Raises UserError that names the combination.
    """
    plans: list[list[PlannedStage]] = []
    seen: dict[tuple[str, ...], str] = {}
    for combination in combinations:
        plan = make_plan(combination.recipe, only=only, until=until)
        try:
            check_before_start(combination.recipe, plan)
        except UserError as error:
            raise UserError(f"{combination.label}: {error}") from error
        outputs = tuple(fingerprint(planned.identity) for planned in plan if planned.action != "left out")
        if outputs in seen:
            raise RecipeError(
                [
                    f"{seen[outputs]} and {combination.label} make the same; "
                    f"sweep a field that the chosen stages ({', '.join(_chosen(plan))}) depend on"
                ],
                origin="--set",
            )
        seen[outputs] = combination.label
        plans.append(plan)
    return plans


def describe_work(plans: Sequence[Sequence[PlannedStage]]) -> str:
    """`4 combinations: clean 1, dedup 4 to make`: how many outputs of each stage are wanted and not there."""
    wanted: dict[str, set[Path]] = {}
    for planned in (planned for plan in plans for planned in plan if planned.action == "run"):
        wanted.setdefault(planned.stage.name, set()).add(planned.output)
    told = ", ".join(f"{stage} {len(outputs)}" for stage, outputs in wanted.items())
    return f"{len(plans)} combinations; outputs to make: {told or 'none'}"


def find_judge(recipe: Recipe, plan: Sequence[PlannedStage]) -> tuple[Judge | None, str]:
    """(the figure to compare by, or None; the last chosen stage). The headline of the task, else bits per byte."""
    names = [planned.stage.name for planned in plan]
    last = _chosen(plan)[-1]
    made = names[: names.index(last) + 1]
    if "finetune" in made and recipe.finetune is not None:
        from gpt_core.tasks.scores import headline  # numpy
        from gpt_core.tasks.spec import target_of

        name, sign = headline(target_of(recipe.finetune))
        test = f"test_{name}" if "evaluate" in made else None
        return Judge("finetune", f"validation_{name}", sign, test), last
    if "pretrain" in made:
        return Judge("pretrain", "validation_bits_per_byte", -1, None), last
    return None, last


def _chosen(plan: Sequence[PlannedStage]) -> list[str]:
    return [planned.stage.name for planned in plan if planned.action != "left out"]


def _same_validation(plans: Sequence[Sequence[PlannedStage]], judge: Judge | None) -> bool:
    """Whether every combination is measured on the same held-out text, or on the same labelled rows."""
    if judge is None:
        return True
    told = set()
    for plan in plans:
        identities: dict[str, Any] = {planned.stage.name: planned.identity for planned in plan}
        if judge.stage == "pretrain":
            told.add(fingerprint([identities["dedup"], identities["shards"]["recipe"]]))
        else:
            files, settings = identities["finetune"]["files"], identities["finetune"]["recipe"]["finetune"]
            drawn = [files["train"], settings["seed"], settings["validation_fraction"]]
            told.add(fingerprint(files.get("validation") or drawn))
    return len(told) == 1


def _members(sweep: Sweep) -> list[MemberNote]:
    best = sweep.best
    return [
        MemberNote(
            name=tried.combination.label,
            values=list(tried.combination.values.values()),
            run_id=tried.run_id,
            figures=sweep.headlines(tried),
            error=tried.error,
            best=tried is best,
        )
        for tried in sweep.tried
    ]
