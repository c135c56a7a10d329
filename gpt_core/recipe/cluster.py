"""Where it is made, and who watches: the sections `cluster` and `tracking`. They enter no fingerprint."""

from typing import Annotated, Self

from pydantic import (
    Field,
    model_validator,
)

from gpt_core.recipe.section import (
    Name,
    PositiveInt,
    Section,
    Text,
)
from gpt_core.store_uri import store_uri_problem


class SparkCluster(Section):
    """Where clean and dedup run."""

    master: Text = Field("local[*]", description="A Spark master.")
    driver_memory: Annotated[str, Field(pattern=r"^[1-9][0-9]*[mg]$")] = Field("2g", description="JVM heap.")
    executor_memory: Annotated[str, Field(pattern=r"^[1-9][0-9]*[mg]$")] = Field(
        "2g", description="JVM heap of an executor; a local master has none."
    )
    partitions: PositiveInt | None = Field(None, description="Shuffle partitions; default: two a core.")


class RayCluster(Section):
    """Where shards are made."""

    jobs_address: Annotated[str, Field(pattern=r"^https?://[^@\s]+$")] | None = Field(
        None, description="Ray's Jobs API, http://HOST:8265: the stage is a job there; default: a process here."
    )
    address: Text | None = Field(
        None, description="A running cluster that the process here joins; default: it starts a local one."
    )
    cpus: PositiveInt | None = Field(None, description="CPUs of the local Ray; default: all.")
    object_store_bytes: Annotated[int, Field(ge=80_000_000)] = Field(500_000_000, description="Of the local Ray.")


class TrainCluster(Section):
    """Where pretrain and finetune run."""

    processes: PositiveInt = Field(1, description="Ranks on this machine.")
    zero_stage: Annotated[int, Field(ge=0, le=3)] = Field(2, description="DeepSpeed ZeRO stage.")
    micro_batch_sequences: PositiveInt = Field(8, description="Most sequences a rank takes at once.")
    threads_per_process: PositiveInt | None = Field(None, description="CPU threads a rank; default: cores / ranks.")
    shards_from: Text | None = Field(
        None, description="s3://, gs:// or file:// folder that `gptmill shards push` copied to; default: local shards."
    )
    shard_cache: Text | None = Field(
        None, description="Folder of the local copies of those shards; default: shard-cache in the workspace."
    )
    shard_cache_bytes: PositiveInt = Field(50_000_000_000, description="Most bytes in that folder.")
    checkpoint_every_steps: PositiveInt = Field(500, description="Steps between checkpoints.")
    keep_checkpoints: PositiveInt = Field(2, description="Checkpoints kept while the stage runs.")

    @model_validator(mode="after")
    def _copy_can_be_read(self) -> Self:
        problem = store_uri_problem(self.shards_from) if self.shards_from is not None else None
        if problem is not None:
            raise ValueError(f"cluster.train.shards_from: {problem}")
        return self


class Cluster(Section):
    """Where the stages run. The same recipe moves to another machine by changing only this section."""

    spark: SparkCluster = SparkCluster()
    ray: RayCluster = RayCluster()
    train: TrainCluster = TrainCluster()


class Tracking(Section):
    """MLflow."""

    uri: Text | None = Field(None, description="Tracking server; default: sqlite in the workspace.")
    experiment: Text = Field("gptmill", description="Experiment that holds the runs.")
    registered_model: Name | None = Field(None, description="Default: {name}-classifier.")
    alias: Name = Field("candidate", description="Alias that the newly registered version gets.")
