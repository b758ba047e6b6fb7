"""A value of a record as tables print it: its unit and its heading."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from diffi2i.metrics.spec import COLUMNS, COSTS, GAINS
from diffi2i.tables.records import Entry, Filled, Record


def states_of(filled: Filled, row: str, dataset: str) -> dict[int, Entry]:
    """A row's records by seed: on a test set of the paper, or (`dataset` empty) on its own held-out images."""
    if dataset:
        return {seed: state for (name, seed, of), state in filled.columns.items() if (name, of) == (row, dataset)}
    return {seed: state for (name, seed), state in filled.own.items() if name == row}


def records_of(filled: Filled, row: str, dataset: str) -> dict[int, Record]:
    """As `states_of`, without the seeds that have no record."""
    return {seed: state for seed, state in states_of(filled, row, dataset).items() if isinstance(state, dict)}


def common_seeds(one: Mapping[int, Record], other: Mapping[int, Record], metric: str) -> list[int]:
    """The seeds under which both rows have the score."""
    return [
        seed
        for seed in one
        if seed in other and None not in (value_of(one[seed], metric), value_of(other[seed], metric))
    ]


def of_images(records: Sequence[Record], metric: str) -> dict[str, float]:
    """Each image's score, averaged over the records; empty where they hold none."""
    scores: dict[str, list[float]] = {}
    for record in records:
        for image in record["per_image"]:
            if metric in image:
                scores.setdefault(str(image["name"]), []).append(float(image[metric]))
    return {name: fmean(values) for name, values in scores.items()}


def value_of(record: Record, metric: str, scores: str = "metrics") -> float | None:
    """A cost or a score of a record in the units of `metrics.spec`; `scores` may also be `baseline`.

    The gains have the main metric's unit.
    """
    raw = record.get(metric) if metric in COSTS else record[scores].get(metric)
    # Records hold infinite values as words.
    return None if raw is None else float(raw) * COLUMNS[record["main_metric"] if metric in GAINS else metric].unit


def heading(metric: str) -> str:
    """What a measured column is called, with its unit where that is not the record's."""
    return COLUMNS[metric].titled + " (%)" * (COLUMNS[metric].unit == 100)
