"""A stage: its name, the job that makes it, what it reads, and what gives its output identity."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gpt_core.fingerprint import Json
from gpt_core.recipe import Recipe
from jobs.launch.spec import Engine


@dataclass(frozen=True)
class RawFile:
    """A file of the user's that a stage reads: its bytes, its name and `facts` are hashed; its folder is not.

    A `name` among the facts goes before the file's own.
    """

    path: Path
    field: str  # of the recipe, for messages
    role: str  # key in the identity
    facts: dict[str, Json]


@dataclass(frozen=True)
class Stage:
    """One step of the pipeline. `revision` is bumped by hand when the same recipe shall mean another output."""

    name: str
    module: str
    engine: Engine
    revision: int
    reads: tuple[str, ...]  # earlier stages; those absent from the recipe's pipeline are left out
    decisions: Callable[[Recipe], dict[str, Json]]  # the slice of the recipe that is hashed
    raw_files: Callable[[Recipe], list[RawFile]]
