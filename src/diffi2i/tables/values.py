"""A value of a record as tables print it: its unit, its decimals, its heading."""

from diffi2i.metrics import LOWER_IS_BETTER
from diffi2i.tables.experiment import COSTS, paper_units
from diffi2i.tables.records import Entry, Filled, Record
from diffi2i.tables.runs import SCORES, digits

COST_HEADINGS = {"parameters": "parameters (M)", "macs": "MACs (G)", "seconds_per_image": "time per image (ms)"}


def states_of(filled: Filled, row: str, dataset: str) -> dict[int, Entry]:
    """A row's records by seed: on a test set of the paper, or (`dataset` empty) on its own held-out images."""
    if dataset:
        return {seed: state for (name, seed, of), state in filled.columns.items() if (name, of) == (row, dataset)}
    return {seed: state for (name, seed), state in filled.own.items() if name == row}


def records_of(filled: Filled, row: str, dataset: str) -> dict[int, Record]:
    """As `states_of`, without the seeds that have no record."""
    return {seed: state for seed, state in states_of(filled, row, dataset).items() if isinstance(state, dict)}


def value_of(record: Record, metric: str, scores: str = "metrics") -> float | None:
    """A cost or a score of a record in the units of `paper_units`; `scores` may also be `baseline`.

    The prior dependence has the main metric's unit.
    """
    raw = record.get(metric) if metric in COSTS else record[scores].get(metric)
    # Records hold infinite values as words.
    return (
        None if raw is None else float(raw) * paper_units(record["main_metric"] if metric == "prior_dependence" else metric)
    )


def places(metric: str) -> int:
    """Decimals of a value in the units of `paper_units`."""
    if metric in COSTS:
        return 1 if metric == "seconds_per_image" else 2
    return 2 if in_percent(metric) else digits(metric)


def in_percent(metric: str) -> bool:
    return paper_units(metric) == 100


def heading(metric: str) -> str:
    """What a measured column is called, with its unit where that is not the record's."""
    if metric in COSTS:
        return COST_HEADINGS[metric]
    return SCORES.get(metric, metric + arrow(metric)) + " (%)" * in_percent(metric)


def arrow(metric: str) -> str:
    """Which way a score is better. Costs and the prior dependence have none."""
    return "" if metric in (*COSTS, "prior_dependence") else " ↓" if metric in LOWER_IS_BETTER else " ↑"
