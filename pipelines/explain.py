"""Why a stage is whole or must be made: what differs from the last result, in its own fields and through its inputs.

An identity (pipelines/plan.py) names its inputs by fingerprint alone. Which field made an input another one is found by
comparing the manifest that stood for it with what the plan has in its place, and so on upstream.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from gpt_core.artifact import Manifest, read_manifest
from gpt_core.errors import ArtifactError
from gpt_core.fingerprint import SHORT, Json
from gpt_core.recipe import Recipe
from pipelines.changes import Change, changes, file_changes
from pipelines.plan import PlannedStage, find_stage, last_output

Why = Literal["whole", "damaged", "never made", "gone", "differs"]


@dataclass(frozen=True)
class Difference:
    """A change of `stage`, which the explained stage reads through the inputs `through`; none for its own."""

    stage: str
    through: tuple[str, ...]
    change: Change

    def __str__(self) -> str:
        owner = f"input {self.through[0]}: " if self.through else ""
        of = f" of {self.stage}" if self.through and self.stage != self.through[0] else ""
        values = f"{json.dumps(self.change.old)} -> {json.dumps(self.change.new)}"
        return f"{owner}{self.change.path}{of}: {values}"


@dataclass(frozen=True)
class Explanation:
    """Why a stage is whole or must run. `last` is the result that it is compared with, in `root`."""

    stage: str
    why: Why
    told: str
    last: Manifest | None = None
    root: Path | None = None
    differences: list[Difference] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{self.stage:<10} {self.told}"]
        if self.last is not None:
            lines.append(f"{'':<10} {self.root}, made {self.last.created_at} on {self.last.host}")
        return "\n".join([*lines, *(f"{'':<10} {difference}" for difference in self.differences)])


def explain_stage(name: str, plan: Sequence[PlannedStage], recipe: Recipe) -> Explanation:
    """Why the stage is whole, or what of it differs from this recipe's last result. Raises RecipeError."""
    planned = find_stage(plan, name, origin="--explain")
    if planned.artifact is not None:
        manifest = planned.artifact.manifest
        told = f"whole: nothing differs from what recipe {manifest.recipe_name} made"
        return Explanation(name, "whole", told, manifest, planned.output)
    root = last_output(recipe, name)
    if root is None:
        return Explanation(name, "never made", f"never made: recipe {recipe.name} has no result of it yet")
    try:
        last = read_manifest(root)
    except ArtifactError as error:
        return Explanation(name, "damaged", f"damaged: {error}", root=root)
    if last is None:
        return Explanation(name, "gone", f"gone: recipe {recipe.name} made {root}, which is no more", root=root)
    once: dict[object, Difference] = {}
    stages = {each.stage.name: each for each in plan}
    for each in _differences(planned, last, stages, Path(recipe.workspace), ()):
        once.setdefault((each.through[:1], each.stage, each.change.path), each)
    if not once:
        return Explanation(name, "damaged", planned.why, last, root)
    told = f"must run: {len(once)} difference(s) from the last result of recipe {recipe.name}"
    return Explanation(name, "differs", told, last, root, list(once.values()))


def explanation_json(found: Explanation) -> dict[str, Json]:
    """The same for programs."""
    made: dict[str, Json] | None = None
    if found.last is not None:
        last = found.last
        made = {
            "output": str(found.root),
            "recipe": last.recipe_name,
            "created_at": last.created_at,
            "host": last.host,
            "fingerprint": last.fingerprint,
        }
    differences: list[Json] = [
        {
            "stage": each.stage,
            "through": list(each.through),
            "section": each.change.section,
            "field": each.change.path,
            "old": each.change.old,
            "new": each.change.new,
        }
        for each in found.differences
    ]
    return {"stage": found.stage, "why": found.why, "told": found.told, "last": made, "differences": differences}


def _differences(
    planned: PlannedStage,
    last: Manifest,
    stages: Mapping[str, PlannedStage],
    workspace: Path,
    through: tuple[str, ...],
) -> Iterator[Difference]:
    """What differs in the stage, then in what it reads, from the result `last`."""
    name = planned.stage.name
    for change in changes(last.identity, planned.identity):
        if change.section == "files":
            yield from (Difference(name, through, each) for each in file_changes(change))
        elif change.section != "inputs":
            path = change.path or change.section
            yield Difference(name, through, Change(change.section, path, change.old, change.new))
        else:
            former = _former(change, last, workspace)
            inner = (*through, change.path)
            if former is not None and change.path in stages:
                yield from _differences(stages[change.path], former, stages, workspace, inner)
            else:
                old, new = (value and str(value)[:SHORT] for value in (change.old, change.new))
                gone = " (what made the former is gone)" if old and new else ""
                yield Difference(change.path, inner, Change("inputs", f"fingerprint{gone}", old, new))


def _former(change: Change, last: Manifest, workspace: Path) -> Manifest | None:
    """The manifest of the input that the last result was made of, where it is still there."""
    if change.old is None:
        return None
    digest = str(change.old)
    for root in (Path(last.inputs.get(change.path, "")), workspace / change.path / digest[:SHORT]):
        try:
            manifest = read_manifest(root)
        except (ArtifactError, OSError):
            continue
        if manifest is not None and manifest.fingerprint == digest:
            return manifest
    return None
