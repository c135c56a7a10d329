"""What a report's page is made of. The template knows how each kind looks; nothing here knows HTML."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias

from markupsafe import Markup


@dataclass(frozen=True)
class Tile:
    """A figure of the headline: its value with what it counts, and what to hold it against."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """A chart under its title. `legend` pairs the name of a color's meaning with its class."""

    kind: ClassVar[str] = "figure"
    title: str
    svg: Markup
    caption: str = ""
    legend: Sequence[tuple[str, str]] = ()
    tall: bool = False  # as tall as two


@dataclass(frozen=True)
class Table:
    """Rows under a head. The first `text_columns` columns are words, the others numbers."""

    kind: ClassVar[str] = "table"
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    text_columns: int = 1
    strong_rows: int = 0  # rows at the top that stand out


@dataclass(frozen=True)
class Columns:
    """Charts and tables side by side, as many as fit."""

    kind: ClassVar[str] = "columns"
    items: Sequence[Figure | Table]


@dataclass(frozen=True)
class Excerpt:
    """A piece of somebody's text: what it is, what was found about it, how it begins."""

    name: str
    detail: str
    text: str


@dataclass(frozen=True)
class Excerpts:
    """Pieces of text, one below the other. `voice` says how they are set: `sample` or `document`."""

    kind: ClassVar[str] = "excerpts"
    excerpts: Sequence[Excerpt]
    voice: str = "document"


@dataclass(frozen=True)
class Code:
    """Text that is set as it stands."""

    kind: ClassVar[str] = "code"
    text: str


@dataclass(frozen=True)
class Details:
    """Blocks that open on demand."""

    kind: ClassVar[str] = "details"
    summary: str
    blocks: Sequence["Block"]


Block: TypeAlias = Columns | Table | Excerpts | Code | Details


@dataclass(frozen=True)
class Section:
    """A part of the page. A section without blocks is left out."""

    anchor: str
    title: str
    lead: str = ""
    blocks: Sequence[Block] = field(default=())
