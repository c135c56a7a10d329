"""How the measures of documents are spread, kept and rejected ones apart: what the report draws."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gpt_core.fingerprint import Json
from gpt_core.recipe import Clean
from gpt_core.text.thresholds import Threshold, thresholds_of

BINS = 20


@dataclass(slots=True)
class Histograms:
    """One for every measure that a threshold bounds. Values beyond the edges are counted in the outermost bins."""

    thresholds: dict[str, list[Threshold]]  # column -> its thresholds
    edges: dict[str, npt.NDArray[np.float64]]  # (BINS + 1,)
    counts: dict[str, npt.NDArray[np.int64]]  # (2, BINS): kept, rejected

    @classmethod
    def of(cls, clean: Clean) -> "Histograms":
        """Of no document, for the rules that are on."""
        bounds: dict[str, list[Threshold]] = {}
        for threshold in thresholds_of(clean):
            if threshold.column != "c4.phrase":
                bounds.setdefault(threshold.column, []).append(threshold)
        edges = {column: _edges(thresholds) for column, thresholds in bounds.items()}
        return cls(bounds, edges, {column: np.zeros((2, BINS), np.int64) for column in bounds})

    def count(self, values: npt.NDArray[np.float64], is_kept: npt.NDArray[np.bool_]) -> None:
        """The rows of measure.COLUMNS are counted; what was not measured (NaN) is not."""
        for column, thresholds in self.thresholds.items():
            measured = values[:, thresholds[0].index]
            for side, chosen in enumerate((is_kept, ~is_kept)):
                found = measured[chosen]
                found = found[~np.isnan(found)]
                bins = np.searchsorted(self.edges[column], found, side="right") - 1
                np.add.at(self.counts[column][side], np.clip(bins, 0, BINS - 1), 1)

    def add(self, other: "Histograms") -> None:
        """`other`, of the same rules, is counted in."""
        for column, counts in other.counts.items():
            self.counts[column] += counts

    def tell(self) -> dict[str, Json]:
        """Column -> label, thresholds, edges and counts."""
        told: dict[str, Json] = {}
        for column, thresholds in self.thresholds.items():
            least = [it.least for it in thresholds if it.least is not None]
            most = [it.most for it in thresholds if it.most is not None]
            kept, rejected = self.counts[column].tolist()
            told[column] = {
                "label": thresholds[0].label,
                "reasons": list[Json](sorted({it.reason for it in thresholds})),
                "min": least[0] if least else None,
                "max": most[0] if most else None,
                "edges": [round(edge, 6) for edge in self.edges[column].tolist()],
                "kept": kept,
                "rejected": rejected,
            }
        return told


def _edges(thresholds: list[Threshold]) -> npt.NDArray[np.float64]:
    """From 0 to well beyond the thresholds; words by powers of two, other counts in whole numbers."""
    column = thresholds[0].column
    if column == "gopher_quality.words":
        return np.concatenate([[0.0], 2.0 ** np.arange(1, BINS + 1)])
    limits = [limit for it in thresholds for limit in (it.least, it.most) if limit is not None]
    widest = max([*limits, 0.0])
    if column in ("gopher_quality.stop_words", "c4.sentences"):
        return np.linspace(0.0, BINS * math.ceil(max(1.0, 3 * widest / BINS)), BINS + 1)
    is_share = widest <= 1 and "ratio" not in column
    if widest == 0 or (is_share and any(it.least is not None for it in thresholds)):
        return np.linspace(0.0, 1.0, BINS + 1)
    return np.linspace(0.0, min(1.0, 3 * widest) if is_share else 3 * widest, BINS + 1)
