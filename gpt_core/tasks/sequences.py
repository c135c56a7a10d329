"""Rows as token sequences (Radford et al. 2018, figure 1): what a fine-tuned model reads.

    classification   start text extract
    entailment       start premise delimiter hypothesis extract
    similarity       start first delimiter second extract, and the same with the texts exchanged
    multiple_choice  start context delimiter choice extract, one for each choice
    completion       end-of-text prompt completion end-of-text, of which the prompt is not learned

A sequence that is too long is cut at the end of its texts, of two the longer first; a completion loses the front of
its prompt, and its own end only behind that. Marks are never cut. A pair is cut as Hugging Face's `tokenizers` cuts it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from gpt_core.tasks.labelled import Label, Row
from gpt_core.tasks.spec import IGNORED, Marks, TaskSpec
from gpt_core.tokenizer.tokenizer import Tokenizer

Ids: TypeAlias = Sequence[int]
Sequences: TypeAlias = tuple[tuple[int, ...], ...]
Labels: TypeAlias = npt.NDArray[Any]  # int64 or float32, by target


@dataclass(frozen=True, eq=False)
class Examples:
    """A split, encoded: the sequences of each of its n examples, one or more, their labels and where they stand.

    `labels`: (n,) int64 for class and choice, (n, L) float32 of 0 and 1 for classes, (n,) float32 for number, zeros
    for text; -100 or NaN where a row has none. `loss_from` (n,): the first token of a sequence that is a target.
    """

    sequences: tuple[Sequences, ...]
    labels: Labels
    loss_from: npt.NDArray[np.int64]
    where: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.sequences)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of the longest sequence of each example, (n,)."""
        return np.array([max(map(len, each)) for each in self.sequences], dtype=np.int64)

    @property
    def n_targets(self) -> npt.NDArray[np.int64]:
        """Next-token targets of each example, (n,), over all its sequences."""
        whole = [sum(map(len, each)) for each in self.sequences]
        return np.array(whole, np.int64) - self.loss_from * np.array([len(each) for each in self.sequences], np.int64)


def encode_rows(rows: Sequence[Row], tokenizer: Tokenizer, spec: TaskSpec) -> Examples:
    """The rows as token ids, and their labels as numbers. A row without a label can be asked about, not learned from.

    A completion's row may have the prompt alone: its sequence ends with that, and nothing in it is a target.
    """
    texts = tokenizer.encode_batch([text for row in rows for text in row.texts])
    borders = accumulate((len(row.texts) for row in rows), initial=0)
    encoded = [texts[start:stop] for start, stop in pairwise(borders)]
    loss_from = np.ones(len(rows), dtype=np.int64)
    if spec.marks is None:
        made = [_complete(ids, tokenizer.end_of_text_id, spec.max_tokens) for ids in encoded]
        sequences: tuple[Sequences, ...] = tuple((sequence,) for sequence, _ in made)
        loss_from[:] = [first for _, first in made]
    else:
        draw, marks = DRAWN[spec.task], spec.marks
        sequences = tuple(draw(ids, marks, spec.max_tokens) for ids in encoded)
    return Examples(sequences, label_numbers(rows, spec), loss_from, tuple(row.where for row in rows))


def _single(texts: Sequence[Ids], marks: Marks, max_tokens: int) -> Sequences:
    (text,) = texts
    return ((marks.start, *text[: max_tokens - 2], marks.extract),)


def _pair(texts: Sequence[Ids], marks: Marks, max_tokens: int) -> Sequences:
    first, second = texts
    return (_join(first, second, marks, max_tokens),)


def _both_orders(texts: Sequence[Ids], marks: Marks, max_tokens: int) -> Sequences:
    first, second = texts
    return (_join(first, second, marks, max_tokens), _join(second, first, marks, max_tokens))


def _each_choice(texts: Sequence[Ids], marks: Marks, max_tokens: int) -> Sequences:
    context, *choices = texts
    return tuple(_join(context, choice, marks, max_tokens) for choice in choices)


DRAWN: dict[str, Callable[[Sequence[Ids], Marks, int], Sequences]] = {
    "classification": _single,
    "entailment": _pair,
    "similarity": _both_orders,
    "multiple_choice": _each_choice,
}


def _join(first: Ids, second: Ids, marks: Marks, max_tokens: int) -> tuple[int, ...]:
    kept, others = fit_pair(len(first), len(second), room=max_tokens - 3)
    return (marks.start, *first[:kept], marks.delimiter, *second[:others], marks.extract)


def fit_pair(first: int, second: int, *, room: int) -> tuple[int, int]:
    """How many tokens of two texts have room together: the longer is cut first, down to the shorter, then both.

    An odd token is that of the longer, of equals of the second: exchanged texts keep what they kept.
    """
    if first + second <= room:
        return first, second
    least = min(first, second, room // 2)
    return (least, room - least) if first <= second else (room - least, least)


def _complete(texts: Sequence[Ids], end_of_text: int, max_tokens: int) -> tuple[tuple[int, ...], int]:
    """(the sequence, its first target)."""
    prompt, *rest = texts
    if not rest:
        sequence = (end_of_text, *prompt[max(0, len(prompt) - max_tokens + 1) :])
        return sequence, len(sequence)
    completion = rest[0][: max_tokens - 2]
    kept = min(len(prompt), max_tokens - 2 - len(completion))
    return (end_of_text, *prompt[len(prompt) - kept :], *completion, end_of_text), 1 + kept


def label_numbers(rows: Sequence[Row], spec: TaskSpec) -> Labels:
    """The labels of the rows, as `Examples` has them."""
    number = {name: index for index, name in enumerate(spec.labels)}
    if spec.target == "text":
        return np.zeros(len(rows), dtype=np.int64)
    if spec.target == "number":
        return np.array([np.nan if row.label is None else row.label for row in rows], dtype=np.float32)
    if spec.target == "classes":
        labels = np.zeros((len(rows), len(number)), dtype=np.float32)
        for index, row in enumerate(rows):
            if isinstance(row.label, tuple):
                labels[index, [number[name] for name in row.label]] = 1.0
            else:
                labels[index] = np.nan
        return labels
    return np.array([_told(row.label, number) for row in rows], dtype=np.int64)


def _told(label: Label, number: dict[str, int]) -> int:
    """The number of a class, or the place of a choice."""
    if label is None:
        return IGNORED
    assert isinstance(label, str | int), label
    return number[label] if isinstance(label, str) else label
