"""The document, the rejection, and their tables as Arrow sees them."""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import pyarrow as pa

EXCERPT_CHARACTERS = 1_000
METADATA = pa.map_(pa.string(), pa.string())
# Spark exchanges strings with 32-bit offsets; a batch stays far below their 2 GiB.
DOCUMENT_FIELDS = [
    pa.field("id", pa.string(), nullable=False),
    pa.field("text", pa.string(), nullable=False),
    pa.field("source", pa.string(), nullable=False),
    pa.field("url", pa.string()),
    pa.field("language", pa.string()),
    pa.field("metadata", METADATA),
    pa.field("place", pa.string(), nullable=False),  # in the raw corpus: place.py reads it
]
REJECTION_FIELDS = [pa.field("reason", pa.string()), pa.field("detail", pa.string())]


class Rejection(NamedTuple):
    """Why a document is not kept: `rule` or `rule.threshold`, and the value that broke it."""

    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Document:
    """One raw document as its record gives it, or, with a rejection, what is known of a malformed record."""

    id: str
    text: str
    source: str
    url: str | None = None
    language: str | None = None
    metadata: dict[str, str | None] = field(default_factory=dict)
    rejection: Rejection | None = None
    place: str = ""  # file and line, row, byte or record

    def rejected(self, rejection: Rejection) -> "Document":
        """The same document, rejected."""
        return replace(self, rejection=rejection)


def malformed(place: str, why: str, *, source: str, excerpt: str = "") -> Document:
    """The rejected document that stands for what could not be read."""
    text = excerpt[:EXCERPT_CHARACTERS].replace("\0", "\ufffd")
    return Document(
        id=place, text=text, source=source, rejection=Rejection("malformed", f"{place}: {why}"), place=place
    )
