"""What the stages tell beside their manifests: the JSON files of their outputs, typed.

Fields that a later gptmill adds are ignored; a missing one has its empty value, and what needs it is not shown.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, Field, RootModel, TypeAdapter

from gpt_core.artifact import Artifact
from gpt_core.recipe import Recipe

Curve = list[tuple[float, float]]  # (step, value)
Shape = TypeVar("Shape", bound=BaseModel)


class SourceDocuments(BaseModel):
    """Documents of one source through a stage."""

    documents_in: int = Field(0, alias="in")
    kept: int = 0
    bytes_kept: int = 0


class LengthHistogram(BaseModel):
    """Documents between neighbouring edges, of which there is one more than there are counts."""

    edges_characters: list[float]
    kept: list[int]
    rejected: list[int]


class RejectSample(BaseModel):
    """The beginning of a rejected document."""

    id: str
    detail: str | None
    text: str | None


class Measurement(BaseModel):
    """What a text rule measured: documents between neighbouring edges, and the bounds."""

    label: str
    reasons: list[str] = []
    min: float | None
    max: float | None
    edges: list[float]
    kept: list[int]
    rejected: list[int]


class Contamination(BaseModel):
    """An evaluation text, and how many documents share words with it."""

    text: str
    documents: int


class CleanStats(BaseModel):
    """stats.json of clean."""

    rejected: dict[str, int] = {}
    measurements: dict[str, Measurement] = {}
    pii: dict[str, dict[str, int]] = {}
    contamination: list[Contamination] = []
    edited: dict[str, dict[str, int]] = {}
    languages: dict[str, int] = {}
    sources: dict[str, SourceDocuments] = {}
    length_histogram: LengthHistogram | None = None
    reject_samples: dict[str, list[RejectSample]] = {}


class DuplicatePair(BaseModel):
    """A dropped document and the one that stands for it."""

    id: str
    duplicate_of: str
    kind: str
    jaccard: float


class Cluster(BaseModel):
    """A kept document, how it begins, and duplicates of it; `size` counts it too."""

    id: str
    source: str
    size: int
    text: str
    members: list[str]


class Clusters(BaseModel):
    """How many clusters there are by size ("2-3", "4-7"), and the largest."""

    sizes: dict[str, int] = {}
    largest: list[Cluster] = []


class JaccardHistogram(BaseModel):
    """Candidate pairs between neighbouring similarities; below the first edge counts as in the first bin."""

    edges: list[float]
    verified: list[int]
    refused: list[int]


class CommonLines(BaseModel):
    """Lines that too many documents had, and what dropping them took."""

    common: int
    dropped: int
    documents: int
    bytes: int


class DedupStats(BaseModel):
    """stats.json of dedup."""

    clusters: Clusters = Clusters()
    jaccard_histogram: JaccardHistogram | None = None
    lines: CommonLines | None = None
    sources: dict[str, SourceDocuments] = {}
    pairs: list[DuplicatePair] = []


class MeasuredText(BaseModel):
    """Documents that the tokenizer was tried on."""

    documents: int = 0
    text_bytes: int = Field(0, alias="bytes")
    tokens: int = 0


class Token(BaseModel):
    """A token of the vocabulary; its text, in which bytes that are none stand as escapes."""

    id: int
    token: str
    size: int = Field(alias="bytes")


class UnusedTokens(BaseModel):
    """Tokens that the measured documents do not hold; the first of those that are more than a byte."""

    tokens: int = 0
    single_bytes: int = 0
    first: list[Token] = []


class TokenizerReport(BaseModel):
    """report.json of tokenizer."""

    vocab_size: int = 0
    padded_vocab_size: int = 0
    special_tokens: dict[str, int] = {}
    measured: MeasuredText = MeasuredText()
    sources: dict[str, MeasuredText] = {}
    languages: dict[str, MeasuredText] = {}
    unused: UnusedTokens = UnusedTokens()
    longest: list[Token] = []


class SourceTokens(BaseModel):
    """Tokens of one source."""

    train_tokens: int = 0
    validation_tokens: int = 0
    documents: int = 0


class ShardsStats(BaseModel):
    """stats.json of shards."""

    sources: dict[str, SourceTokens] = {}


class Encoding(BaseModel):
    """encoder.json of shards."""

    blocks: dict[str, int] = {}
    compared_documents: int = 0
    compared_bytes: int = 0
    differences: list[str] = []


class PretrainCurves(BaseModel):
    """curves.json of pretrain."""

    train_loss: Curve = []
    validation_loss: Curve = []
    learning_rate: Curve = []
    gradient_norm: Curve = []
    tokens_per_second: Curve = []
    validation_bits_per_byte: Curve = []
    mfu: Curve = []
    memory_bytes: Curve = []
    data_wait: Curve = []


class FinetuneCurves(RootModel[dict[str, dict[str, Curve]]]):
    """curves.json of finetune: training -> name -> curve. A training is `pretrained` or `scratch`, where there are
    several seeds `seed3.pretrained`.
    """

    root: dict[str, dict[str, Curve]] = {}


class Sample(BaseModel):
    """A prompt and what the pre-trained model wrote after it."""

    prompt: str
    text: str
    step: int | None = None  # of the training that it was written behind


@dataclass(frozen=True)
class Evidence:
    """A recipe and the whole outputs that there are of it."""

    recipe: Recipe
    artifacts: Mapping[str, Artifact]

    def count(self, stage: str, name: str) -> int | None:
        """A count of the stage's manifest, or None."""
        artifact = self.artifacts.get(stage)
        return artifact.manifest.counts.get(name) if artifact else None

    def figure(self, stage: str, name: str) -> float | None:
        """A figure of the stage's manifest, or None."""
        artifact = self.artifacts.get(stage)
        return artifact.manifest.figures.get(name) if artifact else None

    def read(self, stage: str, file: str, shape: type[Shape]) -> Shape:
        """A JSON file of the stage's output; empty where there is none."""
        artifact = self.artifacts.get(stage)
        if artifact is None or not artifact.has(file):
            return shape()
        return shape.model_validate_json(artifact.file(file).read_bytes())

    def samples(self, stage: str) -> list[Sample]:
        """What the model wrote: the pre-trained one in `evaluate`, the one in training in `pretrain`."""
        artifact = self.artifacts.get(stage)
        if artifact is None or not artifact.has("samples.json"):
            return []
        return TypeAdapter(list[Sample]).validate_json(artifact.file("samples.json").read_bytes())
