"""What Ray is asked for, and what of its errors a training may get over by itself; no Ray runs here."""

from ray.exceptions import RayActorError
from ray.train import WorkerGroupError
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback, WorkerHealthCheckFailedError

from gpt_core.errors import StageError, TransientError
from gpt_core.recipe import TrainCluster
from jobs.ray_train import _failure, resources_of_a_machine

FAILED = UserExceptionWithTraceback(
    ValueError(), "Traceback ...\njobs.ray_ranks.RankFailedError: rank 1 on here was killed by SIGKILL\n"
)


def test_a_machine_has_a_cpu_a_thread_and_a_gpu_a_rank() -> None:
    train = TrainCluster(processes=8, threads_per_process=4)
    assert resources_of_a_machine(train, gpus=True) == {"CPU": 32, "GPU": 8}
    assert resources_of_a_machine(TrainCluster(processes=8), gpus=False) == {"CPU": 8}


def test_a_failed_rank_is_named_and_a_lost_machine_may_be_tried_again() -> None:
    failed = _failure(WorkerGroupError("", {1: FAILED}))
    assert type(failed) is StageError
    assert str(failed) == "the training failed: rank 1 on here was killed by SIGKILL; the log says why"
    lost = WorkerHealthCheckFailedError("a check failed", failure=RayActorError(error_msg="its node was terminated"))
    told = _failure(WorkerGroupError("", {0: lost, 1: FAILED}))
    assert type(told) is TransientError
    assert "its node was terminated" in str(told)
