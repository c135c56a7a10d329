"""What a fine-tuned model does, in a file beside its weights: whoever encodes for it reads it there.

transformers ignores the file. No torch here.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Self

from gpt_core.artifact import write_json
from gpt_core.errors import InputError
from gpt_core.recipe import Finetune, TaskName

TASK = "task.json"
IGNORED = -100  # a target or a label that counts nothing, as torch's losses have it

Target = Literal["class", "classes", "number", "choice", "text"]


@dataclass(frozen=True)
class Marks:
    """Ids of the tokens that fine-tuning adds: they stand behind the tokenizer's own, in this order."""

    start: int
    delimiter: int
    extract: int
    pad: int

    @classmethod
    def behind(cls, vocab_size: int) -> Self:
        """The first four ids that a tokenizer of `vocab_size` tokens leaves free."""
        return cls(*range(vocab_size, vocab_size + 4))


@dataclass(frozen=True)
class TaskSpec:
    """A task as its model knows it. `marks` is None for completion, whose sequences need no new tokens."""

    task: TaskName
    target: Target
    labels: tuple[str, ...]  # names of the classes; none for a number, a choice or text
    fields: tuple[str, ...]  # of the texts in a row
    label_field: str
    max_tokens: int  # of a sequence, marks in
    marks: Marks | None

    @classmethod
    def of_recipe(cls, settings: Finetune, labels: tuple[str, ...], *, max_tokens: int, vocab_size: int) -> Self:
        """The task of `settings`; `vocab_size` is the tokenizer's."""
        return cls(
            task=settings.task,
            target=target_of(settings),
            labels=labels,
            fields=settings.text_fields,
            label_field=settings.label_field,
            max_tokens=max_tokens,
            marks=None if settings.task == "completion" else Marks.behind(vocab_size),
        )

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The task of the model in `folder`. Raises InputError where its file is missing or not one of ours."""
        path = folder / TASK
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
            marks = tree["marks"]
            tuples = {name: tuple(tree[name]) for name in ("labels", "fields")}
            return cls(**tree | tuples | {"marks": None if marks is None else Marks(**marks)})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: does not tell a task: {error}; give the folder of a fine-tuned model") from None

    def write(self, folder: Path) -> Path:
        """The task stands in `folder`."""
        return write_json(folder / TASK, asdict(self))

    @property
    def n_outputs(self) -> int:
        """Numbers that the head gives for an example; 1 for each of the choices, 0 for text, which has no head."""
        if self.target in ("class", "classes"):
            return len(self.labels)
        return 0 if self.target == "text" else 1


def target_of(settings: Finetune) -> Target:
    """What the recipe's task predicts."""
    if settings.task == "multiple_choice":
        return "choice"
    return "text" if settings.task == "completion" else settings.labels
