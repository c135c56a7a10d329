"""The notes that MLflow shows on a run's page, as markdown: what a pipeline's run made, what a sweep compares.

Links are relative to the page, so that they hold under any address of the server.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote

from gpt_core.artifact import Artifact, Manifest
from gpt_core.fingerprint import SHORT
from gpt_core.report import units
from jobs.run_records import MAX_TAG_CHARACTERS

NOTE = "mlflow.note.content"  # the tag
How = Literal["made", "was there", "failed"]
GAP = " &emsp; | "  # MLflow's page sets columns without a space between them
COUNTS = ("documents_kept", "vocab_size", "train_tokens", "parameters")  # of a manifest, where it has them
MOST_FIGURES = 3
MOST_ERROR = 200  # characters
MOST_COMPARED = 50  # runs that MLflow's page can still show


@dataclass(frozen=True)
class StageNote:
    """A stage of a pipeline's run: the run that made its output, where one is known."""

    stage: str
    how: How
    run_id: str | None
    output: Artifact | None


@dataclass(frozen=True)
class MemberNote:
    """One of a sweep's runs: its values in the order of the swept fields, its headline figures or what went wrong."""

    name: str
    values: Sequence[str]
    run_id: str | None
    figures: Mapping[str, float]
    error: str | None
    best: bool


def pipeline_note(stages: Sequence[StageNote], *, experiment_id: str) -> str:
    """A table of the stages, each with a link to the run that made its output.

    The last is the first: MLflow's page folds a note up behind some lines.
    """
    ordered = reversed(stages)
    rows = [[_link(note.stage, experiment_id, note.run_id), _whole(note.how), *_made(note.output)] for note in ordered]
    return _table(["stage", "", "output", "figures", "took"], rows)


def _made(output: Artifact | None) -> list[str]:
    if output is None:
        return ["", "", ""]
    manifest = output.manifest
    return [f"`{manifest.fingerprint[:SHORT]}`", key_figures(manifest), _whole(units.seconds(manifest.wall_seconds))]


def sweep_note(fields: Sequence[str], members: Sequence[MemberNote], *, judged_by: str, experiment_id: str) -> str:
    """A table of the sweep's runs, the best one first, and a link to MLflow's comparison of them.

    Of more runs than a note can hold the last are left out of the table, and it says how many.
    """
    ordered = sorted(members, key=lambda member: not member.best)
    figures = list(dict.fromkeys(name for member in ordered for name in member.figures))
    head = ["run", *map(_plain, fields), *map(_words, figures), ""]
    rows = [_member_row(member, figures, experiment_id) for member in ordered]
    compared = _comparison([member.run_id for member in members if member.run_id], experiment_id)
    for shown in range(len(rows), -1, -1):
        left_out = f"and {len(rows) - shown:,} further runs, below this one" if shown < len(rows) else ""
        note = "\n\n".join(filter(None, [_table(head, rows[:shown]), left_out, compared, _plain(judged_by)]))
        if len(note) <= MAX_TAG_CHARACTERS:
            break
    return note


def _member_row(member: MemberNote, figures: Sequence[str], experiment_id: str) -> list[str]:
    told = "**best**" if member.best else _plain(f"failed: {member.error}"[:MOST_ERROR]) if member.error else ""
    shown = [_figure(member.figures[name]) if name in member.figures else "" for name in figures]
    return [_link(member.name, experiment_id, member.run_id), *map(_plain, member.values), *shown, told]


def _comparison(run_ids: Sequence[str], experiment_id: str) -> str:
    if not 1 < len(run_ids) <= MOST_COMPARED:
        return ""
    query = f"runs={quote(json.dumps(run_ids))}&experiments={quote(json.dumps([experiment_id]))}"
    return f"[Compare these runs](#/compare-runs?{query})"


def key_figures(manifest: Manifest) -> str:
    """The figures of a stage that a reader wants first, in words."""
    counts = [f"{_words(name)} {units.count(manifest.counts[name])}" for name in COUNTS if name in manifest.counts]
    names = sorted(filter(is_headline, manifest.figures), key=lambda name: not name.startswith("test_"))
    return ", ".join([*counts, *(f"{_words(name)} {_figure(manifest.figures[name])}" for name in names)][:MOST_FIGURES])


def is_headline(name: str) -> bool:
    """Whether a figure is on held-out data, of everything: no part by source, no bound of an interval."""
    return (
        name.startswith(("validation_", "test_"))
        and "." not in name
        and not name.endswith(("_low", "_high", "_spread"))
    )


def _figure(value: float) -> str:
    return units.significant(value, digits=4)


def _link(text: str, experiment_id: str, run_id: str | None) -> str:
    return f"[{_plain(text)}](#/experiments/{experiment_id}/runs/{run_id})" if run_id else _plain(text)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {GAP.join(cells)} |" for cells in (head, *rows)]
    return "\n".join([lines[0], f"|{' --- |' * len(head)}", *lines[1:]])


def _plain(text: str) -> str:
    """`text` on one line, no character of it markup."""
    return re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", " ".join(text.split()))


def _whole(text: str) -> str:
    """`text`, which the page does not break."""
    return text.replace(" ", "&nbsp;")


def _words(name: str) -> str:
    return _plain(name.replace("_", " "))
