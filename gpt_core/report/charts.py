"""Charts as inline SVG: pure functions from numbers to markup.

Every chart is 480 units wide, has a title for those who cannot see it, and takes its colors from the page's style
sheet by class (`c1` to `c4`, `muted`), so that one drawing serves light and dark. The same numbers give the same
bytes. All text is escaped; characters that XML forbids become U+FFFD.
"""

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from gpt_core.report import units
from gpt_core.report.scale import Scale, linear_scale, log_scale

WIDTH = 480.0
FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True)
class Series:
    """A named line through (x, y) points. `color` is a class; `dotted` marks every point."""

    name: str
    points: Sequence[tuple[float, float]]
    color: str
    dotted: bool = False


@dataclass(frozen=True)
class Bar:
    """A labelled bar of parts (value, color) in a row, from `start` on; `text` says what it amounts to."""

    label: str
    parts: Sequence[tuple[float, str]]
    text: str
    start: float = 0.0


def element(name: str, *children: str, **attributes: str | float) -> Markup:
    """An XML element. `class_` is written class, other underscores become hyphens; floats have one decimal."""
    written = ""
    for key, value in attributes.items():
        shown = f"{value:.1f}" if isinstance(value, int | float) else _legal(value)
        written += f' {key.rstrip("_").replace("_", "-")}="{escape(shown)}"'
    inner = "".join(escape(_legal(child) if not isinstance(child, Markup) else child) for child in children)
    return Markup(f"<{name}{written}>{inner}</{name}>")  # noqa: S704  every part is escaped above


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    share: bool = False,
    from_zero: bool = False,
    log_y: bool = False,
    limit: tuple[float, str] | None = None,
) -> Markup:
    """Lines over steps from 0 on. `limit` is a dashed level and its name, drawn where it lies within the data.

    A `share` reads as percent. Points that are not finite, or not positive with `log_y`, are left out.
    """
    height, left, right, top, bottom = 250.0, 50.0, 12.0, 24.0, 40.0
    shown = [(line, _drawable(line.points, positive=log_y)) for line in series]
    points = [point for _, drawn in shown for point in drawn]
    if not points:
        return svg(title, height)
    xs, ys = [x for x, _ in points], [y for _, y in points]
    x = linear_scale(0.0, max(xs), left, WIDTH - right, ticks=6, nice=False)
    low = 0.0 if from_zero else min(ys)
    make = log_scale if log_y else linear_scale
    y = make(low, max(ys), height - bottom, top)
    marks = [*y_axis(y, y_label, left, WIDTH - right, share=share), *x_axis(x, x_label, height - bottom, height)]
    if limit is not None and y.low <= limit[0] <= y.high:
        marks += _limit(limit, y, left, WIDTH - right)
    for line, drawn in shown:
        path = "M" + "L".join(f"{x(a):.1f} {y(b):.1f}" for a, b in drawn) if drawn else ""
        marks.append(element("path", d=path, class_=f"line {line.color}"))
        if line.dotted:
            for a, b in drawn:
                value = units.percent(b) if share else units.significant(b, digits=4)
                tip = element("title", f"{line.name}: {value} at {x_label} {units.count(a)}")
                marks.append(element("circle", tip, cx=x(a), cy=y(b), r=3, class_=f"fill {line.color}"))
    return svg(title, height, *marks)


def bar_chart(title: str, bars: Sequence[Bar], *, total: float | None = None) -> Markup:
    """One bar under each label, all to the scale of `total`, or else of the longest. Reads well on a telephone."""
    row, thick = 38.0, 10.0
    whole = total or max((bar.start + sum(v for v, _ in bar.parts) for bar in bars), default=0.0) or 1.0
    marks: list[Markup] = []
    for index, bar in enumerate(bars):
        base = index * row
        marks.append(element("text", bar.label, x=0, y=base + 14, class_="ink"))
        marks.append(element("text", bar.text, x=WIDTH, y=base + 14, class_="end number"))
        marks.append(element("rect", x=0, y=base + 20, width=WIDTH, height=thick, class_="track"))
        start = bar.start / whole * WIDTH
        for value, color in bar.parts:
            width = max(value / whole * WIDTH, 1.5 if value else 0.0)
            place = min(start, WIDTH - width)
            marks.append(element("rect", x=place, y=base + 20, width=width, height=thick, class_=f"fill {color}"))
            start += value / whole * WIDTH
    return svg(title, max(row * len(bars), 1.0), *marks)


def histogram(
    title: str,
    edges: Sequence[float],
    stacks: Sequence[tuple[str, Sequence[int], str]],
    *,
    x_label: str,
    y_label: str,
    log_x: bool = True,
    limit: float | None = None,
) -> Markup:
    """Counts between edges (> 0 with `log_x`), the (name, counts, color) of `stacks` upon each other.

    `limit` is a dashed line from top to bottom.
    """
    height, left, right, top, bottom = 250.0, 50.0, 12.0, 24.0, 40.0
    totals = [sum(counts) for counts in zip(*(counts for _, counts, _ in stacks), strict=True)]
    if not totals or not max(totals):
        return svg(title, height)
    x = (log_scale if log_x else linear_scale)(edges[0], edges[-1], left, WIDTH - right, nice=False)
    y = linear_scale(0.0, max(totals), height - bottom, top)
    marks = y_axis(y, y_label, left, WIDTH - right)
    for index, (low, high) in enumerate(itertools.pairwise(edges)):
        span = f"{units.compact(low, least=1e6)} to {units.compact(high, least=1e6)} {x_label}"
        told = [element("title", "; ".join([span, *(f"{counts[index]:,} {name}" for name, counts, _ in stacks)]))]
        base = 0.0
        for _, counts, color in stacks:
            if counts[index]:
                up = y(base + counts[index])
                told.append(
                    element(
                        "rect",
                        x=x(low) + 1,
                        y=up,
                        width=max(x(high) - x(low) - 2, 0.5),
                        height=y(base) - up,
                        class_=f"fill {color}",
                    )
                )
            base += counts[index]
        marks.append(element("g", *told))
    if limit is not None:
        marks.append(_upright(limit, x, top, height - bottom))
    return svg(title, height, *marks, *x_axis(x, x_label, height - bottom, height))


def spread(
    title: str,
    edges: Sequence[float],
    sides: Sequence[tuple[str, Sequence[int], str]],
    *,
    log_x: bool = False,
    limits: Sequence[float] = (),
) -> Markup:
    """Counts between edges as outlines over each other, the counts on a logarithmic scale: a small chart of many.

    So both the documents that a rule is about, which are few, and all the others can be seen. `limits` are dashed.
    """
    height, left, right, top, bottom = 150.0, 50.0, 12.0, 8.0, 22.0
    most = max((n for _, counts, _ in sides for n in counts), default=0)
    if not most:
        return svg(title, height)
    x = (log_scale if log_x else linear_scale)(edges[0], edges[-1], left, WIDTH - right, nice=False)
    y = log_scale(0.7, max(most, 10) * 1.2, height - bottom, top, nice=False)
    base = height - bottom
    marks = y_axis(y, "", left, WIDTH - right)
    for _, counts, color in sides:
        steps = [f"V{y(n) if n else base:.1f}H{x(high):.1f}" for n, high in zip(counts, edges[1:], strict=True)]
        outline = f"M{x(edges[0]):.1f} {base:.1f}{''.join(steps)}V{base:.1f}Z"
        marks.append(element("path", d=outline, class_=f"line area {color}"))
    for index, (low, high) in enumerate(itertools.pairwise(edges)):
        told = [f"{units.compact(low, least=1e6)} to {units.compact(high, least=1e6)}"]
        told += [f"{counts[index]:,} {name}" for name, counts, _ in sides]
        tip = element("title", "; ".join(told))
        marks.append(element("rect", tip, x=x(low), y=top, width=x(high) - x(low), height=base - top, fill_opacity="0"))
    marks += [_upright(limit, x, top, base) for limit in limits if x.low <= limit <= x.high]
    return svg(title, height, *marks, *x_axis(x, "", base, height))


def svg(title: str, height: float, *marks: Markup) -> Markup:
    """The chart of `marks`."""
    return element(
        "svg",
        element("title", title),
        *marks,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH:.0f} {height:.0f}",
        role="img",
    )


def y_axis(y: Scale, label: str, left: float, right: float, *, share: bool = False) -> list[Markup]:
    """Lines from left to right at the ticks, and their values."""
    marks = [element("text", label, x=0, y=11, class_="ink")] if label else []
    for value, shown in zip(y.ticks, units.tick_labels(y.ticks, share=share, log=y.log), strict=True):
        marks.append(element("line", x1=left, x2=right, y1=y(value), y2=y(value), class_="grid"))
        marks.append(element("text", shown, x=left - 6, y=y(value) + 4, class_="end number"))
    return marks


def x_axis(x: Scale, label: str, base: float, height: float, *, share: bool = False) -> list[Markup]:
    """The line at the bottom with its ticks and their values."""
    marks = [element("line", x1=x(x.low), x2=x(x.high), y1=base, y2=base, class_="axis")]
    for value, shown in zip(x.ticks, units.tick_labels(x.ticks, share=share, log=x.log), strict=True):
        marks.append(element("line", x1=x(value), x2=x(value), y1=base, y2=base + 4, class_="axis"))
        marks.append(element("text", shown, x=x(value), y=base + 17, class_="middle number"))
    return [*marks, element("text", label, x=x(x.high), y=height - 5, class_="end ink")]


def _limit(limit: tuple[float, str], y: Scale, left: float, right: float) -> list[Markup]:
    level, name = limit
    return [
        element("line", x1=left, x2=right, y1=y(level), y2=y(level), class_="limit"),
        element("text", name, x=right, y=y(level) - 5, class_="end"),
    ]


def _upright(limit: float, x: Scale, top: float, base: float) -> Markup:
    return element("line", x1=x(limit), x2=x(limit), y1=top, y2=base, class_="limit")


def _drawable(points: Sequence[tuple[float, float]], *, positive: bool) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y) and (y > 0 or not positive)]


def _legal(text: str) -> str:
    return FORBIDDEN.sub("\ufffd", text)
