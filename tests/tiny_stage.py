"""A stage without an engine, made by runners of their own: processes that a test stops, kills, and sets beside others.

The job is a process under the contract of jobs/job.py, whose body is Python that a test gives. The runner is all of
pipelines/stage_job.py, without MLflow; its events come on stdout.

    python -m tiny_stage WORKSPACE [--wait]
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from gpt_core.errors import GptmillError
from gpt_core.recipe_file import load_recipe
from jobs.job import RECIPE
from pipelines.events import Events, exit_code, told_to_the_end
from pipelines.gpt import STAGES
from pipelines.lease import server_time
from pipelines.plan import PlannedStage
from pipelines.stage_job import Run, make_stage
from pipelines.watch import Watcher

ROOT = Path(__file__).parents[1]
PATIENCE_SECONDS = 120
JOB = """
import os, signal, sys, time
from pathlib import Path
from gpt_core.errors import InputError, PreemptedError, StageError, TransientError
from jobs.job import Outcome, run_job

def make(job):
    workspace = Path(job.recipe.workspace)
    with (workspace / "attempts").open("a") as notes:
        notes.write(f"{os.getpid()}\\n")
    attempt = len((workspace / "attempts").read_text().splitlines())
    print("this is attempt", attempt, flush=True)
BODY
    (job.output / "made").write_text("whole")
    return Outcome([job.output / "made"])

run_job("tokenizer", make)
"""
UNTIL_GO = 'while not (workspace / "go").exists(): time.sleep(0.02)'


@dataclass
class TinyStage:
    """A workspace with one stage to make."""

    workspace: Path
    body: str = ""
    limits: Mapping[str, object] = field(default_factory=dict)
    stop_command: list[str] | None = None
    runners: list["subprocess.Popen[str]"] = field(default_factory=list)

    def __post_init__(self) -> None:
        settings = {"body": self.body, "limits": self.limits, "stop_command": self.stop_command}
        (self.workspace / "stage.json").write_text(json.dumps(settings))

    @property
    def output(self) -> Path:
        return self.workspace / "tokenizer" / "0123456789ab"

    @property
    def attempts(self) -> list[int]:
        """The process id of the job of each attempt."""
        notes = self.workspace / "attempts"
        return [int(line) for line in notes.read_text().splitlines()] if notes.exists() else []

    def start(self, *arguments: str, within: tuple[str, ...] = ()) -> "subprocess.Popen[str]":
        """One more runner; `within` goes before its command."""
        runner = subprocess.Popen(
            [*within, sys.executable, "-m", "tiny_stage", str(self.workspace), *arguments],
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.runners.append(runner)
        return runner

    def end(self, runner: "subprocess.Popen[str]", code: int) -> tuple[list[dict[str, Any]], str]:
        """(events, stderr) of a runner that has ended with `code`."""
        out, err = runner.communicate(timeout=PATIENCE_SECONDS)
        assert runner.returncode == code, out + err
        return [json.loads(line) for line in out.splitlines()], err

    def wait_for(self, what: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not what():
            assert time.monotonic() < deadline, [r.communicate() for r in self.runners if r.poll() is not None]
            time.sleep(0.02)

    def close(self) -> None:
        for runner in self.runners:
            if runner.poll() is None:
                runner.send_signal(signal.SIGCONT)
                runner.kill()
                runner.communicate()


def plan_stage(workspace: Path) -> tuple[PlannedStage, Run]:
    """What `gptmill run` would hold of the stage in `workspace`."""
    settings = json.loads((workspace / "stage.json").read_text())
    demo = load_recipe(ROOT / "recipes" / "demo.yaml")
    tree = demo.model_dump(mode="json") | {"workspace": str(workspace)}
    tree["cluster"]["limits"] |= settings["limits"]
    recipe = type(demo).model_validate_json(json.dumps(tree))
    output = workspace / "tokenizer" / "0123456789ab"
    body = "".join(f"    {line}\n" for line in settings["body"].splitlines())
    script = JOB.replace("BODY\n", body)
    planned = PlannedStage(
        stage=next(stage for stage in STAGES if stage.name == "tokenizer"),
        identity={"stage": "tokenizer"},
        output=output,
        inputs={},
        command=[sys.executable, "-c", script, "--recipe", str(output / RECIPE), "--output", str(output)],
        target=None if settings["stop_command"] is None else "ray",
        stop_command=settings["stop_command"],
        artifact=None,
        action="run",
        why="never made",
    )
    run = Run(
        recipe=recipe,
        console=Console(stderr=True),
        events=Events(sys.stdout.fileno()),
        watcher=Watcher(None),
        wait="--wait" in sys.argv,
        since=server_time(workspace),
    )
    return planned, run


def main() -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    planned, run = plan_stage(Path(sys.argv[1]))
    try:
        with told_to_the_end(run.events):
            make_stage(planned, run)
    except (GptmillError, KeyboardInterrupt) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(exit_code(error))


if __name__ == "__main__":
    main()
