"""Figures of a classifier, from true and predicted label numbers. numpy alone.

Undefined ratios, of a label that was never predicted or never occurs, count 0, as in scikit-learn.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class LabelScore:
    """How well one label is found. `support` is how many examples have it."""

    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class ClassificationScore:
    """`confusion[i][j]` counts examples of label i that were predicted as j. `macro_f1` is the mean F1 of labels."""

    accuracy: float
    macro_f1: float
    labels: tuple[LabelScore, ...]
    confusion: tuple[tuple[int, ...], ...]


def score_classification(
    truth: Sequence[int] | npt.NDArray[np.int64], predicted: Sequence[int] | npt.NDArray[np.int64], *, n_labels: int
) -> ClassificationScore:
    """The score of `predicted` against `truth`, label numbers in [0, n_labels), at least one.

    The mean of F1 is over the labels that occur in truth or predictions: a label that a split happens to lack
    does not count as missed.
    """
    confusion = count_confusion(truth, predicted, n_labels=n_labels)
    support, guesses = confusion.sum(axis=1), confusion.sum(axis=0)
    hits = np.diag(confusion)
    precision, recall = _ratio(hits, guesses), _ratio(hits, support)
    f1 = _ratio(2 * hits, support + guesses)  # = 2 P R / (P + R)
    present = support + guesses > 0
    return ClassificationScore(
        accuracy=float(hits.sum() / confusion.sum()),
        macro_f1=float(f1[present].mean()),
        labels=tuple(
            LabelScore(float(precision[i]), float(recall[i]), float(f1[i]), int(support[i])) for i in range(n_labels)
        ),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
    )


def count_confusion(
    truth: Sequence[int] | npt.NDArray[np.int64], predicted: Sequence[int] | npt.NDArray[np.int64], *, n_labels: int
) -> npt.NDArray[np.int64]:
    """(n_labels, n_labels): row i, column j counts examples of label i predicted as j.

    Raises ValueError for sequences that are empty, of unlike length, or hold a number that is no label's.
    """
    pairs = np.array([truth, predicted], dtype=np.int64)  # (2, n)
    if pairs.shape[1] == 0 or pairs.min() < 0 or pairs.max() >= n_labels:
        raise ValueError(f"label numbers must be given and be 0 to {n_labels - 1}")
    counts = np.bincount(pairs[0] * n_labels + pairs[1], minlength=n_labels**2)
    return counts.reshape(n_labels, n_labels).astype(np.int64)


def majority_label(truth: Sequence[int] | npt.NDArray[np.int64]) -> int:
    """The most frequent label number; the least of equals."""
    return int(np.bincount(np.asarray(truth, dtype=np.int64)).argmax())


def _ratio(part: npt.NDArray[np.int64], whole: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """part / whole, and 0 where whole is 0."""
    return part / np.maximum(whole, 1)
