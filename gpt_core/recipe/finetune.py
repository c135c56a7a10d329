"""What a pre-trained model is tuned for: the section `finetune`."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from gpt_core.recipe.section import (
    Fraction,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Text,
)
from gpt_core.recipe.training import Optimization

TaskName = Literal["classification", "entailment", "similarity", "multiple_choice", "completion"]
LabelKind = Literal["class", "classes", "number"]

TEXT_FIELDS: dict[TaskName, tuple[str, ...]] = {  # of a labelled row, where the recipe names no others
    "classification": ("text",),
    "entailment": ("premise", "hypothesis"),
    "similarity": ("first", "second"),
    "multiple_choice": ("context", "choices"),
    "completion": ("prompt", "completion"),
}
LABEL_KINDS: dict[TaskName, tuple[LabelKind, ...]] = {
    "classification": ("class", "classes", "number"),
    "entailment": ("class",),
    "similarity": ("class", "number"),
    "multiple_choice": ("class",),
    "completion": ("class",),
}
LM_COEFFICIENT = 0.5  # [gpt1, section 4.1]


class Finetune(Optimization):
    """A task learned from labelled rows: L3 = L2 + lm_coefficient L1 [gpt1, eq. 3 to 5, figure 1]. Its defaults are
    the paper's.
    """

    model: Text | None = Field(
        None, description="Folder of a language model in Hugging Face layout, in place of corpus and pre-training."
    )
    task: TaskName = Field(
        "classification",
        description="`classification` of a text, `entailment` of a hypothesis by a premise, `similarity` of two texts "
        "in either order, `multiple_choice` among continuations of a context, `completion` of a prompt.",
    )
    labels: LabelKind = Field(
        "class",
        description="Of classification: one of several classes, any number of `classes`, or a `number`; of similarity: "
        "a class or a number.",
    )
    train: Text = Field(description="Labelled rows: JSONL, CSV or Parquet; the first two also as .gz.")
    validation: Text | None = Field(
        None, description="Labelled rows that pick the best epoch; default: validation_fraction of train."
    )
    validation_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        0.1, description="Share of train's rows, drawn by seed, where validation names no file."
    )
    test: Text = Field(description="Labelled rows that are scored once, at the end.")
    text_field: Text | None = Field(
        None, description="Field with the text; default: text, premise, first, context or prompt, by task."
    )
    second_field: Text | None = Field(
        None, description="Field with the other text; default: hypothesis, second, choices or completion, by task."
    )
    label_field: Text = Field(
        "label",
        description="Field with the label: a string, a list of strings for `classes`, a number for `number`; of "
        "multiple_choice the right choice's text, or its place from 0; completion has none.",
    )
    learning_rate: PositiveFloat = Field(6.25e-5, description="Peak learning rate.")
    weight_decay: NonNegativeFloat = Field(0.01, description="Decoupled decay of matrices.")
    beta2: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(0.999, description="Decay of the second moment.")
    max_examples: PositiveInt | None = Field(None, description="Most training examples, drawn by seed; default: all.")
    epochs: PositiveInt = Field(3, description="Passes over the training set.")
    batch_sequences: PositiveInt = Field(32, description="Examples in a step, over all ranks.")
    warmup_fraction: Fraction = Field(0.002, description="Share of the steps that warm up; then linear decay to 0.")
    lm_coefficient: NonNegativeFloat | None = Field(
        None,
        description="Lambda, the weight of the language model's loss; 0 switches it off. Default: 0.5; of completion, "
        "which is language modelling, 0.",
    )
    classifier_dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(0.1, description="Dropout before W_y.")
    max_tokens: Annotated[int, Field(ge=4)] | None = Field(
        None, description="Tokens of a sequence, start and extract tokens in; default: T."
    )
    class_weights: Literal["none", "balanced"] | dict[Text, PositiveFloat] = Field(
        "none",
        description="Weight of a class in the loss; `balanced`: examples / (classes x examples of the class). Those "
        "that are not named weigh 1.",
    )
    trainable: Literal["all", "head", "last_n", "lora"] = Field(
        "all",
        description="What learns beside the head and the new tokens: all, nothing, the last trainable_blocks, or "
        "low-rank additions to the matrices of the blocks [lora].",
    )
    trainable_blocks: PositiveInt | None = Field(None, description="Of `last_n`.")
    lora_rank: PositiveInt = Field(8, description="Of `lora`: r.")
    lora_alpha: PositiveFloat = Field(16.0, description="Of `lora`: the additions are scaled by alpha / r.")
    seeds: PositiveInt = Field(
        1, description="Trainings, with seed, seed + 1 and so on: figures are their mean, and the best model is kept."
    )
    from_scratch_baseline: bool = Field(True, description="Also train from random weights with the same budget.")

    @property
    def text_fields(self) -> tuple[str, ...]:
        """The fields of a row's texts."""
        names = TEXT_FIELDS[self.task]
        given = (self.text_field, self.second_field)[: len(names)]
        return tuple(own or name for own, name in zip(given, names, strict=True))

    @property
    def lm_weight(self) -> float:
        """Lambda."""
        if self.lm_coefficient is None:
            return 0.0 if self.task == "completion" else LM_COEFFICIENT
        return self.lm_coefficient

    @model_validator(mode="after")
    def _task_fits(self) -> Self:
        kinds = LABEL_KINDS[self.task]
        if self.labels not in kinds:
            raise ValueError(
                f"finetune.labels={self.labels} is not for finetune.task={self.task}, which takes {' or '.join(kinds)}"
            )
        if self.second_field is not None and self.task == "classification":
            raise ValueError(
                f"finetune.second_field={self.second_field!r} is not for finetune.task=classification, which reads "
                "one text; leave it out"
            )
        if self.task == "completion" and self.lm_coefficient:
            raise ValueError(
                f"finetune.lm_coefficient={self.lm_coefficient:g} is not for finetune.task=completion, which is "
                "language modelling; leave it out"
            )
        if self.task == "completion" and self.trainable == "head":
            raise ValueError(
                "finetune.trainable=head is not for finetune.task=completion, which has no head; take another"
            )
        weighted = self.labels == "class" and self.task not in ("multiple_choice", "completion")
        if self.class_weights != "none" and not weighted:
            raise ValueError(
                "finetune.class_weights are for tasks whose label is one of several classes; leave them out of "
                f"finetune.task={self.task} with finetune.labels={self.labels}"
            )
        if (self.trainable_blocks is not None) != (self.trainable == "last_n"):
            raise ValueError(
                f"finetune.trainable_blocks={self.trainable_blocks} with finetune.trainable={self.trainable}: give it "
                "with last_n, and with nothing else"
            )
        return self
