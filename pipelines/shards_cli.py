"""`gptmill shards`: commands on a recipe's token shards."""

from typing import Annotated

import typer
from rich.console import Console

from pipelines.arguments import Overrides, RecipePath, example, load

app = typer.Typer(
    name="shards", help="Work on the token shards of a recipe.", no_args_is_help=True, rich_markup_mode=None
)


@app.command(epilog=example("gptmill shards push recipes/demo.yaml s3://bucket/shards"))
def push(
    recipe: RecipePath,
    uri: Annotated[str, typer.Argument(metavar="URI", help="s3://bucket/folder, gs://bucket/folder, file:///folder.")],
    overrides: Overrides = None,
) -> None:
    """Copy the shards to an object store, for cluster.train.shards_from; what stands there is not sent again."""
    from pipelines.push import push_shards

    pushed = push_shards(load(recipe, overrides), uri, console=Console())
    print(f"sent       {pushed.sent_files} files, {pushed.sent_bytes / 1e6:,.1f} MB; {pushed.kept_files} stood there")
    print(f"copy       {pushed.uri}")
    print(f"use it     --set cluster.train.shards_from={uri}")
