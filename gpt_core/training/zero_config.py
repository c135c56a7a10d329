"""DeepSpeed's configuration, derived from the recipe: no number of it stands anywhere else."""

from gpt_core.fingerprint import Json
from gpt_core.recipe import Optimization, TrainCluster

NEVER = 2**31 - 1
BUCKET_ELEMENTS = 2**23  # 32 MB in fp32, as torch's DDP sends 25 at once; ZeRO takes it twice: to fill, and to send


def micro_batch_size(batch_sequences: int, *, world_size: int, at_most: int) -> int:
    """The largest number of sequences, `at_most` at most, that divides a rank's part of the global batch evenly."""
    part = batch_sequences // world_size
    return next(size for size in range(min(part, at_most), 0, -1) if part % size == 0)


def reduce_bucket_elements(parameters: int) -> int:
    """Elements of the buffer in which gradients are reduced, for a model of so many parameters."""
    return min(parameters, BUCKET_ELEMENTS)


def make_zero_config(
    settings: Optimization, train: TrainCluster, *, micro_batch: int, parameters: int
) -> dict[str, Json]:
    """DeepSpeed's dict for a model of so many `parameters`; the loop marks accumulation itself.

    Weights are fp32, or bf16 beside fp32 ones with fp32 accumulation; `autocast` is the objective's. The optimizer is
    ours, also for states in the host's memory: DeepSpeed's own would be compiled at the first start, for minutes.
    """
    config: dict[str, Json] = {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": settings.gradient_clip,
        "zero_optimization": _zero(train, parameters),
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": NEVER,
    }
    if settings.precision == "bf16":
        # Its check for gradients that are not finite would keep them for the next step where states are offloaded at
        # stage 1 and 2; the norm tells, and the optimizer asks.
        config |= {"bf16": {"enabled": True, "check_grad_overflow": False}, "data_types": {"grad_accum_dtype": "fp32"}}
    return config


def _zero(train: TrainCluster, parameters: int) -> dict[str, Json]:
    bucket = reduce_bucket_elements(parameters)
    zero: dict[str, Json] = {"stage": train.zero_stage, "reduce_bucket_size": bucket}
    if train.zero_stage == 3:
        zero |= {
            "sub_group_size": parameters,  # one vector a group: Muon needs to know what stands where
            "stage3_max_live_parameters": bucket,  # DeepSpeed's own, 1e9, keeps most models whole on every rank
            "stage3_max_reuse_distance": 0,
            "stage3_prefetch_bucket_size": bucket // 2,
        }
    host: dict[str, Json] = {"device": "cpu", "pin_memory": True}
    if train.offload != "none":
        zero["offload_optimizer"] = host
    if train.offload == "parameters":
        zero["offload_param"] = host
    return zero
