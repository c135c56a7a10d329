"""Where the outputs came from, drawn: stages from top to bottom, the raw files they read on the left.

An arrow is an output that a later stage reads; one that passes stages by goes round them on the right. Hovering tells
whole fingerprints and checksums. Inline SVG as in charts.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from gpt_core.artifact import Artifact, Manifest
from gpt_core.fingerprint import SHORT
from gpt_core.report import units
from gpt_core.report.charts import WIDTH, element, svg

LEFT, RIGHT = 176.0, 404.0  # of a stage's box
TALL, GAP, LINE = 46.0, 26.0, 15.0
MOST_FILES = 3  # raw files of a role that are named
LANE = 15.0
MOST_CHARACTERS = 24  # of a raw file's name, 170 units
COUNTS = (("documents_kept", "documents"), ("vocab_size", "tokens"), ("train_tokens", "tokens"))


@dataclass(frozen=True)
class RawFile:
    """A file of the user's that a stage read."""

    role: str
    name: str
    sha256: str


def lineage_graph(title: str, artifacts: Mapping[str, Artifact]) -> Markup:
    """The outputs in their order, and what each was made of."""
    marks: list[Markup] = []
    tops: dict[str, float] = {}
    heights: dict[str, float] = {}
    y = 0.0
    for stage, artifact in artifacts.items():
        lines = _raw_lines(raw_files(artifact.manifest))
        heights[stage] = max(TALL, LINE * len(lines) + 6)
        tops[stage] = y + (heights[stage] - TALL) / 2
        marks += [*_raw_marks(lines, y + heights[stage] / 2), _box(artifact.manifest, tops[stage])]
        y += heights[stage] + GAP
    names = list(artifacts)
    edges = [
        (names.index(source), names.index(stage))
        for stage, artifact in artifacts.items()
        for source in _inputs(artifact.manifest)
        if source in tops
    ]
    for edge, lane in zip(edges, _lanes(edges), strict=True):
        marks += _arrow([tops[name] for name in names], edge, lane)
    return svg(title, max(y - GAP + 8, 1.0), *marks)


def raw_files(manifest: Manifest) -> list[RawFile]:
    """The user's own files that the stage read."""
    roles = manifest.identity.get("files")
    return [
        RawFile(role, str(entry.get("name", "")), str(entry.get("sha256", "")))
        for role, entries in (roles.items() if isinstance(roles, dict) else ())
        for entry in (entries if isinstance(entries, list) else ())
        if isinstance(entry, dict)
    ]


def _inputs(manifest: Manifest) -> list[str]:
    inputs = manifest.identity.get("inputs")
    return list(inputs) if isinstance(inputs, dict) else []


def _raw_lines(files: Sequence[RawFile]) -> list[tuple[str, str]]:
    """(what a line says, its tip): the role, then its files, the last line for those that have no room."""
    lines: list[tuple[str, str]] = []
    for role in dict.fromkeys(file.role for file in files):
        own = [file for file in files if file.role == role]
        shown = own if len(own) <= MOST_FILES else own[: MOST_FILES - 1]
        lines += [("", ""), (role, "")] if lines else [(role, "")]
        lines += [(file.name, f"{file.name}: SHA-256 {file.sha256}") for file in shown]
        if len(shown) < len(own):
            rest = own[len(shown) :]
            lines.append((f"and {units.count(len(rest))} more", ", ".join(file.name for file in rest[:20])))
    return lines


def _raw_marks(lines: Sequence[tuple[str, str]], middle: float) -> list[Markup]:
    """The lines, one below the other around `middle`, and an arrow from them to the stage's box."""
    if not lines:
        return []
    top = middle - LINE * len(lines) / 2
    marks = []
    for index, (text, tip) in enumerate(lines):
        told = [element("title", tip)] if tip else []
        place = {"x": LEFT - 26, "y": top + LINE * index + 11}
        marks.append(element("text", *told, _cut(text), **place, class_="end ink" if tip else "end"))
    return [*marks, *_straight(LEFT - 20, middle, LEFT, middle)]


def _cut(name: str) -> str:
    """A long name without its middle: its end tells the format."""
    return name if len(name) <= MOST_CHARACTERS else f"{name[: MOST_CHARACTERS - 12]}\u2026{name[-11:]}"


def _box(manifest: Manifest, top: float) -> Markup:
    tip = element("title", f"{manifest.stage} {manifest.fingerprint}, made {manifest.created_at[:10]}")
    told = [f"{units.count(manifest.counts[name])} {unit}" for name, unit in COUNTS if name in manifest.counts]
    if "parameters" in manifest.counts and not told:
        told = [f"{units.compact(manifest.counts['parameters'])} parameters"]
    return element(
        "g",
        tip,
        element("rect", x=LEFT, y=top, width=RIGHT - LEFT, height=TALL, rx=5, class_="track"),
        element("rect", x=LEFT, y=top, width=4, height=TALL, rx=2, class_="fill c1"),
        element("text", manifest.stage, x=LEFT + 16, y=top + 19, class_="ink", font_weight="600"),
        element("text", manifest.fingerprint[:SHORT], x=LEFT + 16, y=top + 36, class_="number"),
        *(element("text", text, x=RIGHT - 12, y=top + 19, class_="end number") for text in told[:1]),
    )


def _lanes(edges: Sequence[tuple[int, int]]) -> list[int | None]:
    """The lane of each arrow that goes round, from 0 at the boxes on, no two side by side in one; None for straight."""
    taken: list[tuple[int, int, int]] = []
    found: dict[tuple[int, int], int | None] = {}
    for start, end in sorted(edges, key=lambda edge: edge[1] - edge[0]):
        if end == start + 1:
            found[start, end] = None
            continue
        busy = {lane for lane, low, high in taken if low < end and start < high}
        lane = next(number for number in range(len(edges) + 1) if number not in busy)
        taken.append((lane, start, end))
        found[start, end] = lane
    return [found[edge] for edge in edges]


def _arrow(tops: Sequence[float], edge: tuple[int, int], lane: int | None) -> list[Markup]:
    start, end = (tops[index] for index in edge)
    if lane is None:
        x = (LEFT + RIGHT) / 2
        return _straight(x, start + TALL, x, end)
    out = min(RIGHT + LANE * (lane + 1), WIDTH - 1)
    y1, y2, bend = start + TALL * 0.68, end + TALL * 0.32, 8.0
    path = (
        f"M{RIGHT:.1f} {y1:.1f}H{out - bend:.1f}Q{out:.1f} {y1:.1f} {out:.1f} {y1 + bend:.1f}V{y2 - bend:.1f}"
        f"Q{out:.1f} {y2:.1f} {out - bend:.1f} {y2:.1f}H{RIGHT + 5:.1f}"
    )
    return [element("path", d=path, class_="line muted"), _head(RIGHT, y2, -1, 0)]


def _straight(x1: float, y1: float, x2: float, y2: float) -> list[Markup]:
    """An arrow to the right or downwards."""
    down = 1 if y2 > y1 else 0
    line = element("path", d=f"M{x1:.1f} {y1:.1f}L{x2 - 5 * (1 - down):.1f} {y2 - 5 * down:.1f}", class_="line muted")
    return [line, _head(x2, y2, 1 - down, down)]


def _head(x: float, y: float, dx: int, dy: int) -> Markup:
    """The head of an arrow that comes along (dx, dy) and ends at (x, y)."""
    back_x, back_y, side = x - 7 * dx, y - 7 * dy, 4
    points = f"M{x:.1f} {y:.1f}L{back_x - side * dy:.1f} {back_y - side * dx:.1f}"
    return element("path", d=f"{points}L{back_x + side * dy:.1f} {back_y + side * dx:.1f}Z", class_="fill muted")
