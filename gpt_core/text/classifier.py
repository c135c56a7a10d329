"""A fastText quality classifier of the user's (Joulin et al. 2016)."""

import fasttext

from gpt_core.errors import InputError
from gpt_core.recipe import Classifier
from gpt_core.text.document import Rejection


class QualityClassifier:
    """The model, loaded. Raises InputError for a file that is no model and for a label that the model lacks."""

    def __init__(self, settings: Classifier) -> None:
        self.settings = settings
        try:
            self.model = fasttext.load_model(settings.model)
        except (ValueError, OSError, RuntimeError) as error:
            raise InputError(
                f"clean.classifier.model: {settings.model} is no fastText model ({error}); give a .bin or .ftz file"
            ) from None
        labels = set(self.model.predict("a", k=-1)[0])
        if settings.label not in labels:
            some = ", ".join(sorted(labels)[:5])
            raise InputError(f"clean.classifier.label: {settings.label} is no label of {settings.model}; it has {some}")

    def score(self, text: str) -> float:
        """The probability of the label."""
        labels, scores = self.model.predict(text.replace("\n", " "), k=-1)
        by_label: dict[str, float] = dict(zip(labels, map(float, scores), strict=True))
        return min(1.0, by_label.get(self.settings.label, 0.0))

    def judge(self, text: str) -> tuple[float, Rejection | None]:
        """(the label's probability, why that is too little or None)."""
        score, least = self.score(text), self.settings.min_score
        if score >= least:
            return score, None
        return score, Rejection("classifier", f"{self.settings.label} {score:.3f} < {least:g}")
