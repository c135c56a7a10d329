import math
import xml.etree.ElementTree as ElementTree

from gpt_core.report.charts import Bar, Series, bar_chart, element, histogram, line_chart, spread
from gpt_core.report.result_charts import Bin, Estimate, heat_map, interval_chart, reliability_chart
from gpt_core.report.scale import linear_scale, log_scale

SVG = "{http://www.w3.org/2000/svg}"


def parse(markup: str) -> ElementTree.Element:
    return ElementTree.fromstring(markup)  # noqa: S314  our own


def found(markup: str, tag: str, color: str) -> list[ElementTree.Element]:
    return [it for it in parse(markup).iter(SVG + tag) if color in it.get("class", "").split()]


def texts(markup: str) -> list[str | None]:
    return [it.text for it in parse(markup).iter(SVG + "text")]


def test_a_line_goes_through_its_points() -> None:
    chart = line_chart("loss", [Series("train", [(0, 2.0), (10, 4.0)], "c1")], x_label="step", y_label="nats")
    # x from 50 to 468 over steps 0 to 10, y from 210 up to 24 over 2 to 4
    assert [path.get("d") for path in found(chart, "path", "c1")] == ["M50.0 210.0L468.0 24.0"]
    assert texts(chart)[:6] == ["nats", "2.0", "2.5", "3.0", "3.5", "4.0"]


def test_bars_are_to_one_scale_and_a_step_hangs_where_the_former_ends() -> None:
    bars = [
        Bar("in", [(100, "muted")], "100"),
        Bar("gone", [(25, "c2")], "-25", start=75),
        Bar("none", [(0, "c1")], ""),
    ]
    chart = bar_chart("funnel", bars, total=100)
    (gone,) = found(chart, "rect", "c2")
    assert (gone.get("x"), gone.get("width")) == ("360.0", "120.0")
    assert found(chart, "rect", "c1")[0].get("width") == "0.0"


def test_a_part_too_small_to_see_is_drawn_all_the_same() -> None:
    (bar,) = found(bar_chart("x", [Bar("one", [(1, "c1")], "1")], total=1_000_000), "rect", "c1")
    assert bar.get("width") == "1.5"


def test_a_histogram_stacks_and_spaces_by_logarithm() -> None:
    counts = [("kept", [1, 3], "c1"), ("rejected", [1, 0], "c2")]
    chart = histogram("lengths", [10, 100, 1000], counts, x_label="characters", y_label="documents")
    kept, rejected = found(chart, "rect", "c1"), found(chart, "rect", "c2")
    assert [bar.get("x") for bar in kept] == ["51.0", "260.0"]  # 50 and 259, and a gap of 1
    assert [bar.get("height") for bar in kept] == ["62.0", "186.0"]  # of 186 for 3
    assert (rejected[0].get("y"), rejected[0].get("height")) == ("86.0", "62.0")


def test_a_histogram_may_be_linear_and_has_its_limit() -> None:
    counts = [("kept", [1, 3], "c1")]
    chart = histogram("similar", [0.5, 0.75, 1.0], counts, x_label="", y_label="", log_x=False, limit=0.75)
    (line,) = found(chart, "line", "limit")
    assert (line.get("x1"), line.get("y1"), line.get("y2")) == ("259.0", "24.0", "210.0")


def test_a_spread_outlines_few_and_many_alike_and_draws_the_limits_within() -> None:
    sides = [("rejected", [0, 1], "c2"), ("kept", [1000, 0], "c1")]
    chart = spread("share", [0.0, 0.5, 1.0], sides, limits=[0.5, 7.0])
    kept, rejected = (found(chart, "path", color)[0].get("d") for color in ("c1", "c2"))
    assert kept == "M50.0 128.0V10.9H259.0V128.0H468.0V128.0Z"
    assert rejected is not None
    assert rejected.startswith("M50.0 128.0V128.0H259.0V122.")
    assert [line.get("x1") for line in found(chart, "line", "limit")] == ["259.0"]
    assert "0 to 0.5; 0 rejected; 1,000 kept" in chart


def test_a_confusion_matrix_shades_by_the_share_of_the_row() -> None:
    chart = heat_map("confusion", ["air", "sea"], [[3, 1], [0, 5]])
    assert [cell.get("fill-opacity") for cell in found(chart, "rect", "c1")] == ["0.75", "1.00"]
    assert [cell.get("fill-opacity") for cell in found(chart, "rect", "c2")] == ["0.25", "0.00"]
    assert texts(chart)[-3:] == ["3", "1", "5"]


def test_an_estimate_is_a_dot_on_its_interval_to_one_scale_for_all() -> None:
    estimates = [
        Estimate("ours", 0.75, 0.5, 1.0, "75.0%", "c1", each=[0.7, 0.8]),
        Estimate("theirs", 0.0, 0.0, 0.0, "0.0%", "c2"),
    ]
    chart = interval_chart("accuracy", estimates, share=True, reference=0.5)
    # x from 12 to 468 over 0 to 1
    (bar,) = found(chart, "rect", "c1")
    assert (bar.get("x"), bar.get("width")) == ("240.0", "228.0")
    assert [dot.get("cx") for dot in found(chart, "circle", "c1")] == ["331.2", "376.8", "354.0"]
    assert [dot.get("cx") for dot in found(chart, "circle", "c2")] == ["12.0"]
    assert [line.get("x1") for line in found(chart, "line", "limit")] == ["240.0"]
    assert "100%" in texts(chart)


def test_a_bin_shows_its_accuracy_and_the_gap_to_its_confidence_either_way() -> None:
    chart = reliability_chart("reliability", [Bin(0.4, 0.6, 5, 0.5, 0.75), Bin(0.8, 1.0, 10, 1.0, 0.5)])
    # y from 280 up to 62 over 0 to 1: 0.5 is 171, 0.75 is 116.5
    shown = [(rect.get("y"), rect.get("height")) for rect in found(chart, "rect", "c2")]
    assert shown == [("116.5", "54.5"), ("62.0", "109.0")]
    assert [line.get("y") for line in found(chart, "rect", "c1") if line.get("height") == "3.0"] == ["115.0", "169.5"]
    assert [rect.get("height") for rect in found(chart, "rect", "muted")] == ["15.0", "30.0"]
    assert "10 examples, mean confidence 100.0%, right 50.0%" in chart


def test_points_that_cannot_be_drawn_are_left_out() -> None:
    points = [(0, 1.0), (1, math.nan), (2, math.inf), (3, 0.0), (4, 100.0)]
    chart = line_chart("norm", [Series("norm", points, "c1")], x_label="step", y_label="", log_y=True)
    assert found(chart, "path", "c1")[0].get("d") == "M50.0 210.0L468.0 24.0"


def test_charts_without_numbers_are_empty_and_titled() -> None:
    for chart in (
        line_chart("none", [Series("x", [], "c1")], x_label="step", y_label=""),
        histogram("none", [1, 2], [("kept", [0], "c1")], x_label="", y_label=""),
        bar_chart("none", []),
        interval_chart("none", []),
    ):
        assert [child.tag for child in parse(chart)] == [SVG + "title"]


def test_text_is_escaped_and_made_legal() -> None:
    assert element("text", 'a < b & "c"\x0b', class_='"x"') == (
        '<text class="&#34;x&#34;">a &lt; b &amp; &#34;c&#34;\ufffd</text>'
    )


def test_ticks_are_round_and_cover_the_data() -> None:
    assert linear_scale(4.21, 8.37, 0, 1).ticks == (4, 5, 6, 7, 8, 9)
    assert linear_scale(0, 366, 0, 1, ticks=6, nice=False).ticks == (0, 50, 100, 150, 200, 250, 300, 350)
    assert log_scale(8, 262_144, 0, 1, nice=False).ticks == (10, 100, 1000, 10_000, 100_000)
    assert log_scale(3, 40, 0, 1).ticks == (2, 5, 10, 20, 50)


def test_a_single_value_has_an_axis() -> None:
    scale = linear_scale(5, 5, 0, 100)
    assert scale.low < 5 < scale.high
    assert scale(5) == 50
