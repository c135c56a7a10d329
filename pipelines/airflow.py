"""`gptmill export airflow`: a DAG file for Airflow 3.3 or newer, one task a stage.

Airflow's environment needs no gptmill: a task runs the `gptmill` of another one as an argument list. The retry policy
and the operator's link are Airflow 3.3's own. A task holds its worker slot while its stage runs, as a process that
follows; deferral would need gptmill in the triggerer. While somebody else makes the stage the task gives its slot back.
"""

from datetime import date

from pipelines.export import Export, constants, made_by, parameters

_HEAD = '''"""Makes what the recipe {name} asks for: one task a stage, which does nothing where the stage is made.

Written by, and to be written anew rather than edited:

{made_by}

Needs Airflow 3.3 or newer, and on every worker the command GPTMILL, the recipe and its workspace. Tasks hand Airflow's
environment on to it, credentials of MLflow or an object store too, but none of Airflow's own settings.

| `gptmill` exits | the task |
| --- | --- |
| 0 | has succeeded |
| 2, somebody must put something right | has failed, and is not tried again |
| 4, somebody else makes the stage | gives its slot back and looks again after WAIT |
| 5, stopped with its work kept | is tried again at once |
| anything else | is tried again, after twice the time each time |

A task that is killed, with its worker or alone, starts no stage twice: the next try attaches to the cluster's job that
it left, or waits for the process that it left.
"""

'''

_IMPORTS = """import json
import os
import shlex
import subprocess
from datetime import datetime, timedelta, timezone

from airflow.sdk import DAG, BaseOperator, BaseOperatorLink, ExceptionRetryPolicy, RetryRule
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowRescheduleException

"""

_BODY = '''
RETRIES = 2
RETRY_DELAY = timedelta(minutes=1)
WAIT = timedelta(minutes=1)
MLFLOW_RUN = "mlflow_run_id"  # the XCom that makes all tasks of a run one run of MLflow


class Stopped(AirflowException):
    """The stage was told to stop; the same command goes on from there."""


class MlflowLink(BaseOperatorLink):
    """Leads to MLflow's page of the run, where a tracking server has it."""

    name = "MLflow"

    def get_link(self, operator, *, ti_key):
        return operator.page


class GptmillStage(BaseOperator):
    """Makes the stage that the task is named after."""

    operator_extra_links = (MlflowLink(),)
    page = ""
    process = None

    def execute(self, context):
        chosen = [f"{field}={json.dumps(value)}" for field, value in context["params"].items()]
        settings = [*SETTINGS, *(word for setting in chosen for word in ("--set", setting))]
        command = [GPTMILL, "run", RECIPE, *settings, "--only", self.task_id, "--json"]
        self.log.info("in %s: %s", FOLDER, shlex.join(command))
        self.process = subprocess.Popen(
            command,
            cwd=FOLDER,
            env=self.environment(context),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # a training that is stopped saves its work, whatever becomes of the task
        )
        try:
            for line in self.process.stdout:
                self.log.info("%s", line.rstrip())
                self.note(line, context)
            code = self.process.wait()
        finally:
            self.on_kill()
        if code == 2:
            raise AirflowFailException("gptmill asks for something to be put right, see above")
        if code == 4:
            self.log.info("somebody else makes the stage: the task gives its slot back for %s", WAIT)
            raise AirflowRescheduleException(datetime.now(timezone.utc) + WAIT)
        if code == 5:
            raise Stopped("the stage was stopped and has kept its work")
        if code != 0:
            raise AirflowException(f"gptmill exited {code}, see above")

    def environment(self, context):
        """Airflow's without its settings, and with the run of MLflow that the tasks before have begun."""
        own = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")}
        before = context["ti"].xcom_pull(task_ids=sorted(self.upstream_task_ids), key=MLFLOW_RUN) or []
        begun = [run_id for run_id in before if run_id]
        if begun:
            context["ti"].xcom_push(key=MLFLOW_RUN, value=begun[0])
        return {**own, **({"MLFLOW_RUN_ID": begun[0]} if begun else {})}

    def note(self, line, context):
        """The page of MLflow that an event tells of has become the task's link."""
        try:
            event = json.loads(line)
        except ValueError:
            return
        if isinstance(event, dict) and event.get("event") == "tracking":
            context["ti"].xcom_push(key=MLFLOW_RUN, value=event["run_id"])
            if event["page"]:
                self.page = event["page"]
                context["ti"].xcom_push(key=MlflowLink().xcom_key, value=self.page)

    def on_kill(self):
        """The command has been told to stop; a cluster's job goes on, for the next try to attach to."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()


with DAG(
    dag_id=NAME,
    schedule=SCHEDULE,
    start_date=START,
    catchup=False,
    max_active_runs=1,
    params=PARAMETERS,
    doc_md=__doc__,
    tags=["gptmill"],
) as dag:
    tasks = {
        stage: GptmillStage(
            task_id=stage,
            retries=RETRIES,
            retry_delay=RETRY_DELAY,
            retry_exponential_backoff=2.0,
            retry_policy=ExceptionRetryPolicy(rules=[RetryRule(exception=Stopped, retry_delay=timedelta(0))]),
        )
        for stage in STAGES
    }
    for stage, reads in STAGES.items():
        tasks[stage].set_upstream([tasks[name] for name in reads])
'''


def render_airflow(export: Export, *, start: date) -> str:
    """The DAG file. It runs from `start` on, where there is a schedule."""
    head = _HEAD.format(name=export.recipe.name, made_by=made_by(export))
    begin = f"START = datetime({start.year}, {start.month}, {start.day}, tzinfo=timezone.utc)\n"
    return head + _IMPORTS + constants(export) + begin + parameters(export) + _BODY
