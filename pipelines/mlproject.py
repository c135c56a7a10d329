"""The entry points of MLproject: `gptmill run`, with a recipe's fields as parameters of `mlflow run`.

    mlflow run . -e main -P recipe=recipes/demo.yaml -P pretrain.tokens=3000000 -P until=pretrain

MLflow appends a parameter that MLproject does not declare as `--name value`. Here `only`, `until` and `set` mean
what they mean to `gptmill run`; every other name is a field of the recipe, and the recipe refuses unknown ones.
"""

import sys
from collections.abc import Sequence

from gpt_core.errors import InputError
from gpt_core.store_uri import without_secrets
from pipelines import cli

OPTIONS = frozenset({"--only", "--until", "--set"})


def command_line(arguments: Sequence[str]) -> list[str]:
    """The arguments of `gptmill` for `RECIPE [--name value]...`. Raises InputError for anything else."""
    recipe, *rest = arguments or ("",)
    if not recipe or len(rest) % 2 or any(not name.startswith("--") for name in rest[::2]):
        raise InputError(
            f"arguments {list(arguments)}: give RECIPE [--name value]..., as `mlflow run -P name=value` does"
        )
    command = ["run", recipe]
    for name, value in zip(rest[::2], rest[1::2], strict=True):
        command += [name, value] if name in OPTIONS else ["--set", f"{name.removeprefix('--')}={value}"]
    return command


def main() -> None:
    """Run the pipeline as `gptmill run` does, and exit as it does."""
    try:
        sys.argv[1:] = command_line(sys.argv[1:])
    except InputError as error:
        print(f"error: {without_secrets(str(error))}", file=sys.stderr)
        sys.exit(error.exit_code)
    cli.main()


if __name__ == "__main__":
    main()
