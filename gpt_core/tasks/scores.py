"""How good a task's model is, from its outputs on labelled examples.

Outputs are logits (n, L) of a class or of classes, numbers (n,), logits (n, S) of the choices with -inf where an
example has fewer, or of text (n, 2): the nats and the tokens of each completion. The headline of a target is the
figure that picks the best epoch and that models are compared by. It is a function of sums over the examples, so that
`intervals.py` resamples it at the cost of a product of matrices. No torch here; scikit-learn is imported where used.

Ratios without a denominator, of a label that was never predicted or never occurs, and the correlation of what does
not vary count 0, as in scikit-learn. Means over labels leave out those that neither occur nor are predicted.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from gpt_core.errors import StageError
from gpt_core.tasks.spec import Target, TaskSpec

CALIBRATION_BINS = 15  # Guo et al. 2017, section 4
SMALLEST_SPREAD = 1e-12  # of the squares of centred values: below, they differ by rounding alone
HEADLINE: Mapping[Target, str] = {
    "class": "accuracy",
    "classes": "macro_f1",
    "number": "pearson",
    "choice": "accuracy",
    "text": "loss",
}

Floats = npt.NDArray[np.float64]
Values = npt.NDArray[Any]


@dataclass(frozen=True)
class LabelScore:
    """How well one label is found. `support` is how many examples have it."""

    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class CalibrationBin:
    """The examples whose likeliest class has a probability in (low, high]: the mean of it, and how many are right."""

    low: float
    high: float
    examples: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Scores:
    """`figures` begin with the headline. `confusion[i][j]` counts examples of label i that were predicted as j.

    What a target does not have is empty: labels of a number, a choice or text; confusion and calibration of all but
    a class.
    """

    figures: dict[str, float]
    labels: tuple[LabelScore, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    calibration: tuple[CalibrationBin, ...] = ()  # those bins that hold an example


def headline(target: Target) -> tuple[str, Literal[1, -1]]:
    """(name, sign) of the figure that models of `target` are compared by; with sign -1 less is better."""
    return HEADLINE[target], -1 if target == "text" else 1


def score(spec: TaskSpec, labels: Values, outputs: Values) -> Scores:
    """The score of `outputs` against `labels`, in the forms that the module's docstring and `Examples` give them.

    Raises StageError for an output that is not a number, ValueError where there is no example.
    """
    require_finite(spec.target, outputs)
    if spec.target == "class":
        return _score_class(labels, outputs, n_labels=len(spec.labels))
    if spec.target == "classes":
        return _score_classes(labels, outputs)
    figures = {HEADLINE[spec.target]: headline_value(spec.target, labels, outputs)}
    if spec.target == "number":
        figures |= _number_figures(labels, outputs)
    elif spec.target == "text":
        figures["perplexity"] = float(np.exp(figures["loss"]))
    return Scores(figures)


def require_finite(target: Target, outputs: Values) -> None:
    """Raises StageError that counts the examples whose outputs are not numbers; -inf is no choice, not an output."""
    if len(outputs) == 0:
        raise ValueError("there is no example to score")
    bad = np.isnan(outputs) | np.isposinf(outputs) if target == "choice" else ~np.isfinite(outputs)
    count = int(bad.reshape(len(outputs), -1).any(axis=1).sum())
    if count:
        raise StageError(
            f"the model's outputs for {count} of {len(outputs)} examples are not finite numbers; lower "
            "finetune.learning_rate"
        )


# ------------------------------------------------------------------------------------------------ the headline


def headline_value(target: Target, labels: Values, outputs: Values) -> float:
    """The headline of all examples."""
    return float(headline_of_sums(target, headline_terms(target, labels, outputs).sum(axis=0)))


def headline_terms(target: Target, labels: Values, outputs: Values) -> Floats:
    """(n, k): what each example adds to the sums that the headline is a function of."""
    if target in ("class", "choice"):
        hits = (outputs.argmax(axis=1) == labels).astype(np.float64)
        return np.stack([hits, np.ones_like(hits)], axis=1)
    if target == "classes":
        truth, guess = labels > 0, outputs > 0  # a probability above 1/2
        return np.stack([truth & guess, truth, guess], axis=1).reshape(len(labels), -1).astype(np.float64)
    if target == "number":
        x, y = _centred(labels), _centred(outputs)
        return np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)
    return outputs.astype(np.float64)


def headline_of_sums(target: Target, sums: Floats) -> Floats:
    """The headline (...) of sums (..., k) of `headline_terms`."""
    if target == "classes":
        hits, truths, guesses = np.moveaxis(sums.reshape(*sums.shape[:-1], 3, -1), -2, 0)  # each (..., L)
        present = truths + guesses > 0
        f1 = 2 * hits / np.maximum(truths + guesses, 1)  # = 2 P R / (P + R)
        return np.asarray(f1.sum(axis=-1) / np.maximum(present.sum(axis=-1), 1))
    if target == "number":
        n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
        spread_x, spread_y = n * xx - x * x, n * yy - y * y
        vary = (spread_x > SMALLEST_SPREAD * n * xx) & (spread_y > SMALLEST_SPREAD * n * yy)
        return np.where(vary, (n * xy - x * y) / np.sqrt(np.where(vary, spread_x * spread_y, 1.0)), 0.0)
    return np.asarray(sums[..., 0] / sums[..., 1])


def _centred(values: Values) -> Floats:
    """Less its mean: sums of squares then lose no digits."""
    exact = values.astype(np.float64)
    return np.asarray(exact - exact.mean())


# --------------------------------------------------------------------------------------------- target by target


def _score_class(labels: Values, outputs: Values, *, n_labels: int) -> Scores:
    from scipy.special import softmax
    from sklearn.metrics import confusion_matrix, matthews_corrcoef

    guess = outputs.argmax(axis=1)
    by_label = _label_scores(labels, guess, range(n_labels))
    confusion = confusion_matrix(labels, guess, labels=range(n_labels))
    present = confusion.sum(axis=0) + confusion.sum(axis=1) > 0
    probabilities = softmax(outputs.astype(np.float64), axis=1)
    bins = calibration_bins(probabilities.max(axis=1), guess == labels)
    figures = {
        "accuracy": headline_value("class", labels, outputs),
        "macro_f1": _mean_f1(by_label, present),
        "matthews": float(matthews_corrcoef(labels, guess)) if present.sum() > 1 else 0.0,
        "calibration_error": expected_calibration_error(bins),
    }
    return Scores(figures, by_label, tuple(tuple(row) for row in confusion.tolist()), bins)


def _score_classes(labels: Values, outputs: Values) -> Scores:
    from sklearn.metrics import accuracy_score, average_precision_score, f1_score

    truth, guess = (labels > 0).astype(int), (outputs > 0).astype(int)
    by_label = _label_scores(truth, guess, range(truth.shape[1]))
    occur = truth.any(axis=0)
    precisions = [average_precision_score(truth[:, i], outputs[:, i]) for i in np.flatnonzero(occur)]
    figures = {
        "macro_f1": headline_value("classes", labels, outputs),
        "micro_f1": float(f1_score(truth, guess, average="micro", zero_division=0)),
        "exact_match": float(accuracy_score(truth, guess)),
        "mean_average_precision": float(np.mean(precisions)) if precisions else 0.0,
    }
    return Scores(figures, by_label)


def _number_figures(labels: Values, outputs: Values) -> dict[str, float]:
    from scipy.stats import rankdata
    from sklearn.metrics import mean_squared_error

    ranks = headline_value("number", rankdata(labels), rankdata(outputs))  # Spearman's is Pearson's of the ranks
    return {"spearman": ranks, "mean_squared_error": float(mean_squared_error(labels, outputs))}


def _label_scores(truth: Values, guess: Values, numbers: range) -> tuple[LabelScore, ...]:
    from sklearn.metrics import precision_recall_fscore_support

    columns = precision_recall_fscore_support(truth, guess, labels=list(numbers), average=None, zero_division=0)
    return tuple(LabelScore(float(p), float(r), float(f1), int(n)) for p, r, f1, n in zip(*columns, strict=True))


def _mean_f1(labels: tuple[LabelScore, ...], present: npt.NDArray[np.bool_]) -> float:
    return float(np.mean([label.f1 for label, there in zip(labels, present, strict=True) if there]))


def calibration_bins(confidence: Floats, right: npt.NDArray[np.bool_]) -> tuple[CalibrationBin, ...]:
    """Of CALIBRATION_BINS bins of equal width over (0, 1], those that hold an example (Guo et al. 2017, section 2)."""
    numbers = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)
    return tuple(
        CalibrationBin(
            low=number / CALIBRATION_BINS,
            high=(number + 1) / CALIBRATION_BINS,
            examples=int(inside.sum()),
            confidence=float(confidence[inside].mean()),
            accuracy=float(right[inside].mean()),
        )
        for number in range(CALIBRATION_BINS)
        if (inside := numbers == number).any()
    )


def expected_calibration_error(bins: tuple[CalibrationBin, ...]) -> float:
    """The mean over examples of |accuracy - confidence| of their bin (Guo et al. 2017, eq. 3)."""
    examples = sum(part.examples for part in bins)
    return sum(part.examples * abs(part.accuracy - part.confidence) for part in bins) / examples
