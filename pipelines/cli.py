"""The command line: `gptmill`, the same as `python -m pipelines`."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from gpt_core.errors import GptmillError, InputError
from gpt_core.store_uri import without_secrets
from pipelines import shards_cli
from pipelines.generate_cli import generate
from pipelines.lineage_cli import lineage
from pipelines.options import Only, Overrides, RecipePath, Until, example, load, require_one
from pipelines.plan import make_plan
from pipelines.sweep_cli import sweep

app = typer.Typer(
    name="gptmill",
    help="From raw text to a fine-tuned, registered GPT: one recipe, on a laptop or a cluster.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(shards_cli.app, name="shards")


def _shorten(path: Path) -> Path:
    """`path` as seen from the working folder, where it lies below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


@app.command(epilog=example("gptmill run recipes/demo.yaml --until dedup --set dedup.min_jaccard=0.8"))
def run(recipe: RecipePath, only: Only = None, until: Until = None, overrides: Overrides = None) -> None:
    """Make every stage that is not made yet, and the report."""
    from pipelines.runner import raise_on_sigterm, run_recipe

    require_one(only, until)
    resolved = load(recipe, overrides)
    raise_on_sigterm()
    console = Console()
    try:
        result = run_recipe(resolved, console=console, only=only, until=until)
    except KeyboardInterrupt:
        print("the same command goes on from here", file=sys.stderr)
        raise

    from pipelines.summary import summary_table

    console.print()
    console.print(summary_table(result.artifacts))
    made = ", ".join(result.ran) if result.ran else "nothing to do"
    console.print(f"made now   {made}; {result.wall_seconds:,.1f} s", highlight=False, soft_wrap=True)
    if result.report is not None:
        console.print(f"report     {_shorten(result.report)}", highlight=False, soft_wrap=True)
    console.print(f"MLflow     {result.tracking_command}", highlight=False, soft_wrap=True)


app.command(epilog=example("gptmill sweep recipes/demo.yaml --set finetune.learning_rate=1e-3,3e-3"))(sweep)


@app.command(epilog=example("gptmill join recipes/large.yaml"))
def join(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Train with the machine that runs the recipe: on each further one of cluster.train.nodes, with the same files."""
    from pipelines.join import join_recipe
    from pipelines.runner import raise_on_sigterm

    resolved = load(recipe, overrides)
    raise_on_sigterm()
    join_recipe(resolved, console=Console())


@app.command(epilog=example("gptmill plan recipes/demo.yaml --set pretrain.learning_rate=1e-3"))
def plan(
    recipe: RecipePath,
    only: Only = None,
    until: Until = None,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show what `run` would do, why, and with which command, and what the pre-training takes. Starts nothing."""
    import shlex

    from pipelines.training_plan import plan_training, require_memory, training_json, training_table

    resolved = load(recipe, overrides)
    planned = make_plan(resolved, only=only, until=until)
    training = plan_training(resolved, planned)
    if as_json:
        rows = [
            {
                "stage": p.stage.name,
                "action": p.action,
                "why": p.why,
                "output": str(p.output),
                "inputs": {name: str(path) for name, path in p.inputs.items()},
                "command": p.command,
                **({"estimate": training_json(training)} if training and p.stage.name == "pretrain" else {}),
            }
            for p in planned
        ]
        print(json.dumps(rows, indent=1))
    else:
        for p in planned:
            print(f"{p.stage.name:<10} {p.action}: {p.why}")
            print(f"{'':<10} {_shorten(p.output)}")
            if p.action == "run":
                print(f"{'':<10} {shlex.join(p.command)}")
        if training is not None:
            Console(highlight=False).print("\npretrain, estimated", training_table(training), sep="\n")
    if training is not None:
        require_memory(training)


@app.command(epilog=example("gptmill status recipes/demo.yaml"))
def status(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Show what of a recipe is made, is being made, or failed."""
    from pipelines.status import stage_status

    for planned in make_plan(load(recipe, overrides)):
        print(f"{planned.stage.name:<10} {stage_status(planned)}")


@app.command(epilog=example("gptmill doctor recipes/demo.yaml"))
def doctor(
    recipe: Annotated[Path | None, typer.Argument(metavar="[RECIPE]", help="Also check what it needs.")] = None,
) -> None:
    """Check this machine: Python, Java, packages, memory, disk and, with a recipe, its files and tracking."""
    from pipelines.doctor import examine

    findings = examine(load(recipe, None) if recipe else None)
    for finding in findings:
        print(f"{'ok ' if finding.well else 'BAD'} {finding.subject:<10} {without_secrets(finding.text)}")
    if not all(finding.well for finding in findings):
        raise typer.Exit(2)


app.command(epilog=example('gptmill generate workspace/runs/demo/pretrain --prompt "The whale"'))(generate)

app.command(epilog=example("gptmill lineage models:/demo-classifier@candidate"))(lineage)


@app.command(epilog=example("gptmill pack --for spark"))
def pack(
    output: Annotated[Path, typer.Option(metavar="FOLDER", help="Where both go.")] = Path("dist"),
    kind: Annotated[
        Literal["spark", "ray", "train", "all"],
        typer.Option("--for", help="Leave out what the jobs of another kind of cluster need."),
    ] = "all",
) -> None:
    """Make what a cluster needs: gptmill's wheel, and an archive with interpreter and packages that runs anywhere."""
    import platform

    from pipelines.pack import pack

    with Console(stderr=True).status("packing, a minute or two"):
        packed = pack(output, kind)
    print(f"wheel      {_shorten(packed.wheel)}")
    print(f"archive    {_shorten(packed.archive)}")
    print(f"sha256     {packed.sha256}")
    print(f"size       {packed.archive_bytes / 1e6:,.0f} MB, unpacked {packed.unpacked_bytes / 1e6:,.0f} MB")
    print(f"holds      Python {platform.python_version()} and {packed.distributions} distributions")
    print(f"runs on    Linux, {platform.machine()}, glibc {platform.libc_ver()[1]} or newer")


@app.command(epilog=example("gptmill report recipes/demo.yaml"))
def report(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Write report.html anew from what is made."""
    from pipelines.runner import write_report

    resolved = load(recipe, overrides)
    artifacts = {p.stage.name: p.artifact for p in make_plan(resolved) if p.artifact}
    if not artifacts:
        raise InputError(f"{recipe}: no stage is made yet; start with: gptmill run {recipe}")
    print(write_report(resolved, artifacts))


@app.command(epilog=example("gptmill schema > recipe.schema.json"))
def schema(
    markdown: Annotated[bool, typer.Option("--markdown", help="The reference of docs/recipe.md instead.")] = False,
) -> None:
    """Print the JSON schema of recipes, for editors."""
    from gpt_core.recipe_reference import recipe_json_schema, recipe_markdown

    print(recipe_markdown() if markdown else json.dumps(recipe_json_schema(), indent=1), end="" if markdown else "\n")


def main() -> None:
    """Run the command line. Exit 0; 2 for what the user can put right; 1 for what failed; 130 for Ctrl-C.

    75 where a SIGTERM stopped a training that has kept its work: the same command goes on from there.
    """
    try:
        app()
    except GptmillError as error:
        print(f"error: {without_secrets(str(error))}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # `gptmill plan | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
