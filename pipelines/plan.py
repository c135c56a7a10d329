"""What a run would do: each stage's output folder, whether it runs and why, and the command that makes it.

A stage's fingerprint is taken of its slice of the recipe, its revision, the bytes of the raw files it reads, and
the fingerprints of the stages it reads. It is therefore known before anything has run, and all paths with it.
No engine is imported here.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gpt_core.artifact import Artifact, open_artifact, write_atomically
from gpt_core.data.remote import folders_elsewhere
from gpt_core.errors import ArtifactError, InputError, RecipeError
from gpt_core.fingerprint import SHORT, Json, file_sha256, fingerprint
from gpt_core.recipe import Recipe
from jobs.launch.command import native_command, stop_command, target_of
from jobs.launch.spec import LaunchSpec, TargetName
from pipelines.changes import describe_changes
from pipelines.gpt import stages_of
from pipelines.stage import RawFile, Stage

RUNS = "runs"
PATHS = {  # fields that name a file or folder, beside the workspace and lists
    "tokenizer": ("path",),
    "pretrain": ("init_from",),
    "finetune": ("model", "train", "validation", "test"),
    "cluster": ("archive",),
    "cluster.train": ("shard_cache", "hostfile"),
}


@dataclass(frozen=True)
class PlannedStage:
    """One stage of a recipe, placed. `artifact` is its output where that is whole."""

    stage: Stage
    identity: dict[str, Json]
    output: Path
    inputs: dict[str, Path]
    command: list[str]
    target: TargetName | None  # the cluster that the command submits to; None: the job is a process here
    stop_command: list[str] | None  # of a job that outlives the command
    artifact: Artifact | None
    action: Literal["run", "skip", "left out"]
    why: str


def resolve_paths(recipe: Recipe) -> Recipe:
    """The recipe with every path absolute, so that a job may run from any folder."""
    tree = recipe.model_dump(mode="json")
    tree["workspace"] = str(_absolute(recipe.workspace, "workspace"))
    for index, entry in enumerate(tree["corpus"]["inputs"] if recipe.corpus is not None else ()):
        entry["path"] = str(_absolute(entry["path"], f"corpus.inputs.{index}.path"))
    files = enumerate(recipe.clean.decontaminate_files)
    tree["clean"]["decontaminate_files"] = [str(_absolute(p, f"clean.decontaminate_files.{i}")) for i, p in files]
    for section, fields in PATHS.items():
        *above, name = section.split(".")
        parent = tree[above[0]] if above else tree
        for field in fields if parent[name] is not None else ():
            if parent[name][field] is not None:
                parent[name][field] = str(_absolute(parent[name][field], f"{section}.{field}"))
    return Recipe.model_validate_json(json.dumps(tree))


def make_plan(recipe: Recipe, *, only: str | None = None, until: str | None = None) -> list[PlannedStage]:
    """Every stage of the resolved `recipe`, in order, with what `run` would do to it.

    Raises InputError for a raw file that cannot be read, RecipeError for a stage that the recipe does not have.
    """
    stages = stages_of(recipe)
    chosen = _choose(stages, only=only, until=until)
    workspace = Path(recipe.workspace)
    digests = _DigestCache(workspace / ".digests.json")
    placed: dict[str, PlannedStage] = {}
    for stage in stages:
        upstream = [placed[name] for name in stage.reads if name in placed]
        identity = _identity(stage, recipe, upstream, digests)
        output = workspace / stage.name / fingerprint(identity)[:SHORT]
        inputs = {planned.stage.name: planned.output for planned in upstream}
        artifact, damage = _look(output, elsewhere=folders_elsewhere(recipe, stage.name))
        action: Literal["run", "skip", "left out"] = "skip" if artifact else "run"
        why = f"made {artifact.manifest.created_at}" if artifact else damage or _why(recipe, stage, identity)
        if stage.name not in chosen:
            action, why = "left out", f"{why}; left out by --{'only' if only else 'until'}"
        spec = LaunchSpec(module=stage.module, engine=stage.engine, inputs=inputs, output=output)
        placed[stage.name] = PlannedStage(
            stage=stage,
            identity=identity,
            output=output,
            inputs=inputs,
            command=native_command(spec, recipe.cluster),
            target=target_of(spec, recipe.cluster),
            stop_command=stop_command(spec, recipe.cluster),
            artifact=artifact,
            action=action,
            why=why,
        )
    digests.save()
    return list(placed.values())


def find_stage(plan: Sequence[PlannedStage], name: str, *, origin: str) -> PlannedStage:
    """The stage of that name. Raises RecipeError where the recipe has none; `origin` is what named it."""
    for planned in plan:
        if planned.stage.name == name:
            return planned
    names = ", ".join(planned.stage.name for planned in plan)
    raise RecipeError([f"{name} is no stage of this recipe; it has {names}"], origin=origin)


def last_output(recipe: Recipe, stage: str) -> Path | None:
    """Where the recipe's last run left the stage's output, which may be gone by now; None where there was no run."""
    folder = Path(recipe.workspace) / RUNS / recipe.name
    link = folder / stage
    if link.is_symlink():
        return link.parent / link.readlink()
    try:
        named = json.loads((folder / "outputs.json").read_text(encoding="utf-8")).get(stage)
    except (OSError, ValueError):
        return None
    return Path(named) if named is not None else None


def _choose(stages: Sequence[Stage], *, only: str | None, until: str | None) -> set[str]:
    names = [stage.name for stage in stages]
    for option, name in (("--only", only), ("--until", until)):
        if name is not None and name not in names:
            raise RecipeError([f"{name} is no stage of this recipe; it has {', '.join(names)}"], origin=option)
    if only is not None:
        return {only}
    return set(names if until is None else names[: names.index(until) + 1])


def _identity(
    stage: Stage, recipe: Recipe, upstream: Sequence[PlannedStage], digests: "_DigestCache"
) -> dict[str, Json]:
    files: dict[str, Json] = {}
    for raw in stage.raw_files(recipe):
        entry: dict[str, Json] = {"name": raw.path.name, "sha256": digests.sha256(raw), **raw.facts}
        listed = files.setdefault(raw.role, [])
        assert isinstance(listed, list)
        listed.append(entry)
    return {
        "stage": stage.name,
        "revision": stage.revision,
        "recipe": dict(stage.decisions(recipe)),
        "files": files,
        "inputs": {planned.stage.name: fingerprint(planned.identity) for planned in upstream},
    }


def _look(output: Path, *, elsewhere: Sequence[str]) -> tuple[Artifact | None, str]:
    """The output if it is whole, or why what stands there cannot be used."""
    try:
        return open_artifact(output, elsewhere=elsewhere), ""
    except ArtifactError as error:
        return None, f"damaged: {error}"


def _why(recipe: Recipe, stage: Stage, identity: dict[str, Json]) -> str:
    """Why a stage without output must run: what differs from this recipe's last run of it."""
    root = last_output(recipe, stage.name)
    try:
        previous = open_artifact(root) if root is not None else None
    except ArtifactError:
        previous = None
    if previous is None:
        return "never made"
    return "; ".join(describe_changes(previous.manifest.identity, identity)) or "the output is gone"


def _absolute(path: str, field: str) -> Path:
    scheme, separator, _ = path.partition("://")
    if separator:
        raise RecipeError(
            [f"{field}: {path!r} is refused; {scheme}:// is not there yet, give a local path"], origin="recipe"
        )
    return Path(path).expanduser().absolute()


class _DigestCache:
    """SHA-256 of raw files, remembered by path, size and time of change, so that a plan reads no terabytes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.changed = False
        try:
            self.known: dict[str, list[Json]] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self.known = {}

    def sha256(self, raw: RawFile) -> str:
        try:
            status = raw.path.stat()
            facts: list[Json] = [status.st_size, status.st_mtime_ns]
            entry = self.known.get(str(raw.path))
            if entry is None or entry[:2] != facts:
                entry = self.known[str(raw.path)] = [*facts, file_sha256(raw.path)]
                self.changed = True
        except OSError as error:
            reason = (error.strerror or "unreadable").lower()
            raise InputError(f"{raw.field}: {raw.path}: {reason}; give the path of a file that can be read") from None
        return str(entry[2])

    def save(self) -> None:
        """Remember, where a workspace stands already; planning makes none."""
        if self.changed and self.path.parent.is_dir():
            write_atomically(self.path, json.dumps(self.known))
