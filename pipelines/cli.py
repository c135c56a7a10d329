"""The command line: `gptmill`, the same as `python -m pipelines`."""

import json
import os
import signal
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from gpt_core.errors import GptmillError, InputError, PreemptedError
from gpt_core.store_uri import without_secrets
from pipelines import export_cli, shards_cli, stages_cli
from pipelines.generate_cli import generate
from pipelines.lineage_cli import lineage
from pipelines.options import Only, Overrides, RecipePath, Until, example, load, require_one
from pipelines.plan import make_plan
from pipelines.sweep_cli import sweep

INTERRUPTED = 130  # what typer makes of KeyboardInterrupt

app = typer.Typer(
    name="gptmill",
    help="From raw text to a fine-tuned, registered GPT: one recipe, on a laptop or a cluster.",
    epilog="Exit codes: 0 done, 1 a bug, 2 something you can put right, 3 a stage failed, 4 somebody else is at it, "
    "5 interrupted: the same command goes on from there.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(shards_cli.app, name="shards")
app.add_typer(export_cli.app, name="export")


def _shorten(path: Path) -> Path:
    """`path` as seen from the working folder, where it lies below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


@app.command(epilog=example("gptmill run recipes/demo.yaml --until dedup --set dedup.min_jaccard=0.8"))
def run(
    recipe: RecipePath,
    only: Only = None,
    until: Until = None,
    overrides: Overrides = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for stages that another runner makes, and go on with what it made.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs: an event a line, nothing else.")] = False,
) -> None:
    """Make every stage that is not made yet, and the report.

    Exit 0: all are made; 2: something you can put right; 3: a stage failed; 4: another runner makes one; 5: interrupted
    or cancelled, and the same command goes on from there; 1: a bug.
    """
    from pipelines.events import Events, stdout_for_events, told_to_the_end
    from pipelines.runner import run_recipe

    with stdout_for_events() if as_json else nullcontext(Events()) as events, told_to_the_end(events):
        require_one(only, until)
        console = Console(quiet=as_json)
        result = run_recipe(load(recipe, overrides), console=console, only=only, until=until, wait=wait, events=events)
        events.result |= {"made": [*result.ran], "report": str(result.report) if result.report is not None else None}
    if as_json:
        return

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

    join_recipe(load(recipe, overrides), console=Console())


@app.command(epilog=example("gptmill plan recipes/demo.yaml --set pretrain.learning_rate=1e-3"))
def plan(
    recipe: RecipePath,
    only: Only = None,
    until: Until = None,
    overrides: Overrides = None,
    explain: Annotated[
        str | None, typer.Option(metavar="STAGE", help="What of this stage differs from its last result instead.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show what `run` would do, why, and with which command, and what the pre-training takes. Starts nothing."""
    import shlex

    from pipelines.training_plan import plan_training, require_memory, training_json, training_table

    resolved = load(recipe, overrides)
    planned = make_plan(resolved, only=only, until=until)
    if explain is not None:
        from pipelines.explain import explain_stage, explanation_json

        found = explain_stage(explain, planned, resolved)
        print(json.dumps(explanation_json(found), indent=1) if as_json else found)
        return
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


app.command(epilog=example("gptmill status recipes/demo.yaml"))(stages_cli.status)

app.command(epilog=example("gptmill logs -f recipes/demo.yaml pretrain"))(stages_cli.logs)

app.command(epilog=example("gptmill cancel recipes/demo.yaml pretrain"))(stages_cli.cancel)


@app.command(epilog=example("gptmill gc --workspace workspace"))
def gc(
    workspace: Annotated[Path, typer.Option(metavar="FOLDER", help="What to tidy.")] = Path("workspace"),
    yes: Annotated[bool, typer.Option("--yes", help="Remove without asking.")] = False,
    keep_days: Annotated[
        float | None,
        typer.Option(
            metavar="N",
            min=0,
            help="Keep what changed in the last N days; default: one hour, a week for trainings that can go on.",
        ),
    ] = None,
) -> None:
    """Remove what killed attempts left, and results that no recipe's last run names.

    Shows them first, and asks. What a registered model, or a named result, was made of stays; where MLflow cannot be
    asked, every result does.
    """
    from pipelines.tidy_cli import collect

    collect(workspace, yes=yes, keep_days=keep_days)


@app.command(epilog=example("gptmill doctor recipes/demo.yaml"))
def doctor(
    recipe: Annotated[Path | None, typer.Argument(metavar="[RECIPE]", help="Also check what it needs.")] = None,
    overrides: Overrides = None,
) -> None:
    """Check this machine and, with a recipe, its workspace, files, tracking server and clusters. Exit 2 for BAD."""
    from pipelines.doctor import examine
    from pipelines.finding import report_lines

    findings = examine(load(recipe, overrides) if recipe else None)
    for line in report_lines(findings):
        print(without_secrets(line))
    if not all(finding.well for finding in findings):
        raise typer.Exit(2)


app.command(epilog=example('gptmill generate workspace/runs/demo/pretrain --prompt "The whale"'))(generate)

app.command(epilog=example("gptmill lineage models:/demo-classifier@candidate"))(lineage)


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
    """Run the command line, and exit as gpt_core/errors.py says. A SIGTERM is taken as Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app()
    except GptmillError as error:
        print(f"error: {without_secrets(str(error))}", file=sys.stderr)
        sys.exit(error.exit_code)
    except SystemExit as end:
        if end.code != INTERRUPTED:
            raise
        print("interrupted: the same command goes on from here", file=sys.stderr)
        sys.exit(PreemptedError.exit_code)
    except BrokenPipeError:  # `gptmill plan | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
