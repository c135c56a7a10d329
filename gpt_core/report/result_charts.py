"""Charts of what a model is worth: estimates with their intervals, calibration, confusion. As those of charts.py."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from gpt_core.report import units
from gpt_core.report.charts import WIDTH, element, svg, x_axis, y_axis
from gpt_core.report.scale import linear_scale


@dataclass(frozen=True)
class Estimate:
    """A value and the interval that it lies in; `each` are the values that it is the mean of."""

    label: str
    value: float
    low: float
    high: float
    text: str
    color: str
    each: Sequence[float] = ()


@dataclass(frozen=True)
class Bin:
    """Examples whose confidence lies between `low` and `high`: the mean of it, and the share that is right."""

    low: float
    high: float
    examples: int
    confidence: float
    accuracy: float


def interval_chart(
    title: str, estimates: Sequence[Estimate], *, share: bool = False, reference: float | None = None
) -> Markup:
    """A dot under each label, on a bar from low to high, all to one scale; `reference` is a dashed line."""
    row, top, foot = 44.0, 4.0, 26.0
    ends = [end for it in estimates for end in (it.low, it.high, it.value, *it.each)]
    ends += [reference] if reference is not None else []
    if not estimates:
        return svg(title, 1.0)
    base = top + row * len(estimates)
    x = linear_scale(min(ends), max(ends), 12.0, WIDTH - 12.0, ticks=5)
    marks = [element("line", x1=x(tick), x2=x(tick), y1=top, y2=base, class_="grid") for tick in x.ticks]
    if reference is not None:
        marks.append(element("line", x1=x(reference), x2=x(reference), y1=top, y2=base, class_="limit"))
    for index, it in enumerate(estimates):
        y = top + index * row
        middle = y + 28
        marks.append(element("text", it.label, x=0, y=y + 14, class_="ink halo"))
        marks.append(element("text", it.text, x=WIDTH, y=y + 14, class_="end number halo"))
        width = max(x(it.high) - x(it.low), 1.5)
        place = {"x": x(it.low), "y": middle - 4, "width": width, "height": 8.0}
        marks.append(element("rect", **place, class_=f"fill {it.color}", fill_opacity="0.35"))
        marks += [element("circle", cx=x(each), cy=middle, r=2.5, class_=f"fill {it.color}") for each in it.each]
        tip = element("title", f"{it.label}: {it.text}")
        marks.append(element("circle", tip, cx=x(it.value), cy=middle, r=5.5, class_=f"fill {it.color}"))
    return svg(title, base + foot, *marks, *x_axis(x, "", base, base + foot, share=share))


def reliability_chart(title: str, bins: Sequence[Bin]) -> Markup:
    """The share of right answers by confidence against the diagonal, where both would be equal; examples above it."""
    height, left, right, base = 320.0, 50.0, 12.0, 280.0
    strip, top = 30.0, 62.0  # of the counts; of the plot
    x = linear_scale(0.0, 1.0, left, WIDTH - right)
    y = linear_scale(0.0, 1.0, base, top)
    most = max((part.examples for part in bins), default=1)
    marks = [element("text", "examples", x=0, y=strip + 14, class_="ink")]
    for part in bins:
        told = (
            f"confidence {units.percent(part.low)} to {units.percent(part.high)}: {units.count(part.examples)} "
            f"examples, mean confidence {units.percent(part.confidence)}, right {units.percent(part.accuracy)}"
        )
        place = {"x": x(part.low) + 1, "width": x(part.high) - x(part.low) - 2}
        tall = max(part.examples / most * strip, 1.0)
        lower, upper = sorted((y(part.accuracy), y(part.confidence)), reverse=True)
        marks.append(
            element(
                "g",
                element("title", told),
                element("rect", **place, y=strip + 16 - tall, height=tall, class_="fill muted"),
                element("rect", **place, y=lower, height=base - lower, class_="fill c1", fill_opacity="0.55"),
                element("rect", **place, y=upper, height=lower - upper, class_="fill c2", fill_opacity="0.55"),
                element("rect", **place, y=y(part.accuracy) - 1.5, height=3, class_="fill c1"),
            )
        )
    axes = [*y_axis(y, "", left, WIDTH - right, share=True), *x_axis(x, "confidence", base, height, share=True)]
    diagonal = element("line", x1=x(0), y1=y(0), x2=x(1), y2=y(1), class_="limit")
    return svg(title, height, *axes, *marks, diagonal)


def heat_map(title: str, labels: Sequence[str], rows: Sequence[Sequence[int]]) -> Markup:
    """Counts of a confusion matrix: truth down, prediction across. A cell's shade is its share of its row."""
    n = len(labels)
    left, top = 152.0, 26.0
    cell = (WIDTH - left) / n
    tall = min(cell, 30.0)
    head = 12.0 + 5.4 * min(16, max(map(len, labels)))  # room for the slanted names
    marks = [
        element("text", "predicted", x=WIDTH, y=12, class_="end"),
        element("text", "true label", x=left - 8, y=top + head - 8, class_="end"),
    ]
    for index, label in enumerate(labels):
        short, x, y = _shorten(label, 16), left + (index + 0.5) * cell, top + head
        marks.append(element("text", short, transform=f"translate({x + 3:.1f} {y - 6:.1f}) rotate(-60)", class_="ink"))
        middle = y + (index + 0.5) * tall + 4
        marks.append(element("text", _shorten(label, 22), x=left - 8, y=middle, class_="end ink"))
    for i, row in enumerate(rows):
        whole = sum(row) or 1
        for j, value in enumerate(row):
            x, y, share = left + j * cell, top + head + i * tall, value / whole
            tip = element("title", f"{labels[i]}, predicted {labels[j]}: {value:,} ({units.percent(share)})")
            box = element(
                "rect",
                x=x + 0.5,
                y=y + 0.5,
                width=cell - 1,
                height=tall - 1,
                class_=f"fill {'c1' if i == j else 'c2'}",
                fill_opacity=f"{share:.2f}",
            )
            number = (
                [element("text", str(value), x=x + cell / 2, y=y + tall / 2 + 4, class_=_on(share))]
                if cell >= 18 and value
                else []
            )
            frame = element("rect", x=x + 0.5, y=y + 0.5, width=cell - 1, height=tall - 1, class_="track")
            marks.append(element("g", tip, frame, box, *number))
    return svg(title, top + head + n * tall + 4, *marks)


def _shorten(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1].rstrip() + "\u2026"


def _on(share: float) -> str:
    return "middle number on" if share >= 0.5 else "middle number ink"
