"""From an experiment and what there is of its runs to its table, as data for every format.

The paper's values and those measured here stand in columns of their own: below budget=paper they are of other data and
of another budget, and at any budget of another machine.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan
from textwrap import shorten
from typing import Any

import pandas as pd

from diffi2i.metrics.spec import COLUMNS, GAINS, METRICS
from diffi2i.run.record import Record
from diffi2i.run.state import Failure
from diffi2i.tables.experiment import ALL_TASKS, Experiment, Row
from diffi2i.tables.frame import Found
from diffi2i.tables.ordering import NUMBERS, PAIR_NUMBERS, Ordering, difference, orderings
from diffi2i.tables.remarks import notes, prior_warnings, provenance

PAPER, HERE = "paper", "here"
BASELINE = "baseline"


@dataclass(frozen=True)
class Table:
    """All that is printed.

    `cells` has a line for each cell, row by row:

    - `row` (`BASELINE` for what the input itself scores, or a constant), its `label`, its `state` (`measured`,
      `failed`, `not run`, or `paper` for a peer, whose value is the paper's alone) and the `main` metric of its task;
    - `origin` (`PAPER` or `HERE`), `heading`, `metric` and `dataset` of its column, and how many `digits` it prints;
    - `text`, the value as printed or the word in its place, its `mark` (`best` or `second` of its column), and whether
      it is a distance between sets of so `few` images that it is biased;
    - `value`, the mean over the `seeds` in the printed unit, `sd` over the seeds (n - 1), the 95 % interval from `low`
      to `high` of a difference, how many `images` each seed scored, and the `baseline` of the same score, that of the
      input itself or of a constant. What there is not is NaN.

    `runs` says for each row, seed and test set (`dataset`) in which `file` its record is, or the `failure`.
    `provenance` lists each distinct value. `seconds` are those of training, by run. `panels` are (label, file) of
    pictures, the file relative to the table's own folder.
    """

    name: str
    title: str
    budget: str
    cells: pd.DataFrame
    runs: list[dict[str, Any]]
    orderings: list[Ordering]
    warnings: list[str]
    notes: list[str]
    provenance: dict[str, list[str]]
    seconds: dict[str, float]
    panels: list[tuple[str, str]]

    def to_json(self) -> dict[str, Any]:
        found = [vars(ordering) | {"pairs": to_lines(ordering.pairs)} for ordering in self.orderings]
        return vars(self) | {"cells": to_lines(self.cells), "orderings": found}

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> "Table":
        """Raises `KeyError`, `TypeError` or `ValueError` where `plain` is no table."""
        found = [Ordering(**each | {"pairs": from_lines(each["pairs"])}) for each in plain["orderings"]]
        panels = [(label, file) for label, file in plain["panels"]]
        return cls(**plain | {"cells": from_lines(plain["cells"]), "orderings": found, "panels": panels})


CELL_NUMBERS = (*NUMBERS, "baseline")


def to_lines(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """JSON has no NaN: None stands for it."""
    lines: list[dict[str, Any]] = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return lines


def from_lines(lines: list[dict[str, Any]]) -> pd.DataFrame:
    """JSON has no infinite numbers either: words stand for them."""
    frame = pd.DataFrame(lines)
    return frame.astype({name: float for name in (*CELL_NUMBERS, *PAIR_NUMBERS) if name in frame})


@dataclass(frozen=True)
class Column:
    """A column of the table; `origin` is `PAPER` or `HERE`."""

    origin: str
    heading: str
    metric: str
    dataset: str = ""
    digits: int = 0


def table_of(
    experiment: Experiment,
    found: Found,
    budget: str,
    trained: Mapping[str, Record],
    panels: Sequence[tuple[str, str]] = (),
) -> Table:
    """The table of what there is. `trained` are the records of all runs that were trained for it, by the run's name."""
    paper, here = columns_of_paper(experiment), columns_here(experiment, found, budget)
    cells = pd.DataFrame([*baseline(experiment, found, paper, here), *of_rows(experiment, found, paper, here)])
    cells = cells.assign(few=few(cells), mark=marks(cells) if experiment.task != ALL_TASKS else "")
    return Table(
        name=experiment.name,
        title=experiment.title,
        budget=budget,
        cells=cells,
        runs=[run(found, *key) for key in found.entries],
        orderings=orderings(experiment, found, budget),
        warnings=prior_warnings(experiment, found),
        notes=notes(experiment, found, cells, budget),
        provenance=provenance([*trained.values(), *found.records.values()], budget),
        seconds={run: record.training.seconds for run, record in trained.items() if record.training},
        panels=list(panels),
    )


def run(found: Found, row: str, seed: int, dataset: str) -> dict[str, Any]:
    """A line of `Table.runs`."""
    key = (row, seed, dataset)
    file, entry = found.files.get(key), found.entries[key]
    failure = entry.reason if isinstance(entry, Failure) else None
    return {"row": row, "seed": seed, "dataset": dataset, "file": file and str(file), "failure": failure}


def columns_of_paper(experiment: Experiment) -> list[Column]:
    """The paper's columns; none where it prints nothing, but for a figure."""
    if experiment.x is None and not any(text for row in experiment.rows for text in row.paper):
        return []
    return [Column(PAPER, each.heading + COLUMNS[each.metric].arrow, each.metric) for each in experiment.columns]


def columns_here(experiment: Experiment, found: Found, budget: str) -> list[Column]:
    """At budget=paper the paper's columns; below it the scores that these name, and the main metrics of the tasks.

    The gains are the last, in the units of the main metric.
    """
    mains = dict.fromkeys(record.main_metric for record in found.records.values())
    if budget == "paper":
        shown = [(each.metric, each.heading + COLUMNS[each.metric].arrow, each.dataset) for each in experiment.columns]
    else:
        metrics = dict.fromkeys([*(column.metric for column in experiment.columns), *mains])
        shown = [(metric, COLUMNS[metric].titled, "") for metric in metrics]
    columns = [Column(HERE, heading, metric, dataset, COLUMNS[metric].digits) for metric, heading, dataset in shown]
    digits = max((METRICS[main].digits for main in mains), default=4)
    gains = [gain for gain in GAINS if gain != "prior_worth" or experiment.controls]
    return [*columns, *(Column(HERE, GAINS[gain].titled, gain, "", digits) for gain in gains)]


def summary(found: Found, what: str = "value") -> pd.DataFrame:
    """Mean, deviation, seeds and images of a value, or of the `baseline`, by (row, dataset, metric)."""
    by = found.scores.dropna(subset=what).groupby(["row", "dataset", "metric"])
    over_seeds = {"value": by[what].mean(), "sd": by[what].std(), "seeds": by[what].count()}
    return pd.DataFrame({**over_seeds, "images": by.images.min(), "baseline": by.baseline.mean()})


def cell(column: Column, facts: Mapping[str, str], text: str = "", **numbers: float) -> dict[str, Any]:
    """A line of `Table.cells`. `facts` are the row's; without `text` it is the value's."""
    shown = f"{numbers['value']:.{column.digits}f}" if numbers and not text else text
    return {**facts, **vars(column), "text": shown, **dict.fromkeys(CELL_NUMBERS, nan), **numbers}


def facts_of(row: Row, found: Found) -> dict[str, str]:
    entries = found.of_row(row.name)
    mains = [entry.main_metric for entry in entries if isinstance(entry, Record)]
    failed = any(isinstance(entry, Failure) and entry.word == "failed" for entry in entries)
    state = "paper" if not row.run else "measured" if mains else "failed" if failed else "not run"
    return {"row": row.name, "label": row.label, "state": state, "main": next(iter(mains), "")}


Columns = Sequence[Column]


def baseline(experiment: Experiment, found: Found, paper: Columns, here: Columns) -> list[dict[str, Any]]:
    """The cells of what the input itself scores, or the best constant: those of the first row that has them."""
    first = next((record for record in found.records.values() if record.data.baseline), None)
    if experiment.task == ALL_TASKS or first is None:
        return []
    facts = {"row": BASELINE, "label": str(first.data.baseline), "state": "measured", "main": first.main_metric}
    scores = summary(found, "baseline")
    cells = [cell(column, facts) for column in paper]
    for column in here:
        keys = [(row.name, column.dataset, column.metric) for row in experiment.rows]
        numbers: dict[str, Any] = next((scores.loc[key].to_dict() for key in keys if key in scores.index), {})
        cells.append(cell(column, facts, **numbers))
    return cells


def of_rows(experiment: Experiment, found: Found, paper: Columns, here: Columns) -> list[dict[str, Any]]:
    """The cells of all rows: the paper's values, then what was measured."""
    scores, cells = summary(found), []
    for row in experiment.rows:
        facts, said = facts_of(row, found), None
        for column, text in zip(paper, row.paper, strict=False):  # there may be none of the former
            cells.append(cell(column, facts, text, **({"value": float(text)} if text else {})))
        for column in here:
            key = (row.name, column.dataset, column.metric)
            numbers = worth(experiment, found, row) if column.metric == "prior_worth" else {}
            if key in scores.index:
                numbers = scores.loc[key].to_dict()
            if column.metric in ("parameters", "macs"):  # counts, equal under every seed
                numbers.pop("sd", None)
            word = "" if numbers else lacking(experiment, found, row, column)
            cells.append(cell(column, facts, "failed" if word == said else word, **numbers))
            said = word if word.startswith("failed: ") else said  # why, once a row
    return cells


def lacking(experiment: Experiment, found: Found, row: Row, column: Column) -> str:
    """The word in the place of a value that there is not; none where there can be none."""
    entries = found.of_row(row.name, column.dataset)
    records = [entry for entry in entries if isinstance(entry, Record)]
    failures = [entry.reason for entry in entries if isinstance(entry, Failure) and entry.word == "failed"]
    if failures and not records:
        return f"failed: {shorten(failures[0], 60, placeholder=' ...')}"
    if column.metric == "prior_worth":
        return "n/a" if experiment.control_of(row.name) else ""
    # A method without a prior depends on none, and another task has other scores.
    other = column.metric in GAINS or (
        experiment.task == ALL_TASKS
        and column.metric in METRICS
        and all(column.metric not in r.scores for r in records)
    )
    return "" if not entries or (records and other) else "n/a"


def worth(experiment: Experiment, found: Found, row: Row) -> dict[str, float]:
    """What the prior is worth in a row: its main score against that of its control, above zero where the prior helps.

    The control is the same network on the same data with the same seed and as many steps, but without a prior. How much
    a network leans on its prior (prior dependence) is another thing: one may lose 3 dB by a wrong prior and gain none
    by the right one.
    """
    control = experiment.control_of(row.name)
    metric = next((entry.main_metric for entry in found.of_row(row.name) if isinstance(entry, Record)), None)
    gain = difference(found, row.name, control, metric) if control and metric else None
    if gain is None or metric is None:
        return {}
    images = gain.images or found.records[row.name, gain.seeds[0], ""].scores[metric].n
    return gain.numbers(-1 if METRICS[metric].lower else 1) | {"images": images}


def few(cells: pd.DataFrame) -> list[bool]:
    """Which cells are distances between sets of too few images."""
    return [cell.metric in METRICS and METRICS[cell.metric].few(cell.images) for cell in cells.itertuples()]


def marks(cells: pd.DataFrame) -> pd.Series:
    """`best` and `second` of each score's column, as printed: what looks equal is equal.

    Costs and gains have no marks, nor has the baseline, nor a column where all are equal.
    """
    scored = cells[cells.metric.isin([*METRICS]) & (cells.row != BASELINE)]
    better = scored.metric.map(lambda key: 1 if METRICS[key].lower else -1)
    printed = (better * pd.to_numeric(scored.text, errors="coerce")).groupby([scored.origin, scored.heading])
    rank = printed.rank("dense")[printed.transform("nunique") > 1]
    return rank.map({1.0: "best", 2.0: "second"}).reindex(cells.index).fillna("")
