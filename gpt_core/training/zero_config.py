"""DeepSpeed's configuration, derived from the recipe: no number of it stands anywhere else."""

from gpt_core.fingerprint import Json
from gpt_core.recipe import Optimization, TrainCluster

NEVER = 2**31 - 1


def micro_batch_size(batch_sequences: int, *, world_size: int, at_most: int) -> int:
    """The largest number of sequences, `at_most` at most, that divides a rank's part of the global batch evenly."""
    part = batch_sequences // world_size
    return next(size for size in range(min(part, at_most), 0, -1) if part % size == 0)


def make_zero_config(settings: Optimization, train: TrainCluster, *, micro_batch: int) -> dict[str, Json]:
    """DeepSpeed's dict. Weights are fp32 (bf16 is the objective's autocast); the loop marks accumulation itself."""
    return {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": settings.gradient_clip,
        "zero_optimization": {"stage": train.zero_stage},
        "steps_per_print": NEVER,
    }
