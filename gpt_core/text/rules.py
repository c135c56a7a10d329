"""All rules of `clean` in their order, over a batch of texts; the first that a document breaks rejects it.

url, languages, gopher_quality, gopher_repetition, c4, fineweb, classifier, decontaminate. A document that url or
languages reject is not measured; all others are by every rule that is on. What is kept has its personal data replaced.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gpt_core.recipe import Clean
from gpt_core.text.classifier import QualityClassifier
from gpt_core.text.contamination import ContaminationIndex
from gpt_core.text.document import Rejection
from gpt_core.text.language import identify_languages, judge_language
from gpt_core.text.measure import COLUMNS, Measurer
from gpt_core.text.pii import replace_pii
from gpt_core.text.thresholds import Threshold, thresholds_of
from gpt_core.text.url import UrlJudge


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the rules say of n documents."""

    reasons: list[str | None]
    details: list[str | None]
    texts: pa.Array  # edited by c4 and pii
    languages: list[str | None]  # identified; None where clean.languages is null
    values: npt.NDArray[np.float64]  # (n, measure.COLUMNS); NaN where not measured
    pii: dict[str, npt.NDArray[np.int64]]  # kind -> findings in each document

    @property
    def measurements(self) -> dict[str, npt.NDArray[np.float64]]:
        """Column -> its values."""
        return dict(zip(COLUMNS, self.values.T, strict=True))


class Rules:
    """The rules that are on. One a process: it keeps scratch arrays and models."""

    def __init__(self, clean: Clean, index: ContaminationIndex | None = None) -> None:
        self.clean, self.index = clean, index
        self.urls = UrlJudge(clean.url) if clean.url else None
        self.classifier = QualityClassifier(clean.classifier) if clean.classifier else None
        self.measurer = Measurer(clean, index)
        self.thresholds = thresholds_of(clean)

    def judge(self, texts: pa.Array, urls: Sequence[str | None] | None = None) -> Judgement:
        """The judgement of normalized, non-empty texts: a string array without nulls."""
        n = len(texts)
        found: list[Rejection | None] = [None] * n
        if self.urls is not None and urls is not None:
            found = [self.urls.judge(url) for url in urls]
        languages = self._judge_languages(texts, found)
        rows = np.flatnonzero([rejection is None for rejection in found])
        values = np.full((n, len(COLUMNS)), np.nan)
        if len(rows):
            chosen = texts if len(rows) == n else texts.take(pa.array(rows))
            edited = self._judge_texts(chosen, rows, found, values)
            texts = edited if len(rows) == n else _put(texts, rows, edited)
        texts, pii = self._replace_pii(texts)
        return Judgement(
            [rejection and rejection.reason for rejection in found],
            [rejection and rejection.detail for rejection in found],
            texts,
            languages,
            values,
            pii,
        )

    def _judge_languages(self, texts: pa.Array, found: list[Rejection | None]) -> list[str | None]:
        clean = self.clean
        if clean.languages is None:
            return [None] * len(texts)
        codes, scores = identify_languages(texts)
        for row, (code, score) in enumerate(zip(codes, scores.tolist(), strict=True)):
            found[row] = found[row] or judge_language(
                (code, score),
                languages=clean.languages,
                min_score=clean.min_language_score,
                min_scores=clean.min_language_scores,
            )
        return list(codes)

    def _judge_texts(
        self,
        texts: pa.Array,
        rows: npt.NDArray[np.int64],
        found: list[Rejection | None],
        values: npt.NDArray[np.float64],
    ) -> pa.Array:
        measured = self.measurer.measure(texts)
        values[rows] = measured.values
        first = np.full(len(rows), len(self.thresholds))
        for number in reversed(range(len(self.thresholds))):
            first[_breaks(self.thresholds[number], measured.values)] = number
        for at in np.flatnonzero(first < len(self.thresholds)):
            found[rows[at]] = self._word(self.thresholds[first[at]], measured.values[at])
        if self.classifier is not None:
            for at in np.flatnonzero(first == len(self.thresholds)):
                _, found[rows[at]] = self.classifier.judge(measured.texts[int(at)].as_py())
        for at in np.flatnonzero(measured.is_contaminated):
            assert self.index is not None, "only evaluation texts contaminate"
            found[rows[at]] = found[rows[at]] or Rejection("contaminated", self.index.tell(int(measured.owners[at])))
        return measured.texts

    def _word(self, threshold: Threshold, values: npt.NDArray[np.float64]) -> Rejection:
        value = float(values[threshold.index])
        if threshold.column == "c4.phrase":
            assert self.clean.c4 is not None, "a phrase is looked for by c4 alone"
            return Rejection(threshold.reason, f"holds {self.clean.c4.document_phrases[int(value)]!r}")
        return Rejection(threshold.reason, threshold.tell(value))

    def _replace_pii(self, texts: pa.Array) -> tuple[pa.Array, dict[str, npt.NDArray[np.int64]]]:
        if self.clean.pii is None:
            return texts, {}
        return replace_pii(texts, self.clean.pii.kinds)


def _breaks(threshold: Threshold, values: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Which rows lie outside; a value that does not exist (NaN) is within."""
    column = values[:, threshold.index]
    if threshold.least is not None:
        return column < threshold.least
    assert threshold.most is not None, "a threshold has one bound"
    return column > threshold.most


def _put(texts: pa.Array, rows: npt.NDArray[np.int64], edited: pa.Array) -> pa.Array:
    """`texts` with `edited` in these rows."""
    places = np.arange(len(texts))
    places[rows] = len(texts) + np.arange(len(rows))
    return pa.concat_arrays([texts, edited]).take(pa.array(places))
