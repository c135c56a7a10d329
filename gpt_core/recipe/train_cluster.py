"""Where pretrain and finetune run: ranks, machines, ZeRO, checkpoints. It enters no fingerprint."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from gpt_core.recipe.section import NonNegativeInt, PositiveFloat, PositiveInt, Section, Text
from gpt_core.store_uri import store_uri_problem


class TrainCluster(Section):
    """Where pretrain and finetune run."""

    launcher: Literal["torchrun", "slurm", "ray", "kubernetes"] = Field(
        "torchrun",
        description="Who starts the ranks: torchrun here, with a hostfile DeepSpeed's launcher; srun in a job of "
        "cluster.slurm; Ray Train in a job of cluster.ray.jobs_address; a TrainJob of cluster.kubernetes.",
    )
    processes: PositiveInt = Field(1, description="Ranks on each node.")
    nodes: PositiveInt = Field(1, description="Machines.")
    min_nodes: PositiveInt | None = Field(
        None, description="Go on with so few where others are lost, from the last checkpoint; default: all nodes."
    )
    rendezvous: Annotated[str, Field(pattern=r"^[^\s:/]+:[0-9]+$")] | None = Field(
        None, description="HOST:PORT of the node that all nodes meet at; it must outlive the others."
    )
    hostfile: Text | None = Field(
        None, description="Hostfile of DeepSpeed's launcher, which starts the ranks by ssh in torchrun's place."
    )
    max_restarts: NonNegativeInt = Field(
        0, description="How often a training that lost a rank starts again from its last checkpoint by itself."
    )
    zero_stage: Annotated[int, Field(ge=0, le=3)] = Field(2, description="DeepSpeed ZeRO stage.")
    offload: Literal["none", "optimizer", "parameters"] = Field(
        "none",
        description="What stands in the host's memory in place of the GPU's: optimizer states (stage 1 to 3); "
        "`parameters`: these and the weights (stage 3).",
    )
    micro_batch_sequences: PositiveInt = Field(8, description="Most sequences a rank takes at once.")
    activation_checkpointing: bool = Field(
        False, description="Keep a block's input alone and compute the block again in the backward pass."
    )
    compile: bool = Field(False, description="torch.compile: slower to start, faster steps.")
    threads_per_process: PositiveInt | None = Field(None, description="CPU threads a rank; default: cores / ranks.")
    memory_bytes: PositiveInt | None = Field(
        None, description="Memory of a rank, for the plan; default: of the GPU, or this machine's, shared by its ranks."
    )
    peak_flops: PositiveFloat | None = Field(
        None, description="A rank's peak for the utilization; default: the GPU's data sheet, or measured on a CPU."
    )
    shards_from: Text | None = Field(
        None, description="s3://, gs:// or file:// folder that `gptmill shards push` copied to; default: local shards."
    )
    shard_cache: Text | None = Field(
        None, description="Folder of the local copies of those shards; default: shard-cache in the workspace."
    )
    shard_cache_bytes: PositiveInt = Field(50_000_000_000, description="Most bytes in that folder.")
    checkpoint_every_steps: PositiveInt = Field(500, description="Steps between checkpoints.")
    keep_checkpoints: PositiveInt = Field(2, description="Newest checkpoints kept while the stage runs.")
    keep_every_steps: PositiveInt | None = Field(None, description="Beside them every checkpoint at a multiple.")
    keep_best: bool = Field(False, description="Beside them the one with the least validation loss.")
    background_checkpoints: bool = Field(
        False, description="Write checkpoints while the training goes on; takes host memory for one more copy."
    )

    @property
    def world_size(self) -> int:
        """Ranks over all nodes."""
        return self.processes * self.nodes

    @model_validator(mode="after")
    def _offload_fits(self) -> Self:
        least = {"none": 0, "optimizer": 1, "parameters": 3}[self.offload]
        if self.zero_stage < least:
            raise ValueError(
                f"cluster.train.offload={self.offload} needs cluster.train.zero_stage of {least} or more, "
                f"not {self.zero_stage}"
            )
        return self

    @model_validator(mode="after")
    def _nodes_meet(self) -> Self:
        if self.launcher != "torchrun" and (self.rendezvous or self.hostfile):
            field = "rendezvous" if self.rendezvous else "hostfile"
            raise ValueError(
                f"cluster.train.{field} is of torchrun here; with launcher {self.launcher} the machines meet by "
                "themselves: leave it out"
            )
        if self.launcher == "torchrun" and self.nodes > 1 and self.rendezvous is None and self.hostfile is None:
            raise ValueError(
                f"cluster.train.nodes={self.nodes} needs cluster.train.rendezvous: HOST:PORT, or a hostfile"
            )
        if self.launcher == "ray" and self.min_nodes is not None:
            raise ValueError(
                f"cluster.train.min_nodes={self.min_nodes}: Ray Train waits until there are all nodes; leave it out"
            )
        if self.min_nodes is not None and self.min_nodes > self.nodes:
            raise ValueError(f"cluster.train.min_nodes={self.min_nodes} exceeds cluster.train.nodes={self.nodes}")
        if self.hostfile is not None and (self.rendezvous or self.min_nodes or self.max_restarts):
            raise ValueError(
                f"cluster.train.hostfile={self.hostfile!r} is of DeepSpeed's launcher; rendezvous, min_nodes and "
                "max_restarts are of torchrun; leave out the one or the others"
            )
        return self

    @model_validator(mode="after")
    def _copy_can_be_read(self) -> Self:
        problem = store_uri_problem(self.shards_from) if self.shards_from is not None else None
        if problem is not None:
            raise ValueError(f"cluster.train.shards_from: {problem}")
        return self
