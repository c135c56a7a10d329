"""`gptmill export dagster`: a code location for Dagster, one asset a stage.

Dagster's environment needs no gptmill: an asset runs the `gptmill` of another one as an argument list.
"""

from pipelines.export import Export, constants, made_by

_HEAD = '''"""Makes what the recipe {name} asks for: one asset a stage, whose step does nothing where the stage is made.

Written by, and to be written anew rather than edited:

{made_by}

Needs Dagster 1.11 or newer, and where the steps run the command GPTMILL, the recipe and its workspace. A step that is
killed starts no stage twice: the next try attaches to the cluster's job that it left, or waits for the process.
"""

'''

_IMPORTS = """import json
import re
import subprocess

import dagster as dg

"""

_BODY = '''
RETRIES = 2
RETRY_SECONDS = 60
WAIT_SECONDS = 60  # between looks at a stage that somebody else makes
MOST_WAITS = 10_000
GROUP = re.sub(r"\\W", "_", NAME, flags=re.ASCII)


def run_stage(context, stage):
    """The stage is whole; Dagster knows what it says of itself."""
    metadata = {}
    process = subprocess.Popen(
        [GPTMILL, "run", RECIPE, *SETTINGS, "--only", stage, "--json"],
        cwd=FOLDER,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # a training that is stopped saves its work, whatever becomes of the step
    )
    try:
        for line in process.stdout:
            context.log.info(line.rstrip())
            metadata |= told_by(line)
        code = process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
    if code == 2:
        raise dg.Failure("gptmill asks for something to be put right, see the log", allow_retries=False)
    if code == 4:
        raise dg.RetryRequested(max_retries=MOST_WAITS, seconds_to_wait=WAIT_SECONDS)
    if code == 5:
        raise dg.RetryRequested(max_retries=RETRIES, seconds_to_wait=0)
    if code != 0:
        raise dg.Failure(f"gptmill exited {code}, see the log")
    return dg.MaterializeResult(metadata=metadata)


def told_by(line):
    """What an event tells that is worth a place beside the asset."""
    try:
        event = json.loads(line)
    except ValueError:
        return {}
    if isinstance(event, dict) and event.get("event") == "tracking" and event["page"]:
        return {"MLflow": dg.MetadataValue.url(event["page"])}
    return {}


def stage_asset(stage, reads):
    """The asset of a stage."""

    @dg.asset(
        key=[GROUP, stage],
        deps=[dg.AssetKey([GROUP, name]) for name in reads],
        group_name=GROUP,
        retry_policy=dg.RetryPolicy(max_retries=RETRIES, delay=RETRY_SECONDS, backoff=dg.Backoff.EXPONENTIAL),
    )
    def make(context):
        return run_stage(context, stage)

    return make


job = dg.define_asset_job(GROUP, selection=dg.AssetSelection.groups(GROUP))
schedules = [] if SCHEDULE is None else [dg.ScheduleDefinition(job=job, cron_schedule=SCHEDULE)]
defs = dg.Definitions(
    assets=[stage_asset(stage, reads) for stage, reads in STAGES.items()], jobs=[job], schedules=schedules
)
'''


def render_dagster(export: Export) -> str:
    """The Python file that holds Dagster's `defs`."""
    head = _HEAD.format(name=export.recipe.name, made_by=made_by(export))
    return head + _IMPORTS + constants(export) + _BODY
