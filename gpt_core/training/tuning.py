"""What the trainings of one fine-tuning have in common: the rows, the task, and the model that each begins with."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from gpt_core.model.decoder import Decoder
from gpt_core.model.heads import TaskModel
from gpt_core.model.hf import load_decoder
from gpt_core.model.hf_config import LANGUAGE_MODEL, read_config
from gpt_core.model.start import load_for_task
from gpt_core.model.trainable import freeze
from gpt_core.recipe import Finetune
from gpt_core.tasks.class_weights import class_weights
from gpt_core.tasks.labelled import read_splits
from gpt_core.tasks.sequences import Examples, encode_rows
from gpt_core.tasks.spec import TaskSpec
from gpt_core.tokenizer.existing import open_model_tokenizer
from gpt_core.tokenizer.tokenizer import Tokenizer
from gpt_core.training.objective import CompletionObjective, TaskObjective


@dataclass(frozen=True)
class Tuning:
    """A language model, its tokenizer and the labelled rows of a task."""

    settings: Finetune
    folder: Path  # of the language model and its tokenizer
    tokenizer: Tokenizer
    spec: TaskSpec
    train: Examples
    validation: Examples
    class_weights: npt.NDArray[np.float64] | None  # (L,)

    @classmethod
    def read(cls, settings: Finetune, folder: Path) -> Self:
        """The rows are read and encoded for the model in `folder`. Raises InputError for the first bad one."""
        splits = read_splits(settings)
        tokenizer = open_model_tokenizer(folder, field="finetune.model")
        config, _ = read_config(folder, LANGUAGE_MODEL)
        max_tokens = settings.max_tokens or config.context_length
        spec = TaskSpec.of_recipe(settings, splits.labels, max_tokens=max_tokens, vocab_size=tokenizer.vocab_size)
        train = encode_rows(splits.train, tokenizer, spec)
        validation = encode_rows(splits.validation, tokenizer, spec)
        return cls(settings, folder, tokenizer, spec, train, validation, class_weights(settings, splits.labels, train))

    @property
    def pad_id(self) -> int:
        """Behind the shorter sequences; what it is does not matter to a language model, which ignores it."""
        return self.spec.marks.pad if self.spec.marks is not None else self.tokenizer.end_of_text_id

    def settings_of(self, *, seed: int, from_scratch: bool) -> Finetune:
        """The recipe's, with the training's seed. From random weights everything learns: frozen, they know nothing."""
        changes: dict[str, object] = {"seed": seed}
        if from_scratch:
            changes |= {"trainable": "all", "trainable_blocks": None}
        return self.settings.model_copy(update=changes)

    def make_model(self, *, seed: int, from_scratch: bool) -> TaskModel | Decoder:
        """The model as a training begins with it. `seed` makes the head, the marks' rows and all random weights."""
        marks = self.spec.marks
        decoder = (
            load_decoder(self.folder)
            if marks is None
            else load_for_task(self.folder, self.tokenizer.vocab_size, seed=seed)
        )
        if from_scratch:
            decoder.init_weights(seed)
        settings = self.settings_of(seed=seed, from_scratch=from_scratch)
        model: TaskModel | Decoder = decoder
        if self.spec.target != "text":
            model = TaskModel(
                decoder,
                n_outputs=self.spec.n_outputs,
                target=self.spec.target,
                dropout=settings.classifier_dropout,
                seed=seed,
            )
        freeze(model, settings, marks)
        return model

    def make_objective(self, model: TaskModel | Decoder) -> nn.Module:
        """What is minimized, as sums; the model's weights stand below `model.`."""
        precision = self.settings.precision
        if isinstance(model, Decoder):
            return CompletionObjective(model, precision)
        return TaskObjective(
            model,
            self.spec,
            precision,
            with_language_model=self.settings.lm_weight > 0,
            class_weights=None if self.class_weights is None else torch.tensor(self.class_weights, dtype=torch.float32),
        )
