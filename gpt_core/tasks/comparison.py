"""Contestants on one test set: the figures of each, over seeds, and what pre-training is worth.

A contestant's figure is the mean over its seeds, its interval that of the mean when the test set is resampled, the
same way for all of them. The lift is how much better the pre-trained model's headline is than that of the same model
from scratch: paired by seed, with Student's t over the seeds where there are several, so that it tells chance of
training from gain; else by the resamples of the test set that both share, which cannot.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, get_args

import numpy as np

from gpt_core.fingerprint import Json
from gpt_core.tasks.baselines import BAG_OF_WORDS, MAJORITY
from gpt_core.tasks.intervals import RESAMPLES, Interval, percentile_interval, resample_headline, spread, t_interval
from gpt_core.tasks.scores import Floats, Scores, Values, headline, score
from gpt_core.tasks.spec import TaskSpec

Contestant = Literal["pretrained", "scratch", "bag_of_words", "majority"]
CONTESTANTS: tuple[Contestant, ...] = get_args(Contestant)
PREFIX: Mapping[Contestant, str] = {  # of their figures in the manifest
    "pretrained": "test_",
    "scratch": "scratch_test_",
    "bag_of_words": "bag_of_words_",
    "majority": "majority_",
}


@dataclass(frozen=True)
class Standing:
    """How a contestant does: `figures` and `spreads` are mean and standard deviation over its seeds."""

    figures: dict[str, float]
    spreads: dict[str, float]  # none for a single seed
    interval: Interval  # of the headline
    seeds: tuple[dict[str, float], ...]


@dataclass(frozen=True)
class Lift:
    """What pre-training is worth, in units of the headline; above 0 it helps, also where less is better."""

    value: float
    interval: Interval
    how: str


@dataclass(frozen=True)
class Comparison:
    """All contestants by name; the pre-trained model that is kept, in detail."""

    spec: TaskSpec
    standings: dict[Contestant, Standing]
    lift: Lift | None
    kept: Scores


def compare(
    spec: TaskSpec, labels: Values, outputs: Mapping[Contestant, Sequence[Values]], *, kept: int, seed: int
) -> Comparison:
    """The standings of `outputs`, one of each seed, in the forms of scores.py; `kept` is the place of the kept seed.

    `seed` draws the resamples. Raises as `score`.
    """
    scores = {name: [score(spec, labels, each) for each in outputs[name]] for name in CONTESTANTS if name in outputs}
    drawn = {name: _resample(spec, labels, outputs[name], seed=seed) for name in scores}
    standings = {name: _stand(made, drawn[name]) for name, made in scores.items()}
    lift = None
    if "scratch" in standings:
        lift = _lift(spec, standings["pretrained"], standings["scratch"], drawn["pretrained"] - drawn["scratch"])
    return Comparison(spec, standings, lift, scores["pretrained"][kept])


def name_figures(comparison: Comparison) -> dict[str, float]:
    """The figures of the manifest: all of the models, the headline of the baselines; intervals of each headline."""
    name, _ = headline(comparison.spec.target)
    figures: dict[str, float] = {}
    for contestant, standing in comparison.standings.items():
        prefix = PREFIX[contestant]
        learned = contestant in ("pretrained", "scratch")
        figures |= {f"{prefix}{key}": value for key, value in standing.figures.items() if learned or key == name}
        figures |= {f"{prefix}{name}_{end}": value for end, value in asdict(standing.interval).items()}
        if standing.spreads:
            figures[f"{prefix}{name}_spread"] = standing.spreads[name]
    if comparison.lift is not None:
        figures["lift"] = comparison.lift.value
        figures |= {f"lift_{end}": value for end, value in asdict(comparison.lift.interval).items()}
    return figures


def describe(comparison: Comparison) -> dict[str, Json]:
    """What evaluation.json says of the task."""
    spec, kept = comparison.spec, comparison.kept
    name, sign = headline(spec.target)
    ways = {"bag_of_words": BAG_OF_WORDS, "majority": MAJORITY}
    models: dict[str, Json] = {}
    for contestant, standing in comparison.standings.items():
        told: dict[str, Json] = {
            "figures": {**standing.figures},
            "spreads": {**standing.spreads},
            **asdict(standing.interval),
            "seeds": [{**figures} for figures in standing.seeds],
        }
        models[contestant] = told | ({"how": ways[contestant][spec.target]} if contestant in ways else {})
    lift = comparison.lift
    return {
        "task": spec.task,
        "target": spec.target,
        "headline": name,
        "less_is_better": sign < 0,
        "labels": list(spec.labels),
        "models": models,
        "lift": None if lift is None else {"value": lift.value, **asdict(lift.interval), "how": lift.how},
        "confusion": [list(row) for row in kept.confusion],
        "per_label": {label: asdict(found) for label, found in zip(spec.labels, kept.labels, strict=True)},
        "calibration": [asdict(part) for part in kept.calibration],
    }


def _resample(spec: TaskSpec, labels: Values, outputs: Sequence[Values], *, seed: int) -> Floats:
    """(RESAMPLES,): the headline of each resample, its mean over the seeds of training."""
    drawn = [resample_headline(spec.target, labels, each, seed=seed) for each in outputs]
    return np.asarray(np.mean(drawn, axis=0))


def _stand(scores: Sequence[Scores], drawn: Floats) -> Standing:
    names = scores[0].figures
    values = {name: [made.figures[name] for made in scores] for name in names}
    return Standing(
        figures={name: float(np.mean(values[name])) for name in names},
        spreads={name: spread(values[name]) for name in names} if len(scores) > 1 else {},
        interval=percentile_interval(drawn),
        seeds=tuple(made.figures for made in scores),
    )


def _lift(spec: TaskSpec, ours: Standing, theirs: Standing, drawn: Floats) -> Lift:
    name, sign = headline(spec.target)
    gains = [sign * (mine[name] - other[name]) for mine, other in zip(ours.seeds, theirs.seeds, strict=True)]
    value = float(np.mean(gains))
    if len(gains) > 1:
        return Lift(value, t_interval(gains), f"Student's t over {len(gains)} seeds, paired")
    return Lift(value, percentile_interval(sign * drawn), f"{RESAMPLES:,} resamples of the test set, paired")
