"""All rules of `clean` in their order; the first that a document breaks rejects it."""

from gpt_core.recipe import Clean
from gpt_core.text.contamination import ContaminationIndex
from gpt_core.text.document import Rejection
from gpt_core.text.language import identify_language, judge_language
from gpt_core.text.quality import judge_quality
from gpt_core.text.repetition import judge_repetition
from gpt_core.text.words import Splitter


class Rules:
    """Language, Gopher quality, Gopher repetition, contamination. One a process: it remembers words."""

    def __init__(self, clean: Clean, index: ContaminationIndex | None) -> None:
        self.clean = clean
        self.index = index
        self.splitter = Splitter()

    def judge(self, text: str) -> tuple[Rejection | None, str]:
        """(why the normalized, non-empty `text` is rejected or None, its identified language)."""
        language = identify_language(text)
        clean = self.clean
        rejection = judge_language(language, languages=clean.languages, min_score=clean.min_language_score)
        return rejection or self._judge_words(text), language[0]

    def _judge_words(self, text: str) -> Rejection | None:
        clean, tokens, rejection = self.clean, self.splitter.split(text), None
        if clean.gopher_quality is not None:
            rejection = judge_quality(text, tokens, clean.gopher_quality)
        if rejection is None and clean.gopher_repetition is not None:
            rejection = judge_repetition(text, tokens, clean.gopher_repetition)
        if rejection is None and self.index is not None:
            rejection = self.index.judge(tokens)
        return rejection
