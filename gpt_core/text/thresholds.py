"""The thresholds of the text rules, in the order they are asked: which measure, which bound, how a reject is told."""

import re
from dataclasses import dataclass

from gpt_core.recipe import Clean
from gpt_core.text.measure import COLUMNS

_PLACEHOLDER = re.compile(r"\{.*?\}")
TOP_NGRAMS, DUPLICATE_NGRAMS = range(2, 5), range(5, 11)


@dataclass(frozen=True, slots=True)
class Threshold:
    """A bound of one column of measure.COLUMNS; a value on it is within."""

    reason: str
    column: str
    tells: str  # format string of the value: "mean word length {:.2f}"
    least: float | None = None
    most: float | None = None

    @property
    def index(self) -> int:
        """The column's number."""
        return COLUMNS.index(self.column)

    @property
    def label(self) -> str:
        """What is measured, in words."""
        return _PLACEHOLDER.sub("", self.tells).strip()

    def tell(self, value: float) -> str:
        """The value, and the bound that it breaks."""
        bound = f"< {self.least:g}" if self.least is not None else f"> {self.most:g}"
        return f"{self.tells.format(value)} {bound}"


def thresholds_of(clean: Clean) -> list[Threshold]:
    """Every threshold of the rules that are on."""
    return [*_gopher_quality(clean), *_gopher_repetition(clean), *_c4(clean), *_fineweb(clean)]


def _gopher_quality(clean: Clean) -> list[Threshold]:
    limits = clean.gopher_quality
    if limits is None:
        return []

    def threshold(name: str, column: str, tells: str, **bound: float) -> Threshold:
        return Threshold(f"gopher_quality.{name}", f"gopher_quality.{column}", tells, **bound)

    symbols = limits.max_symbol_word_ratio
    return [
        threshold("min_words", "words", "{:.0f} words", least=limits.min_words),
        threshold("max_words", "words", "{:.0f} words", most=limits.max_words),
        threshold(
            "min_mean_word_length", "mean_word_length", "mean word length {:.2f}", least=limits.min_mean_word_length
        ),
        threshold(
            "max_mean_word_length", "mean_word_length", "mean word length {:.2f}", most=limits.max_mean_word_length
        ),
        threshold("max_symbol_word_ratio", "hash_ratio", "# to words {:.3f}", most=symbols),
        threshold("max_symbol_word_ratio", "ellipsis_ratio", "ellipses to words {:.3f}", most=symbols),
        threshold("max_bullet_lines", "bullet_lines", "share of bullet lines {:.3f}", most=limits.max_bullet_lines),
        threshold(
            "max_ellipsis_lines", "ellipsis_lines", "share of ellipsis lines {:.3f}", most=limits.max_ellipsis_lines
        ),
        threshold(
            "min_alphabetic_words",
            "alphabetic_words",
            "share of words with a letter {:.3f}",
            least=limits.min_alphabetic_words,
        ),
        threshold("min_stop_words", "stop_words", "{:.0f} stop words", least=limits.min_stop_words),
    ]


def _gopher_repetition(clean: Clean) -> list[Threshold]:
    limits = clean.gopher_repetition
    if limits is None:
        return []
    bounds = {
        "duplicate_paragraphs": limits.max_duplicate_paragraphs,
        "duplicate_paragraph_characters": limits.max_duplicate_paragraph_characters,
        "duplicate_lines": limits.max_duplicate_lines,
        "duplicate_line_characters": limits.max_duplicate_line_characters,
    }
    tops = zip(TOP_NGRAMS, limits.max_top_ngram_characters, strict=True)
    repeats = zip(DUPLICATE_NGRAMS, limits.max_duplicate_ngram_characters, strict=True)
    bounds |= {f"top_{n}gram_characters": most for n, most in tops}
    bounds |= {f"duplicate_{n}gram_characters": most for n, most in repeats}
    names = {f"gopher_repetition.{name}": most for name, most in bounds.items()}
    return [
        Threshold(name, name, f"share of {name.partition('.')[2].replace('_', ' ')} {{:.3f}}", most=most)
        for name, most in names.items()
    ]


def _c4(clean: Clean) -> list[Threshold]:
    limits = clean.c4
    if limits is None:
        return []
    return [
        Threshold("c4.document_phrases", "c4.phrase", "holds forbidden phrase {:.0f}", most=-1),
        Threshold("c4.min_sentences", "c4.sentences", "{:.0f} sentences", least=limits.min_sentences),
    ]


def _fineweb(clean: Clean) -> list[Threshold]:
    limits = clean.fineweb
    if limits is None:
        return []

    def threshold(name: str, column: str, tells: str, **bound: float) -> Threshold:
        return Threshold(f"fineweb.{name}", f"fineweb.{column}", tells, **bound)

    return [
        threshold(
            "min_terminal_punctuation",
            "terminal_punctuation",
            "share of lines that end in punctuation {:.3f}",
            least=limits.min_terminal_punctuation,
        ),
        threshold("max_short_lines", "short_lines", "share of short lines {:.3f}", most=limits.max_short_lines),
        threshold(
            "max_duplicate_line_characters",
            "duplicate_line_characters",
            "share of characters in duplicate lines {:.3f}",
            most=limits.max_duplicate_line_characters,
        ),
        threshold(
            "max_newline_word_ratio",
            "newline_word_ratio",
            "line ends to words {:.3f}",
            most=limits.max_newline_word_ratio,
        ),
    ]
