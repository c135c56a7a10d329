"""Gopher's repetition statistics: Rae et al. 2021, appendix A1.1, table A1; thresholds stand in the recipe.

Lines and paragraphs: each occurrence after the first is a duplicate. The most frequent 2- to 4-gram: its
characters with the spaces between its tokens, times its occurrences; one that occurs once repeats nothing.
Repeated 5- to 10-grams: read from left to right, an n-gram read before counts its characters and is stepped over,
so that no character counts twice. Shares are of the text's characters. So reckons datatrove 0.10, save that it
counts a top n-gram that occurs once.
"""

import re
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from gpt_core.recipe import GopherRepetition
from gpt_core.text.document import Rejection
from gpt_core.text.words import Hashes, Tokens, ngram_hashes

_PARAGRAPH_END = re.compile(r"\n{2,}")
_LINE_END = re.compile(r"\n+")


def judge_repetition(text: str, tokens: Tokens, limits: GopherRepetition) -> Rejection | None:
    """None if `text`, whose tokens are `tokens`, lies within all limits, or the first limit it breaks."""
    size = max(len(text), 1)
    return (
        _judge_parts(
            "paragraph",
            _PARAGRAPH_END.split(text),
            size,
            max_share=limits.max_duplicate_paragraphs,
            max_characters=limits.max_duplicate_paragraph_characters,
        )
        or _judge_parts(
            "line",
            _LINE_END.split(text),
            size,
            max_share=limits.max_duplicate_lines,
            max_characters=limits.max_duplicate_line_characters,
        )
        or _judge_top_ngrams(tokens, size, limits.max_top_ngram_characters)
        or _judge_duplicate_ngrams(tokens, size, limits.max_duplicate_ngram_characters)
    )


def _judge_parts(
    name: str, parts: list[str], size: int, *, max_share: float, max_characters: float
) -> Rejection | None:
    duplicates = len(parts) - len(set(parts))
    if not duplicates:
        return None
    characters = sum(map(len, parts)) - sum(map(len, set(parts)))
    for measure, value, limit in (
        (f"duplicate_{name}s", duplicates / len(parts), max_share),
        (f"duplicate_{name}_characters", characters / size, max_characters),
    ):
        if value > limit:
            return _reject(measure, value, limit)
    return None


def _judge_top_ngrams(tokens: Tokens, size: int, limits: Iterable[float]) -> Rejection | None:
    for n, limit in enumerate(limits, start=2):
        grams = ngram_hashes(tokens.hashes, n)
        starts = _run_starts(np.sort(grams))
        occurrences = int(np.diff(starts).max(initial=0))
        if occurrences < 2:
            return None  # no longer n-gram can occur twice either
        spelt = _ngram_characters(tokens, n) + (n - 1)
        if occurrences * int(spelt.max()) <= limit * size:  # even the longest n-gram would do no harm
            continue
        value = min(1.0, int(spelt[_first_most_frequent(grams)]) * occurrences / size)  # `a a a` overlaps itself
        if value > limit:
            return _reject(f"top_{n}gram_characters", value, limit)
    return None


def _judge_duplicate_ngrams(tokens: Tokens, size: int, limits: Iterable[float]) -> Rejection | None:
    for n, limit in enumerate(limits, start=5):
        grams = ngram_hashes(tokens.hashes, n)
        if len(_run_starts(np.sort(grams))) == len(grams) + 1:
            return None  # no n-gram occurs twice, and so no longer one
        if _covered_characters(grams, tokens, n) <= limit * size:  # stepping over n-grams counts no more
            continue
        value = _repeated_characters(grams, tokens, n) / size
        if value > limit:
            return _reject(f"duplicate_{n}gram_characters", value, limit)
    return None


def _run_starts(ordered: Hashes) -> npt.NDArray[np.int64]:
    """Where each run of equal values starts, and, last, the length of `ordered`."""
    borders = np.ones(len(ordered) + 1, np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=borders[1:-1])
    return np.flatnonzero(borders)


def _ngram_characters(tokens: Tokens, n: int) -> npt.NDArray[np.int64]:
    """Characters in the tokens of each n-gram."""
    ends = np.concatenate([[0], np.cumsum(tokens.lengths, dtype=np.int64)])
    characters: npt.NDArray[np.int64] = ends[n:] - ends[:-n]
    return characters


def _first_most_frequent(grams: Hashes) -> int:
    """Position of the first n-gram among those that occur most often."""
    _, first, counts = np.unique(grams, return_index=True, return_counts=True)
    return int(first[counts == counts.max()].min())


def _covered_characters(grams: Hashes, tokens: Tokens, n: int) -> int:
    """Characters in tokens that lie in any n-gram which stood before."""
    order = np.argsort(grams, kind="stable")
    ordered = grams[order]
    repeats = order[1:][ordered[1:] == ordered[:-1]]
    depth = np.zeros(len(tokens.lengths) + 1, np.int32)
    depth[repeats] += 1
    np.subtract.at(depth, repeats + n, 1)
    return int(tokens.lengths[np.cumsum(depth[:-1]) > 0].sum())


def _repeated_characters(grams: Hashes, tokens: Tokens, n: int) -> int:
    """Characters of n-grams read before, stepping over each."""
    values, characters = grams.tolist(), _ngram_characters(tokens, n)
    read: set[int] = set()
    total = position = 0
    while position < len(values):
        if values[position] in read:
            total += int(characters[position])
            position += n
        else:
            read.add(values[position])
            position += 1
    return total


def _reject(measure: str, value: float, limit: float) -> Rejection:
    return Rejection(f"gopher_repetition.{measure}", f"share of {measure.replace('_', ' ')} {value:.3f} > {limit:g}")
