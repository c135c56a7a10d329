"""Where it is made, and who watches: the sections `cluster` and `tracking`. They enter no fingerprint."""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from gpt_core.recipe.section import Name, NonNegativeInt, PositiveFloat, PositiveInt, Section, Text
from gpt_core.recipe.train_cluster import TrainCluster
from gpt_core.store_uri import tracking_uri_problem, without_secrets

Memory = Annotated[str, Field(pattern=r"^[1-9][0-9]*[mg]$")]
DnsName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]  # RFC 1123 label
_PLACE = r"[^\s/:,@]+:[0-9]{1,5}"
_SPARK_MASTER = re.compile(
    rf"local(\[([1-9][0-9]*|\*)(,[1-9][0-9]*)?\])?|spark://{_PLACE}(,{_PLACE})*|yarn|k8s://https?://[^\s@?#]+"
)


def mebibytes(memory: str) -> int:
    """What `4g` and `512m` mean."""
    return int(memory[:-1]) * (1024 if memory.endswith("g") else 1)


class SparkCluster(Section):
    """Where clean and dedup run."""

    master: Text = Field(
        "local[*]",
        description="local[n], spark://HOST:7077, yarn, or k8s://https://HOST:6443 with what cluster.kubernetes says.",
    )
    deploy_mode: Literal["client", "cluster"] = Field(
        "client", description="Where the driver runs with yarn and k8s://: here, or on the cluster."
    )
    driver_memory: Memory = Field("2g", description="JVM heap.")
    executor_memory: Memory = Field(
        "2g",
        description="JVM heap of an executor; a local master has none. For Python stands beside it with yarn as much "
        "again, with k8s:// the rest of cluster.kubernetes.memory.",
    )
    executors: PositiveInt = Field(2, description="With yarn and k8s://; else as many as there are machines.")
    executor_cores: PositiveInt | None = Field(
        None, description="Default: with yarn 1, with k8s:// cluster.kubernetes.cpus, else all of its machine."
    )
    partitions: PositiveInt | None = Field(None, description="Shuffle partitions; default: two a core.")

    @property
    def manager(self) -> Literal["local", "standalone", "yarn", "kubernetes"]:
        """What places the tasks."""
        if self.master == "yarn":
            return "yarn"
        kinds: dict[str, Literal["standalone", "kubernetes"]] = {"spark": "standalone", "k8s": "kubernetes"}
        return kinds.get(self.master.partition("://")[0], "local")

    @model_validator(mode="after")
    def _master_takes_these_jobs(self) -> Self:
        if self.master.startswith("sc://"):
            raise ValueError(
                f"cluster.spark.master={self.master!r}: Spark Connect runs DataFrames and no Python over Arrow tables, "
                "which clean and dedup are; give the cluster's own master: spark://HOST:7077, yarn or "
                "k8s://https://HOST:6443"
            )
        if not _SPARK_MASTER.fullmatch(self.master):
            raise ValueError(
                f"cluster.spark.master={self.master!r} is no master; write local[n], spark://HOST:7077, yarn or "
                "k8s://https://HOST:6443"
            )
        if self.deploy_mode == "cluster" and self.manager not in ("yarn", "kubernetes"):
            raise ValueError(
                f"cluster.spark.deploy_mode=cluster is of yarn and k8s://; {self.master} runs no Python driver: leave "
                "it out"
            )
        return self


class RayCluster(Section):
    """Where shards are made."""

    launcher: Literal["ray", "kubernetes"] = Field(
        "ray",
        description="`ray`: as jobs_address or address say, else a Ray of its own; `kubernetes`: a RayJob of KubeRay.",
    )
    workers: PositiveInt = Field(1, description="Worker pods of the RayJob.")
    jobs_address: Annotated[str, Field(pattern=r"^https?://[^@\s]+$")] | None = Field(
        None, description="Ray's Jobs API, http://HOST:8265: the stage is a job there; default: a process here."
    )
    address: Text | None = Field(
        None, description="A running cluster that the process here joins; default: it starts a local one."
    )
    cpus: PositiveInt | None = Field(None, description="CPUs of the local Ray; default: all.")
    object_store_bytes: Annotated[int, Field(ge=80_000_000)] = Field(500_000_000, description="Of the local Ray.")


class ProcessCluster(Section):
    """Where tokenizer and evaluate run."""

    launcher: Literal["process", "slurm", "kubernetes"] = Field(
        "process", description="A process here; a job of cluster.slurm; a Job of cluster.kubernetes."
    )


class Slurm(Section):
    """How sbatch is asked for the machines of the stages whose launcher is `slurm`."""

    partition: Name | None = Field(None, description="Default: Slurm's.")
    account: Name | None = Field(None, description="Who pays; default: Slurm's.")
    qos: Name | None = Field(None, description="Quality of service; default: Slurm's.")
    cpus_per_task: PositiveInt | None = Field(None, description="CPUs a node of the job; default: Slurm's.")
    gpus_per_node: NonNegativeInt = Field(0, description="GPUs of a node of a training; 0: none is asked for.")
    memory: Memory | None = Field(None, description="Memory of a node, `64g`; default: Slurm's.")
    constraint: Text | None = Field(None, description="Features that a node must have.")


class Kubernetes(Section):
    """Where the stages run whose launcher is `kubernetes`, and Spark with a k8s:// master."""

    namespace: DnsName = Field("default", description="Of all that is submitted.")
    context: Text | None = Field(None, description="Of kubectl's configuration; default: the current one.")
    image: Text | None = Field(None, description="Image with gptmill installed; must be given.")
    service_account: DnsName | None = Field(None, description="Default: the namespace's.")
    claim: DnsName | None = Field(
        None, description="PersistentVolumeClaim with the raw files and the workspace, ReadWriteMany; must be given."
    )
    mount: Annotated[str, Field(pattern=r"^/[^:]*$")] | None = Field(
        None, description="Where the claim stands here and in every pod; default: the workspace's parent folder."
    )
    secret: DnsName | None = Field(
        None, description="Secret whose keys become environment variables: credentials of MLflow or an object store."
    )
    cpus: PositiveInt = Field(2, description="Of a pod.")
    memory: Memory = Field("4g", description="Of a pod.")
    gpus: NonNegativeInt = Field(0, description="Of a pod that trains (nvidia.com/gpu).")
    runtime: DnsName = Field("torch-distributed", description="ClusterTrainingRuntime that a TrainJob refers to.")


class StageMinutes(Section):
    """Time limits of stages."""

    clean: PositiveFloat | None = Field(None, description="Default: none.")
    dedup: PositiveFloat | None = Field(None, description="Default: none.")
    tokenizer: PositiveFloat | None = Field(None, description="Default: none.")
    shards: PositiveFloat | None = Field(None, description="Default: none.")
    pretrain: PositiveFloat | None = Field(None, description="Default: none.")
    finetune: PositiveFloat | None = Field(None, description="Default: none.")
    evaluate: PositiveFloat | None = Field(None, description="Default: none.")


class Limits(Section):
    """What the runner does about stages that fail or take too long."""

    retries: NonNegativeInt = Field(
        2,
        description="How often a stage is started again whose failure may pass by itself, such as a lost machine.",
    )
    backoff_seconds: PositiveFloat = Field(10.0, description="Wait before the first of them; doubled each time.")
    minutes: StageMinutes = StageMinutes()

    def minutes_of(self, stage: str) -> float | None:
        """The time limit of a stage; None: there is none."""
        found: float | None = getattr(self.minutes, stage)
        return found


class Cluster(Section):
    """Where the stages run. The same recipe moves to another machine by changing only this section."""

    spark: SparkCluster = SparkCluster()
    ray: RayCluster = RayCluster()
    train: TrainCluster = TrainCluster()
    process: ProcessCluster = ProcessCluster()
    slurm: Slurm = Slurm()
    kubernetes: Kubernetes = Kubernetes()
    limits: Limits = Limits()
    archive: Text | None = Field(
        None,
        description="What `gptmill pack` made: code and packages of jobs on clusters; default: each machine's own, "
        "under the same path as here.",
    )

    @model_validator(mode="after")
    def _spark_has_pods(self) -> Self:
        spark, pods = self.spark, self.kubernetes
        for field in ("executor_memory", "driver_memory") if spark.manager == "kubernetes" else ():
            heap = getattr(spark, field)
            if mebibytes(heap) >= mebibytes(pods.memory):
                raise ValueError(
                    f"cluster.kubernetes.memory={pods.memory} leaves nothing for Python beside "
                    f"cluster.spark.{field}={heap}"
                )
        return self

    @model_validator(mode="after")
    def _pods_can_be_made(self) -> Self:
        sections = {"process": self.process.launcher, "ray": self.ray.launcher, "train": self.train.launcher}
        submitted = [
            f"cluster.{name}.launcher is kubernetes" for name, launcher in sections.items() if launcher == "kubernetes"
        ]
        if self.spark.manager == "kubernetes":
            submitted.append(f"cluster.spark.master is {self.spark.master}")
        missing = [name for name in ("image", "claim") if getattr(self.kubernetes, name) is None]
        if submitted and missing:
            raise ValueError(f"cluster.kubernetes.{missing[0]}: must be given, as {submitted[0]}")
        if self.train.launcher == "kubernetes" and (self.train.min_nodes or self.train.max_restarts):
            field = "min_nodes" if self.train.min_nodes else "max_restarts"
            raise ValueError(
                f"cluster.train.{field}: the ranks of a TrainJob start once, and all of them; leave it out: "
                "cluster.limits.retries says how often the stage is started again"
            )
        return self

    @model_validator(mode="after")
    def _ray_train_has_jobs(self) -> Self:
        if self.train.launcher == "ray" and self.ray.jobs_address is None:
            raise ValueError(
                "cluster.train.launcher=ray needs cluster.ray.jobs_address: http://HOST:8265 of the cluster's head"
            )
        return self

    @model_validator(mode="after")
    def _places_hold_no_secret(self) -> Self:
        for engine, settings in self.model_dump().items():
            for name, value in settings.items() if isinstance(settings, dict) else ():
                if isinstance(value, str) and without_secrets(value) != value:
                    raise ValueError(
                        f"cluster.{engine}.{name}: holds credentials or options; they come from the environment"
                    )
        return self


class Tracking(Section):
    """MLflow."""

    uri: Text | None = Field(
        None,
        description="Tracking server, or a database without its password; default: MLFLOW_TRACKING_URI, else sqlite in "
        "the workspace.",
    )
    system_metrics: bool = Field(True, description="CPU, memory, network and GPUs of every node, while it trains.")
    sample_tokens: NonNegativeInt = Field(
        48, description="New tokens of evaluate.prompts' first, written after every validation; 0: none."
    )
    experiment: Text = Field("gptmill", description="Experiment that holds the runs.")
    registered_model: Name | None = Field(None, description="Default: {name}-classifier.")
    registered_language_model: Name | None = Field(None, description="Default: {name}-language-model.")
    alias: Name = Field(
        "candidate",
        description="Alias that the newly registered version gets; `champion` is moved to it where it is better.",
    )

    @model_validator(mode="after")
    def _uri_holds_no_secret(self) -> Self:
        problem = tracking_uri_problem(self.uri, in_recipe=True) if self.uri is not None else None
        if problem is not None:
            raise ValueError(f"tracking.uri: {problem}")
        return self
