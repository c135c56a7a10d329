"""What happens to a run, for programs: `gptmill run --json` writes an event a line to stdout, as JSON, nothing else.

Every event has `time` (UTC, ISO 8601, milliseconds) and `event`; those of a stage have `stage`. Later versions may add
events and keys; none changes its meaning.

    plan      recipe, workspace, stages: [{stage, action: run | skip | left out, why, output}]
    tracking  run_id, page (or null): MLflow's run that records this one, and its address where a server has it
    skip      output, why: it was whole already, or another runner has made it meanwhile
    wait      owner: {host, pid, since}: another runner makes the stage, and this one waits (--wait)
    start     output, why, attempt (1, 2, ...), command: as `gptmill plan --json` tells it
    progress  done, total (or null), unit, measures; at most one in PROGRESS_SECONDS
    retry     attempt (that comes next), seconds (until then), error
    made      output, fingerprint, wall_seconds, counts, figures
    failed    kind: user | stage | transient | busy | preempted | interrupted | bug; error
    done      exit_code, error (or null), made: [stage], report (or null), wall_seconds; always the last

`error` and `why` are for people. What is known before anything starts, a refused recipe too, is told by `done` alone.
"""

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from gpt_core.errors import BusyError, GptmillError, PreemptedError, TransientError, UserError
from gpt_core.fingerprint import Json
from gpt_core.store_uri import without_secrets

PROGRESS_SECONDS = 5.0
BUG = 1  # exit code


@dataclass
class Events:
    """Events go to the open file `descriptor`; without one, nowhere."""

    descriptor: int | None = None
    result: dict[str, Json] = field(default_factory=lambda: {"made": [], "report": None})

    def tell(self, event: str, facts: Mapping[str, Json], *, stage: str | None = None) -> None:
        """One line more, at once. Where nobody reads any more, the run goes on unheard."""
        if self.descriptor is None:
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        of = {"stage": stage} if stage is not None else {}
        line = json.dumps({"time": now, "event": event, **of, **facts}, allow_nan=False).encode() + b"\n"
        try:
            while line:
                line = line[os.write(self.descriptor, line) :]
        except BrokenPipeError:
            self.descriptor = None


@contextmanager
def told_to_the_end(events: Events) -> Iterator[None]:
    """The last event tells how what is inside has ended."""
    started = time.monotonic()
    code, told = 0, None
    try:
        yield
    except BaseException as error:
        code, told = exit_code(error), describe(error)
        raise
    finally:
        seconds = round(time.monotonic() - started, 3)
        events.tell("done", {"exit_code": code, "error": told, **events.result, "wall_seconds": seconds})


@contextmanager
def stdout_for_events() -> Iterator[Events]:
    """Events have stdout for themselves: what else is printed inside, by any library, goes to stderr."""
    sys.stdout.flush()
    own = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        yield Events(own)
    finally:
        sys.stdout.flush()
        os.dup2(own, sys.stdout.fileno())
        os.close(own)


def kind_of(error: BaseException) -> str:
    """The `kind` of a failure."""
    kinds: list[tuple[type[BaseException], str]] = [
        (UserError, "user"),
        (BusyError, "busy"),
        (PreemptedError, "preempted"),
        (TransientError, "transient"),
        (GptmillError, "stage"),
        (KeyboardInterrupt, "interrupted"),
    ]
    return next((name for kind, name in kinds if isinstance(error, kind)), "bug")


def exit_code(error: BaseException) -> int:
    """The exit code of a command that `error` ends."""
    if isinstance(error, KeyboardInterrupt):
        return PreemptedError.exit_code
    return error.exit_code if isinstance(error, GptmillError) else BUG


def describe(error: BaseException) -> str:
    """What a person is told, without passwords."""
    return without_secrets(str(error)) or kind_of(error)
