"""Figures over the steps of a run, kept for curves.json."""

from collections.abc import Mapping

from gpt_core.fingerprint import Json

MAX_POINTS = 500


class Curves:
    """Named series of (step, value)."""

    def __init__(self, series: Mapping[str, list[list[float]]] | None = None) -> None:
        self.series: dict[str, list[list[float]]] = {name: list(points) for name, points in (series or {}).items()}

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """The values of `step` stand at the end of their series."""
        for name, value in values.items():
            self.series.setdefault(name, []).append([step, value])

    def last(self, name: str) -> float:
        """The last value of a series."""
        return self.series[name][-1][1]

    def newest(self, name: str) -> float | None:
        """The last value of a series that may have none yet."""
        return self.last(name) if name in self.series else None

    def mean_of_last(self, name: str, count: int) -> float:
        """The mean of the last `count` values of a series: less noise than the last alone."""
        values = [value for _, value in self.series[name][-count:]]
        return sum(values) / len(values)

    def thinned(self) -> dict[str, Json]:
        """At most MAX_POINTS points a series, evenly chosen, the last among them."""
        return {name: _thin(points) for name, points in self.series.items()}

    def all(self) -> dict[str, Json]:
        """Every point, for a checkpoint."""
        return {name: [list(point) for point in points] for name, points in self.series.items()}


def _thin(points: list[list[float]]) -> Json:
    stride = -(-len(points) // MAX_POINTS)
    return [list(point) for point in points[::-1][::stride][::-1]]
