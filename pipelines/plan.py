"""What a run would do: each stage's output folder, whether it runs and why, and the command that makes it.

A stage's fingerprint is taken of its slice of the recipe, its revision, the bytes of the raw files it reads, and
the fingerprints of the stages it reads. It is therefore known before anything has run, and all paths with it.
No engine is imported here.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gpt_core.artifact import Artifact, open_artifact, write_atomically
from gpt_core.data.remote import folders_elsewhere
from gpt_core.errors import ArtifactError, InputError, RecipeError
from gpt_core.fingerprint import SHORT, Json, file_sha256, fingerprint
from gpt_core.recipe import Recipe
from jobs.launch.command import native_command, stop_command
from jobs.launch.spec import LaunchSpec
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
            stop_command=stop_command(spec, recipe.cluster),
            artifact=artifact,
            action=action,
            why=why,
        )
    digests.save()
    return list(placed.values())


def describe_changes(old: Json, new: Json) -> list[str]:
    """One phrase for each leaf in which two identities differ, named as the recipe names it."""
    before, after = dict(_leaves(old)), dict(_leaves(new))
    phrases = []
    for path in sorted(before.keys() | after.keys()):
        if before.get(path) == after.get(path):
            continue
        section, _, rest = path.partition(".")
        if section == "recipe":
            phrases.append(f"{rest}: {json.dumps(before.get(path))} -> {json.dumps(after.get(path))}")
        elif section == "inputs":
            phrases.append(f"{rest.split('.')[0]} is another")
        elif section == "files":
            phrases.append(f"the {rest.split('.')[0]} files are others")
        else:
            phrases.append(f"the stage's {section} is another")
    return list(dict.fromkeys(phrases))


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
    try:
        previous = open_artifact(Path(recipe.workspace) / RUNS / recipe.name / stage.name)
    except ArtifactError:
        previous = None
    if previous is None:
        return "never made"
    return "; ".join(describe_changes(dict(previous.manifest.identity), dict(identity))) or "the output is gone"


def _leaves(value: Json, path: str = "") -> Iterator[tuple[str, Json]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else key)
    else:
        yield path, value


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
