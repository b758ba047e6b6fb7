"""Records as data frames: a line for each score of a record, and a line for each score of an image.

Values are in the printed unit (`Metric.unit`): per cent, millions, milliseconds.
"""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import pandas as pd

from diffi2i.metrics.spec import COSTS, METRICS
from diffi2i.run.record import Record
from diffi2i.run.state import Entry, Failure

Key = tuple[str, int, str]
"""Row, seed and test set; the empty one is the images held out in training."""


class Found:
    """What there is of a table's runs."""

    def __init__(self, entries: Mapping[Key, Entry], files: Mapping[Key, Path] | None = None) -> None:
        """Takes each entry, but for a record that does not compare with most others of its task and test set.

        `files` are those of the records.
        """
        self.files = files or {}
        self.entries = dict(entries) | without_strays(records_of(entries))
        self.records = records_of(self.entries)

    @cached_property
    def scores(self) -> pd.DataFrame:
        """A line for each score, cost and gain of a record; one that is n/a says `why`."""
        lines = []
        for key, record in self.records.items():
            main, unit = record.scores[record.main_metric], METRICS[record.main_metric].unit
            for metric, score in record.scores.items():
                values = [times(value, METRICS[metric].unit) for value in (score.value, score.baseline)]
                lines.append((*key, metric, score.n, *values, score.why_not))
            lines += [(*key, gain, main.n, value * unit, None, None) for gain, value in main.gains.items()]
            costs = {cost: getattr(record.cost, cost, None) for cost in COSTS}
            lines += [(*key, cost, None, times(value, COSTS[cost].unit), None, None) for cost, value in costs.items()]
        columns = ["row", "seed", "dataset", "metric", "images", "value", "baseline", "why"]
        return pd.DataFrame(lines, columns=columns).astype({"images": float, "value": float, "baseline": float})

    @cached_property
    def images(self) -> pd.DataFrame:
        """A line for each score of an image."""
        lines = [
            (*key, metric, image["name"], float(value) * METRICS[metric].unit)
            for key, record in self.records.items()
            for image in record.images
            for metric, value in image.items()
            if metric != "name"
        ]
        return pd.DataFrame(lines, columns=["row", "seed", "dataset", "metric", "image", "value"])

    def of_row(self, row: str, dataset: str = "") -> list[Entry]:
        """What there is of a row, seed by seed."""
        return [entry for (name, _, of), entry in self.entries.items() if (name, of) == (row, dataset)]


def records_of(entries: Mapping[Key, Entry]) -> dict[Key, Record]:
    return {key: entry for key, entry in entries.items() if isinstance(entry, Record)}


def times(value: float | None, unit: float) -> float | None:
    return None if value is None else value * unit


def without_strays(records: Mapping[Key, Record]) -> dict[Key, Entry]:
    """Refuses, with the reason, the records that do not compare with most records of their task and test set."""

    def apart_from(group: list[Key], record: Record) -> str | None:
        return next(filter(None, (why_apart(records[key], record) for key in group)), None)

    groups: dict[tuple[str, str], list[list[Key]]] = {}
    for key, record in records.items():
        alike = groups.setdefault((record.task, key[2]), [])
        group = next((group for group in alike if apart_from(group, record) is None), None)
        alike.append([key]) if group is None else group.append(key)
    found: dict[Key, Entry] = dict(records)
    for alike in groups.values():
        most = max(alike, key=len)  # of equally many, those that come first in the table
        for key in (key for group in alike if group is not most for key in group):
            found[key] = Failure(f"does not compare with the other rows: {apart_from(most, records[key])}")
    return found


def why_apart(one: Record, other: Record) -> str | None:
    """Why two records do not belong in one table, None where they do: all rows trained here have the same images."""
    if why := one.comparable(other):
        return why
    trained = [record.data.train for record in (one, other) if not (record.method and record.method.imported)]
    return "it was trained on other images" if len({*trained}) > 1 else None
