import pytest

from gpt_core.report import units


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (units.count(1_234_567), "1,234,567"),
        (units.compact(9_999), "9,999"),
        (units.compact(15_184.57), "15.2k"),
        (units.compact(124_439_808), "124M"),
        (units.compact(999_999), "1M"),
        (units.significant(0.0123456), "0.0123"),
        (units.significant(6.25e-5), "6.25e-5"),
        (units.significant(1.0), "1"),
        (units.percent(0.84321), "84.3%"),
        (units.percent(0.0), "0.0%"),
        (units.percent(0.0001), "<0.1%"),
        (units.seconds(0.84), "0.8 s"),
        (units.seconds(74.1), "1 min 14 s"),
        (units.seconds(59.97), "1 min 0 s"),
        (units.seconds(12_000), "3 h 20 min"),
        (units.size(13_197_065), "13.2 MB"),
        (units.size(225), "225 bytes"),
        (units.size(999_999), "1 MB"),
    ],
)
def test_numbers_read_as_people_write_them(told: str, expected: str) -> None:
    assert told == expected


def test_labels_of_an_axis_share_a_unit_and_their_decimals() -> None:
    assert units.tick_labels([0, 2500, 5000, 7500, 10_000]) == ["0", "2.5k", "5.0k", "7.5k", "10.0k"]
    assert units.tick_labels([0, 0.0005, 0.001]) == ["0", "0.0005", "0.0010"]
    assert units.tick_labels([0.6, 0.65], share=True) == ["60%", "65%"]
    assert units.tick_labels([10, 1000, 100_000], log=True) == ["10", "1k", "100k"]
    assert units.tick_labels([0, 2e-6]) == ["0", "2e-6"]
