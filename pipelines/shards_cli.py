"""`gptmill shards`: look at a recipe's token shards, check them, follow them back to the raw corpus, copy them."""

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from gpt_core.artifact import Artifact, open_artifact, read_manifest
from gpt_core.errors import ArtifactError, InputError
from gpt_core.recipe import Recipe
from gpt_core.store_uri import store_uri_problem
from pipelines.options import Overrides, RecipePath, example, load
from pipelines.plan import PlannedStage, make_plan

app = typer.Typer(help="Look at a recipe's token shards, check, trace and copy them.", no_args_is_help=True)


@app.command(epilog=example("gptmill shards stats recipes/demo.yaml"))
def stats(
    recipe: RecipePath,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show documents, tokens and sizes by source."""
    from gpt_core.data.stats import source_stats

    shards = _whole(_plan(load(recipe, overrides)), "shards")["shards"]
    rows = source_stats(shards)
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
        return
    table = Table(box=box.SIMPLE, show_edge=False, pad_edge=False, caption_justify="left")
    table.caption = "train, validation: tokens; text, disk: bytes a token"
    for head in ("source", "shards", "documents", "train", "validation", "text", "disk"):
        table.add_column(head, justify="left" if head == "source" else "right", no_wrap=head != "source")
    for row in rows:
        if row is rows[-1]:
            table.add_section()
        counts = (row.shards, row.documents, row.train_tokens, row.validation_tokens)
        cells = [
            *map("{:,}".format, counts),
            f"{row.text_bytes / row.tokens:.2f}",
            f"{row.disk_bytes / row.tokens:.3f}",
        ]
        table.add_row(row.source or "(others)", *cells)
    console = Console()
    console.print(table)
    console.print(f"in {shards.root}", highlight=False, soft_wrap=True)


@app.command(epilog=example("gptmill shards verify recipes/demo.yaml"))
def verify(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Check every byte: files, checksums, tokenizer, structure. Exit 3 and a line for each file that is damaged."""
    from gpt_core.data.verify import verify_shards
    from gpt_core.tokenizer.files import TOKENIZER
    from gpt_core.tokenizer.tokenizer import Tokenizer
    from pipelines.display import ByteBar

    plan = _plan(load(recipe, overrides))
    root = _placed(plan, "shards").output
    manifest = read_manifest(root)
    if manifest is None:
        raise _not_made("shards")
    tokenizer = Tokenizer.load(_whole(plan, "tokenizer")["tokenizer"].file(TOKENIZER))
    size, counts = sum(entry.size_bytes for entry in manifest.files), manifest.counts
    problems, done = [], 0
    with ByteBar(Console()) as bar:
        for verdict in verify_shards(root, manifest, tokenizer_digest=tokenizer.digest):
            if verdict.problem:
                problems.append(f"{root / verdict.entry.path}: {verdict.problem}")
            done += verdict.entry.size_bytes
            bar.show(verdict.entry.path, done, size)
    if problems:
        raise ArtifactError("\n".join([*problems, f"{len(problems)} damaged; delete {root} and run again"]))
    tokens = counts["train_tokens"] + counts["validation_tokens"]
    print(f"{len(manifest.files):,} files, {size / 1e6:,.1f} MB, {tokens:,} tokens: all are what the manifest says")


@app.command(epilog=example("gptmill shards show recipes/demo.yaml --document en-1234"))
def show(
    recipe: RecipePath,
    document: Annotated[str, typer.Option(metavar="ID", help="A document's id.")],
    overrides: Overrides = None,
) -> None:
    """Show a document as it is trained on: its shard, its line in the raw corpus, its text."""
    from pipelines.trace import show_document

    resolved = load(recipe, overrides)
    for line in show_document(resolved, document, _whole(_plan(resolved), "dedup", "tokenizer", "shards")):
        print(line)


@app.command(epilog=example("gptmill shards trace recipes/demo.yaml --sample 12345"))
def trace(
    recipe: RecipePath,
    sample: Annotated[int, typer.Option(metavar="N", min=0, help="A sample's number, from 0.")],
    overrides: Overrides = None,
) -> None:
    """Follow a training sample back to its documents and to their lines in the raw corpus."""
    from pipelines.trace import trace_sample

    resolved = load(recipe, overrides)
    for line in trace_sample(resolved, sample, _whole(_plan(resolved), "dedup", "tokenizer", "shards")):
        print(line)


@app.command(epilog=example("gptmill shards push recipes/demo.yaml s3://bucket/shards"))
def push(
    recipe: RecipePath,
    uri: Annotated[str, typer.Argument(metavar="URI", help="s3://bucket/folder, gs://bucket/folder, file:///folder.")],
    overrides: Overrides = None,
) -> None:
    """Copy the shards to an object store, for cluster.train.shards_from; what stands there is not sent again."""
    from gpt_core.data.push import push_output
    from pipelines.display import ByteBar

    problem = store_uri_problem(uri)
    if problem is not None:
        raise InputError(f"URI: {problem}")
    output = _placed(_plan(load(recipe, overrides)), "shards").output
    shards = open_artifact(output)  # with cluster.train.shards_from, the plan does without the shards themselves
    if shards is None:
        raise _not_made("shards")
    with ByteBar(Console()) as bar:
        pushed = push_output(shards, uri, report=bar.show)
    print(f"sent       {pushed.sent_files} files, {pushed.sent_bytes / 1e6:,.1f} MB; {pushed.kept_files} stood there")
    print(f"copy       {pushed.uri}")
    print(f"use it     --set cluster.train.shards_from={uri}")


def _plan(recipe: Recipe) -> dict[str, PlannedStage]:
    return {planned.stage.name: planned for planned in make_plan(recipe)}


def _whole(plan: dict[str, PlannedStage], *stages: str) -> dict[str, Artifact]:
    """The outputs of these stages. Raises InputError for one that is not made, ArtifactError for a damaged one."""
    artifacts = {}
    for stage in stages:
        planned = _placed(plan, stage)
        if planned.artifact is None:
            if planned.why.startswith("damaged: "):
                raise ArtifactError(planned.why.removeprefix("damaged: "))
            raise _not_made(stage)
        artifacts[stage] = planned.artifact
    return artifacts


def _placed(plan: dict[str, PlannedStage], stage: str) -> PlannedStage:
    """The stage. Raises InputError where the recipe has no corpus, and so no such stage."""
    if stage not in plan:
        raise InputError(f"the recipe has no corpus, and so no {stage}; it fine-tunes finetune.model as it stands")
    return plan[stage]


def _not_made(stage: str) -> InputError:
    return InputError(f"the stage {stage} is not made yet; make it first: gptmill run RECIPE --until {stage}")
