"""The errors of gptmill and what each means to the person, or the scheduler, that started a command.

    GptmillError
    |-- UserError            exit 2: something the user can put right; never a traceback
    |   |-- RecipeError      a field of the recipe (or a --set) is refused
    |   |-- InputError       a file that the user named is missing, unreadable or malformed
    |   `-- SetupError       this machine lacks something: Java, a package, a free port
    |-- BusyError            exit 4: somebody else is making the stage
    |-- PreemptedError       exit 5: stopped on demand; the same command goes on from there
    `-- StageError           exit 3: a stage's engine failed, or ended without a manifest
        |-- ArtifactError    an output on disk is not what its manifest says
        `-- TransientError   what failed may pass by itself: a lost machine or connection; the runner tries again

Everything else is a broken invariant: a bug, exit 1 with its traceback.
"""


class GptmillError(Exception):
    """Any error that gptmill raises on purpose."""

    exit_code = 3


class UserError(GptmillError):
    """The user can put this right: the message names the file or field, the value and the way out."""

    exit_code = 2


class RecipeError(UserError):
    """A recipe is refused. `problems` holds one line for each offending field."""

    def __init__(self, problems: list[str], *, origin: str) -> None:
        self.problems = problems
        super().__init__("\n".join([f"{origin}: {len(problems)} problem(s)", *(f"  {line}" for line in problems)]))


class InputError(UserError):
    """A file that the user named is missing, unreadable or malformed."""


class SetupError(UserError):
    """The machine lacks something that a stage needs."""


class BusyError(GptmillError):
    """Somebody else is making the stage."""

    exit_code = 4


class PreemptedError(GptmillError):
    """A stage or a run was asked to stop, and has kept what it did: the same command goes on from there."""

    exit_code = 5


class StageError(GptmillError):
    """A stage's engine failed, or ended without a manifest."""


class ArtifactError(StageError):
    """A stage's output on disk is not what its manifest says."""


class TransientError(StageError):
    """What failed may pass by itself: a lost machine, a connection, a preempted job."""
