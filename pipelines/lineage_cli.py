"""`gptmill lineage`: where a model comes from, as a tree for people and as JSON for programs."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.tree import Tree

from gpt_core.errors import ArtifactError
from gpt_core.fingerprint import SHORT
from gpt_core.report import units
from gpt_core.report.recipe_text import recipe_yaml
from jobs.tracking import TRACKING_URI, tracking_uri
from pipelines.display import PIPED_WIDTH
from pipelines.lineage import MODELS, Lineage, Output, Places, trace
from pipelines.lineage_check import RawFileState, check_files, check_version
from pipelines.options import load

NAMED = (".safetensors", "tokenizer.json", ".arrow")  # what models and shards are
MOST_FILES = 6  # of an output's own that the tree names; the JSON has all
States = dict[str, list[RawFileState]]


def lineage(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="models:/NAME@ALIAS, models:/NAME/3, an output folder or runs/RECIPE/STAGE."
        ),
    ],
    recipe: Annotated[
        Path | None,
        typer.Option(metavar="RECIPE", help="Whose workspace, tracking store and raw files to look at."),
    ] = None,
    workspace: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Of the outputs and, without a server, of MLflow's store.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every file: exit 3 unless all is as it was when the model was made.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show what a model was made of: weights, shards, tokenizer, every raw file, recipe, commit and versions."""
    given = load(recipe, None) if recipe is not None else None
    folder = workspace or (Path(given.workspace) if given else _workspace_of(model))
    uri = tracking_uri(given) if given else os.environ.get(TRACKING_URI) or f"sqlite:///{folder.absolute()}/mlflow.db"
    places = Places([folder.absolute()], uri)
    found = trace(model, places)
    states = check_files(found, recipe=given, verify=verify)
    weights = check_version(found, places) if verify and found.version is not None else None
    if as_json:
        print(json.dumps(lineage_json(found, states, weights=weights, verified=verify), indent=1))
    else:
        console = Console(highlight=False)
        if not console.is_terminal:
            console.width = PIPED_WIDTH
        console.print(lineage_tree(found, states, weights=weights))
        for line in told_problems(found, verified=verify):
            console.print(line, soft_wrap=True, markup=False)
    if verify and found.problems:
        raise typer.Exit(ArtifactError.exit_code)


def _workspace_of(model: str) -> Path:
    """The workspace that an output folder lies in; else the one of the working folder."""
    root = Path(model).resolve()
    return root.parent.parent if not model.startswith(MODELS) and root.is_dir() else Path("workspace")


def told_problems(found: Lineage, *, verified: bool) -> list[str]:
    """What a reader must know below the tree."""
    if found.problems:
        return ["", f"not as it was ({len(found.problems)}):", *(f"  {problem}" for problem in found.problems)]
    return ["", "verified: every file has the checksum of its manifest" if verified else "all of it is still there"]


def lineage_tree(found: Lineage, states: States, *, weights: str | None) -> Tree:
    """The chain from the model down to the raw files; an output that is read twice is drawn once."""
    tree = Tree(f"[bold]{escape(found.subject)}[/bold]")
    if found.version is not None:
        _add_version(tree, found, weights)
    first = next(iter(found.outputs.values()))
    _add_output(tree, first, found, states, drawn=set())
    _add_recipe(tree, found)
    return tree


def _add_version(tree: Tree, found: Lineage, weights: str | None) -> None:
    version = found.version
    assert version is not None
    when = datetime.fromtimestamp(version.created_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
    aliases = "".join(f" @{alias}" for alias in version.aliases)
    by = f", by run {version.run_id}" if version.run_id else ""
    tree.add(escape(f"version {version.version} of {version.name}{aliases}, registered {when}{by}"))
    if weights is not None:
        tree.add(escape(f"its weights are, byte for byte, {weights}"))


def _add_output(parent: Tree, output: Output, found: Lineage, states: States, *, drawn: set[str]) -> None:
    name = f"[bold cyan]{escape(output.stage)}[/bold cyan] {output.fingerprint[:SHORT]}"
    if output.fingerprint in drawn:
        parent.add(f"{name} [dim](above)[/dim]")
        return
    drawn.add(output.fingerprint)
    gone = "" if output.found == "disk" else f"  [red]{_whence(output)}[/red]"
    branch = parent.add(f"{name}{gone}")
    for line in _facts(output):
        branch.add(escape(line))
    for state in states.get(output.fingerprint, []):
        problem = f"  [red]{escape(state.problem)}[/red]" if state.problem else ""
        where = f"  [dim]{escape(str(state.path))}[/dim]" if state.path and not problem else ""
        branch.add(
            f"{escape(f'{state.record.role}: {state.record.name}  sha256 {state.record.sha256}')}{where}{problem}"
        )
    for digest in output.inputs.values():
        _add_output(branch, found.outputs[digest], found, states, drawn=drawn)


def _whence(output: Output) -> str:
    if output.found == "nowhere":
        return "can no longer be found"
    assert output.run is not None
    return f"its folder is gone; known from {output.found} {output.run.run_id}"


def _facts(output: Output) -> list[str]:
    """What the tree says of an output: its folder, how it was made, its files."""
    manifest = output.manifest
    lines = [str(output.root)] if output.root is not None else []
    if manifest is None:
        commit = output.run.tags.get("mlflow.source.git.commit") if output.run else None
        return [*lines, f"git commit {commit}"] if commit else lines
    commit = f"git commit {manifest.git_commit}" if manifest.git_commit else "no git commit"
    versions = ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
    made = f"made {manifest.created_at[:19].replace('T', ' ')} UTC on {manifest.host} for recipe {manifest.recipe_name}"
    lines += [made, f"{commit}; {versions}"]
    named = [entry for entry in manifest.files if entry.path.endswith(NAMED)][:MOST_FILES]
    lines += [f"{entry.path}  {units.size(entry.size_bytes)}  sha256 {entry.sha256}" for entry in named]
    others, size = len(manifest.files) - len(named), units.size(sum(entry.size_bytes for entry in manifest.files))
    return [*lines, f"{others:,} {'further ' if named else ''}files; all {size}"] if others else lines


def _add_recipe(tree: Tree, found: Lineage) -> None:
    if found.recipe_from is None:
        return
    branch = tree.add(f"[bold]recipe[/bold] [dim]{escape(found.recipe_from)}[/dim]")
    if found.recipe is not None:
        text = recipe_yaml(found.recipe, decisions_only=True).rstrip("\n")
        branch.add(escape(f"{text}\n# every other field has its default"))


def lineage_json(found: Lineage, states: States, *, weights: str | None, verified: bool) -> dict[str, Any]:
    """The chain as plain values: `outputs` begins with the model's own, and each names its inputs by fingerprint."""
    version = found.version
    return {
        "subject": found.subject,
        "version": version
        and {
            "name": version.name,
            "version": version.version,
            "aliases": list(version.aliases),
            "run_id": version.run_id,
            "tags": version.tags,
            "weights": weights,
        },
        "outputs": [_output_json(output, states[output.fingerprint]) for output in found.outputs.values()],
        "recipe": {
            "from": found.recipe_from,
            "resolved": found.recipe.model_dump(mode="json") if found.recipe is not None else None,
        },
        "verified": verified and not found.problems,
        "problems": found.problems,
    }


def _output_json(output: Output, states: list[RawFileState]) -> dict[str, Any]:
    manifest = output.manifest
    return {
        "stage": output.stage,
        "fingerprint": output.fingerprint,
        "found": output.found,
        "output": str(output.root) if output.root else None,
        "run_id": output.run.run_id if output.run else None,
        "inputs": output.inputs,
        "raw_files": [
            {
                "role": state.record.role,
                "name": state.record.name,
                "sha256": state.record.sha256,
                "path": str(state.path) if state.path else None,
                "problem": state.problem,
            }
            for state in states
        ],
        "manifest": manifest.model_dump(mode="json") if manifest is not None else None,
    }
