"""What a cluster must be able to do: find, submit, look, pass on a log, cancel. One module a cluster implements it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from gpt_core.recipe import Cluster
from jobs.launch.spec import TargetName


class AlreadySubmittedError(Exception):
    """The cluster has a job of that name: somebody else was faster."""


@dataclass(frozen=True)
class Attempt:
    """One submission, as the cluster sees it now."""

    name: str  # of Handle
    native_id: str
    state: Literal["pending", "running", "succeeded", "failed", "stopped", "lost"]
    message: str = ""  # why, in the cluster's words, one line
    transient: bool = False  # the failure is the cluster's, not the job's: it may pass by itself

    @property
    def ended(self) -> bool:
        """Whether nothing runs any more."""
        return self.state not in ("pending", "running")

    @property
    def title(self) -> str:
        """What people find it by: its name, and where the cluster has another one, that."""
        return self.name if self.native_id == self.name else f"{self.name} ({self.native_id})"


class Target(Protocol):
    """A cluster's job interface. What raises OSError is taken for a broken connection, and tried again."""

    def latest(self, name: str) -> Attempt | None:
        """The last attempt at the job `name`, living or ended; None where the cluster knows none."""

    def submit(self, attempt: str, command: Sequence[str], output: Path) -> str:
        """The native id of a new job that runs `command`. Raises AlreadySubmittedError; StageError if refused."""

    def look(self, native_id: str) -> Attempt:
        """How the job is."""

    def pass_on(self, native_id: str, output: Path) -> None:
        """What the job's log got since the last call stands on stdout; may wait for it while the job runs."""

    def cancel(self, native_id: str) -> None:
        """The job is told to stop, as by SIGTERM; it may take its time."""


def open_target(name: TargetName, cluster: Cluster) -> Target:
    """The cluster that the recipe means. Raises SetupError where it cannot be reached, and the way out."""
    if name == "kubernetes":
        from jobs.launch.kubernetes import KubernetesTarget

        return KubernetesTarget(cluster)
    if name == "ray":
        from jobs.launch.ray_jobs import RayJobs, connect

        assert cluster.ray.jobs_address is not None
        return RayJobs(connect(cluster.ray.jobs_address), archive=cluster.archive is not None)
    if name == "spark":
        from jobs.launch.spark_submit import open_spark

        return open_spark(cluster)
    if name == "slurm":
        from jobs.launch.slurm import SlurmTarget

        return SlurmTarget(cluster)
    raise NotImplementedError(name, cluster)
