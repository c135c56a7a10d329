"""Gopher's quality statistics: Rae et al. 2021, appendix A1.1; thresholds stand in the recipe.

Words are words: punctuation counts neither as one nor against their alphabetic share. (datatrove 0.10 takes it for
words without a letter; at the paper's 0.8 that drops one good English encyclopedia summary in eleven.) Lines are
those with anything on them.
"""

import numpy as np

from gpt_core.recipe import GopherQuality
from gpt_core.text.document import Rejection
from gpt_core.text.words import Tokens

BULLETS = ("\u2022", "-", "*")
ELLIPSES = ("...", "\u2026")


def judge_quality(text: str, tokens: Tokens, limits: GopherQuality) -> Rejection | None:
    """None if `text`, whose tokens are `tokens`, lies within all limits, or the first limit it breaks."""
    return _judge_words(text, tokens, limits) or _judge_lines(text, limits)


def _judge_words(text: str, tokens: Tokens, limits: GopherQuality) -> Rejection | None:
    words = int(np.count_nonzero(tokens.is_word))
    if words < limits.min_words:
        return _reject("min_words", f"{words} words < {limits.min_words}")
    if words > limits.max_words:
        return _reject("max_words", f"{words} words > {limits.max_words}")
    n = max(words, 1)
    mean = float(tokens.lengths[tokens.is_word].sum()) / n
    if mean < limits.min_mean_word_length:
        return _reject("min_mean_word_length", f"mean word length {mean:.2f} < {limits.min_mean_word_length:g}")
    if mean > limits.max_mean_word_length:
        return _reject("max_mean_word_length", f"mean word length {mean:.2f} > {limits.max_mean_word_length:g}")
    for name, signs in (("#", text.count("#")), ("ellipses", sum(map(text.count, ELLIPSES)))):
        if signs / n > limits.max_symbol_word_ratio:
            return _reject(
                "max_symbol_word_ratio", f"{name} to words {signs / n:.3f} > {limits.max_symbol_word_ratio:g}"
            )
    alphabetic = int(np.count_nonzero(tokens.has_letter & tokens.is_word)) / n
    if alphabetic < limits.min_alphabetic_words:
        return _reject(
            "min_alphabetic_words", f"share of words with a letter {alphabetic:.3f} < {limits.min_alphabetic_words:g}"
        )
    if tokens.n_stop_words < limits.min_stop_words:
        return _reject("min_stop_words", f"{tokens.n_stop_words} of the stop words < {limits.min_stop_words}")
    return None


def _judge_lines(text: str, limits: GopherQuality) -> Rejection | None:
    lines = [line for line in map(str.strip, text.split("\n")) if line]
    n = max(len(lines), 1)
    bullets = sum(line.startswith(BULLETS) for line in lines) / n
    if bullets > limits.max_bullet_lines:
        return _reject("max_bullet_lines", f"share of bullet lines {bullets:.3f} > {limits.max_bullet_lines:g}")
    ellipses = sum(line.endswith(ELLIPSES) for line in lines) / n
    if ellipses > limits.max_ellipsis_lines:
        return _reject("max_ellipsis_lines", f"share of ellipsis lines {ellipses:.3f} > {limits.max_ellipsis_lines:g}")
    return None


def _reject(threshold: str, detail: str) -> Rejection:
    return Rejection(f"gopher_quality.{threshold}", detail)
