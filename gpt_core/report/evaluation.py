"""evaluation.json of evaluate, typed, and its figures as people read them."""

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import BaseModel

from gpt_core.report import units
from gpt_core.tasks.comparison import Contestant


class LanguageFigures(BaseModel):
    """Likelihood of a text."""

    loss: float
    bits_per_byte: float
    perplexity: float
    tokens: int


class LanguageModel(BaseModel):
    """The pre-trained model on held-out text."""

    total: LanguageFigures
    sources: dict[str, LanguageFigures] = {}


class LabelScore(BaseModel):
    """How well one label is found."""

    precision: float
    recall: float
    f1: float
    support: int


class CalibrationBin(BaseModel):
    """Examples whose likeliest class has a probability between `low` and `high`."""

    low: float
    high: float
    examples: int
    confidence: float
    accuracy: float


class Standing(BaseModel):
    """How a contestant does on the test set: means over seeds, their standard deviations, the headline's interval."""

    figures: dict[str, float]
    spreads: dict[str, float] = {}
    low: float
    high: float
    seeds: list[dict[str, float]] = []
    how: str = ""


class Lift(BaseModel):
    """How much better the pre-trained model is than the same from scratch."""

    value: float
    low: float
    high: float
    how: str


class Task(BaseModel):
    """The contestants on the test set; confusion, labels and calibration are the kept model's."""

    task: str
    target: str
    headline: str
    labels: list[str] = []
    models: dict[Contestant, Standing]
    lift: Lift | None = None
    confusion: list[list[int]] = []
    per_label: dict[str, LabelScore] = {}
    calibration: list[CalibrationBin] = []
    test_examples: int
    seeds: list[int] = []
    kept_seed: int | None = None


class Evaluation(BaseModel):
    """evaluation.json."""

    language_model: LanguageModel | None = None
    task: Task | None = None


@dataclass(frozen=True)
class Measure:
    """A figure's name in words, and whether it is a share of examples, told in percent. `gain` says what is gained."""

    words: str
    share: bool = False
    gain: str = ""

    def tell(self, value: float) -> str:
        """84.3%, or with three decimals."""
        return units.percent(value) if self.share else units.fixed(value)

    def tell_gain(self, value: float) -> str:
        """+10.3, or +0.103: in the unit that `gained` says."""
        return f"{100 * value:+.1f}" if self.share else f"{value:+.3f}"

    def tell_gains(self, low: float, high: float) -> str:
        """6.4 to 14.2, or 0.064 to 0.142."""
        return " to ".join(f"{100 * end:.1f}" if self.share else f"{end:.3f}" for end in (low, high))

    @property
    def gained(self) -> str:
        """What a gain is counted in."""
        return self.gain or (f"points of {self.words}" if self.share else f"of {self.words}")


MEASURES: Mapping[str, Measure] = {
    "accuracy": Measure("accuracy", share=True),
    "macro_f1": Measure("macro F1"),
    "micro_f1": Measure("micro F1"),
    "matthews": Measure("Matthews"),
    "calibration_error": Measure("calibration error", share=True),
    "exact_match": Measure("exact match", share=True),
    "mean_average_precision": Measure("mean average precision"),
    "pearson": Measure("Pearson"),
    "spearman": Measure("Spearman"),
    "mean_squared_error": Measure("mean squared error"),
    "loss": Measure("loss", gain="nats per token less"),
    "perplexity": Measure("perplexity"),
}
WORDS: Mapping[Contestant, str] = {
    "pretrained": "pre-trained, then fine-tuned",
    "scratch": "the same model from scratch",
    "bag_of_words": "bag of words",
    "majority": "majority",
}
SHORT_WORDS: Mapping[Contestant, str] = {**WORDS, "pretrained": "fine-tuned", "scratch": "from scratch"}
