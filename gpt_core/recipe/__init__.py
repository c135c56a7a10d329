"""The recipe: the only place where a name, a default, a unit and a bound of gptmill stand.

A recipe states decisions. The sections `corpus`, `clean`, `dedup`, `tokenizer`, `shards`, `model`, `pretrain`,
`finetune` and `evaluate` say what is made: they enter the fingerprints. `name`, `workspace`, `cluster` and
`tracking` say what it is called, where it is made and who watches: they never do. What DeepSpeed, Spark and Ray
are configured with is derived from here. recipe_file.py reads recipes and words the refusals.

Sources of defaults: [gopher] Rae et al. 2021, table A1; [c4] Raffel et al. 2020, section 2.2; [fineweb] Penedo et
al. 2024, sections 3.2 to 3.6; [minhash] the same, section 3.4; [lines] Wenzek et al. 2020 (CCNet), section 3.1;
[gpt1] Radford et al. 2018, section 4.1; [gpt2] Radford et al. 2019; [gpt3] Brown et al. 2020, section C;
[cl100k] OpenAI's tiktoken, encoding cl100k_base; [repeat] Muennighoff et al. 2023, "Scaling data-constrained
language models"; [packing] Ding et al. 2024, "Fewer truncations improve language modeling"; [muon] Jordan et al.
2024, "Muon: an optimizer for hidden layers in neural networks"; [palm] Chowdhery et al. 2022, section 5; [wsd] Hu et
al. 2024 (MiniCPM), section 4; [nucleus] Holtzman et al. 2020, section 3.1; [lora] Hu et al. 2021, section 4.1.
"""

from typing import Self

from pydantic import Field, model_validator

from gpt_core.recipe.cluster import (
    Cluster,
    Kubernetes,
    Limits,
    ProcessCluster,
    RayCluster,
    Slurm,
    SparkCluster,
    Tracking,
)
from gpt_core.recipe.documents import (
    C4,
    Classifier,
    Clean,
    Corpus,
    Dedup,
    Fields,
    FineWeb,
    GopherQuality,
    GopherRepetition,
    LineDedup,
    Pii,
    UrlRules,
)
from gpt_core.recipe.finetune import Finetune, LabelKind, TaskName
from gpt_core.recipe.section import (
    Name,
    Section,
    Text,
)
from gpt_core.recipe.train_cluster import TrainCluster
from gpt_core.recipe.training import (
    MIN_MIXTURE_SHARE,
    OTHERS,
    Evaluate,
    MixtureSource,
    Model,
    Optimization,
    Pretrain,
    Shards,
    Tokenizer,
)

__all__ = [
    "C4",
    "MIN_MIXTURE_SHARE",
    "OTHERS",
    "Classifier",
    "Clean",
    "Cluster",
    "Corpus",
    "Dedup",
    "Evaluate",
    "Fields",
    "FineWeb",
    "Finetune",
    "GopherQuality",
    "GopherRepetition",
    "Kubernetes",
    "LabelKind",
    "Limits",
    "LineDedup",
    "MixtureSource",
    "Model",
    "Optimization",
    "Pii",
    "Pretrain",
    "ProcessCluster",
    "RayCluster",
    "Recipe",
    "Section",
    "Shards",
    "Slurm",
    "SparkCluster",
    "TaskName",
    "Tokenizer",
    "TrainCluster",
    "UrlRules",
]


class Recipe(Section):
    """From raw text to a fine-tuned, registered GPT."""

    name: Name = Field(description="What this recipe is called.")
    workspace: Text = Field("workspace", description="Folder of all outputs; relative to the working folder.")
    corpus: Corpus | None = Field(None, description="Leave it out to fine-tune finetune.model.")
    clean: Clean = Clean()
    dedup: Dedup = Dedup()
    tokenizer: Tokenizer = Tokenizer()
    shards: Shards = Shards()
    model: Model = Model()
    pretrain: Pretrain = Pretrain()
    finetune: Finetune | None = Field(None, description="Leave it out to stop at the language model.")
    evaluate: Evaluate = Evaluate()
    cluster: Cluster = Cluster()
    tracking: Tracking = Tracking()

    @property
    def raw(self) -> Corpus:
        """The corpus, of a recipe that has one."""
        assert self.corpus is not None, self.name
        return self.corpus

    @property
    def trainings(self) -> dict[str, Pretrain | Finetune]:
        """The sections of the trainings that the recipe asks for, by name, in order."""
        pretrain = {} if self.corpus is None else {"pretrain": self.pretrain}
        return pretrain | ({} if self.finetune is None else {"finetune": self.finetune})

    @property
    def step_tokens(self) -> int:
        """Tokens of a pre-training step, over all ranks."""
        return self.pretrain.batch_sequences * self.model.context_length

    @property
    def pretrain_steps(self) -> int:
        """Whole steps that pretrain.tokens makes."""
        return self.pretrain.tokens // self.step_tokens

    @model_validator(mode="after")
    def _begins_somewhere(self) -> Self:
        model = self.finetune.model if self.finetune is not None else None
        if self.corpus is None and model is None:
            raise ValueError("corpus is missing; give corpus.inputs, or with finetune.model a model to fine-tune")
        if self.corpus is not None and model is not None:
            raise ValueError(
                f"finetune.model={model!r} stands in place of the model that corpus and pretrain make; leave out one "
                "of them"
            )
        return self

    @model_validator(mode="after")
    def _sections_fit(self) -> Self:
        if self.pretrain_steps < 1:
            raise ValueError(
                f"pretrain.tokens={self.pretrain.tokens} is less than one step of pretrain.batch_sequences x "
                f"model.context_length = {self.step_tokens} tokens"
            )
        if self.pretrain.warmup_tokens > self.pretrain.tokens:
            raise ValueError(
                f"pretrain.warmup_tokens={self.pretrain.warmup_tokens} exceeds pretrain.tokens={self.pretrain.tokens}"
            )
        train = self.cluster.train
        for section, settings in self.trainings.items():
            if settings.batch_sequences % train.world_size:
                nodes = f" x cluster.train.nodes={train.nodes}" if train.nodes > 1 else ""
                raise ValueError(
                    f"{section}.batch_sequences={settings.batch_sequences} must be a multiple of "
                    f"cluster.train.processes={train.processes}{nodes}"
                )
            if settings.precision == "bf16" and train.zero_stage == 0:
                raise ValueError(
                    f"{section}.precision=bf16 needs the fp32 weights that ZeRO keeps: set cluster.train.zero_stage to "
                    "1, 2 or 3, or the precision to autocast"
                )
        tuning = self.finetune
        if tuning is not None and tuning.model is None and (tuning.max_tokens or 0) > self.model.context_length:
            raise ValueError(
                f"finetune.max_tokens={tuning.max_tokens} exceeds model.context_length={self.model.context_length}"
            )
        return self
