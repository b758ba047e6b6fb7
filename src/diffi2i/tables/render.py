"""From an experiment and its records to the cells of its table, ready for any format.

The paper's values and those measured here stand in columns of their own: below scale=paper they are of other data and
another budget, and at any scale of another machine.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from statistics import fmean, stdev
from textwrap import shorten

from diffi2i.config.schema import SET_METRICS
from diffi2i.metrics import FEW_IMAGES, LOWER_IS_BETTER
from diffi2i.tables.compare import check_comparable
from diffi2i.tables.experiment import ALL_TASKS, COSTS, GAINS, Experiment
from diffi2i.tables.ordering import orderings
from diffi2i.tables.plan import scored_apart
from diffi2i.tables.records import Entry, Failure, Filled, Record
from diffi2i.tables.remarks import (
    filled_records,
    paper_notes,
    prior_warnings,
    provenance,
    state_notes,
    value_notes,
)
from diffi2i.tables.table import Cell, Head, Line, Table
from diffi2i.tables.values import arrow, heading, places, states_of, value_of
from diffi2i.tables.worth import worth

# Keys of a record without which its scores cannot be shown.
NEEDED = (
    *("task", "stage", "metrics", "n_images", "per_image", "main_metric", "baseline", "protocol", "dataset"),
    "network_steps",
)


def render(
    experiment: Experiment,
    filled: Filled,
    scale: str,
    trainings: Mapping[str, Record],
    panels: Sequence[tuple[str, str]] = (),
) -> Table:
    """The table of what there is.

    Args:
        trainings: the records of all runs that were trained for it, stage 1 among them, by the run's key.
        panels: (label, file) of pictures.

    Raises:
        UserError: two records do not compare (see `check_comparable`); the message names their rows.
    """
    filled = Filled(
        {key: usable(state) for key, state in filled.own.items()},
        {key: usable(state) for key, state in filled.columns.items()},
    )
    check_rows(experiment, filled)
    heads = [*paper_heads(experiment), *measured_heads(experiment, filled, scale)]
    lines = [line(experiment, number, heads, filled) for number in range(len(experiment.rows))]
    if experiment.task != ALL_TASKS:
        lines = [*baseline_line(experiment, heads, filled), *marked(lines, heads)]
    return Table(
        name=experiment.name,
        title=experiment.title,
        scale=scale,
        heads=heads,
        lines=lines,
        orderings=orderings(experiment, filled, scale),
        warnings=prior_warnings(experiment, filled),
        notes=[
            *paper_notes(experiment),
            *state_notes(experiment, filled, scale),
            *value_notes(experiment, heads, lines, filled),
        ],
        provenance=provenance(filled, trainings, scale),
        compute={key: float(record.get("wall_time_s", 0.0)) for key, record in trainings.items()},
        panels=list(panels),
    )


def usable(state: Entry) -> Entry:
    """The record, or a failure that says what it lacks."""
    if isinstance(state, dict) and (lacking := [key for key in NEEDED if key not in state]):
        return Failure(f"damaged record: it lacks {', '.join(lacking)}")
    return state


def check_rows(experiment: Experiment, filled: Filled) -> None:
    """Every record compares with the first of its task and test set. Raises `UserError`, which names the two rows."""
    labels = {row.name: row.label for row in experiment.rows}
    first: dict[tuple[str, str], tuple[str, Record]] = {}
    for (row, seed, dataset), state in [
        *(((row, seed, ""), state) for (row, seed), state in filled.own.items()),
        *filled.columns.items(),
    ]:
        if isinstance(state, dict):
            here = (f"{experiment.name}: {labels[row]} (seed {seed})", state)
            name, record = first.setdefault((state["task"], dataset), here)
            check_comparable(record, state, (name, f"{labels[row]} (seed {seed})"))


def paper_heads(experiment: Experiment) -> list[Head]:
    """The paper's columns, each with as many decimals as the paper prints at most; none where it prints nothing."""
    if all(value is None for row in experiment.rows for value in row.paper) and experiment.x is None:
        return []
    heads = []
    for number, column in enumerate(experiment.columns):
        printed = [row.paper[number] for row in experiment.rows]
        places = max((decimals(value) for value in printed if value is not None), default=0)
        heads.append(Head("paper", column.heading + arrow(column.metric), column.metric, places))
    return heads


def decimals(value: float) -> int:
    exponent = Decimal(repr(value)).normalize().as_tuple().exponent
    assert isinstance(exponent, int)  # the paper's values are finite
    return max(0, -exponent)


def measured_heads(experiment: Experiment, filled: Filled, scale: str) -> list[Head]:
    """What is measured: at scale=paper the paper's columns; below it what these name, and the task's main metric.

    The gains are the last, in the units of the main metric.
    """
    mains = list(dict.fromkeys(record["main_metric"] for record in filled_records(filled)))
    decimals = max((places(main) for main in mains), default=4)
    controlled = any(row.control for row in experiment.rows)
    gains = [Head("here", heading(gain), gain, decimals) for gain in GAINS if controlled or gain == "prior_dependence"]
    if scale == "paper":
        columns = [
            Head(
                "here",
                column.heading + arrow(column.metric),
                column.metric,
                places(column.metric),
                column.dataset if scored_apart(column) else "",
            )
            for column in experiment.columns
        ]
    else:
        metrics = dict.fromkeys([*(column.metric for column in experiment.columns), *mains])
        columns = [Head("here", heading(metric), metric, places(metric)) for metric in metrics]
    return [*columns, *gains]


def line(experiment: Experiment, number: int, heads: Sequence[Head], filled: Filled) -> Line:
    """Row `number`: the paper's values, then what was measured."""
    row = experiment.rows[number]
    cells = []
    for index, head in enumerate(heads):
        if head.group == "paper":
            paper = row.paper[index]
            # Costs of different sizes are printed with different decimals.
            cells.append(Cell(paper, head.digits if head.metric not in COSTS or paper is None else decimals(paper)))
        elif head.metric == "prior_worth":
            cells.append(worth(row, head, filled))
        else:
            cells.append(measured(states_of(filled, row.name, head.dataset), head, experiment.task == ALL_TASKS))
    cells = said_once(cells)
    states = states_of(filled, row.name, "").values()
    records = [state for state in states if isinstance(state, dict)]
    if row.overrides is None:
        return Line(row.name, row.label, cells, "paper")
    if not records:
        failed = any(isinstance(state, Failure) and state.word == "failed" for state in states)
        return Line(row.name, row.label, cells, "failed" if failed else "not run")
    metrics = [head.metric for head in heads if head.group == "here" and head.metric not in (*COSTS, *GAINS)]
    baseline = {metric: value_of(records[0], metric, "baseline") for metric in metrics}
    known = {metric: value for metric, value in baseline.items() if value is not None}
    return Line(row.name, row.label, cells, "measured", records[0]["main_metric"], known)


def said_once(cells: Sequence[Cell]) -> list[Cell]:
    """The cells of a row with the reason of a failure in the first alone."""
    seen: set[str] = set()
    shown = []
    for cell in cells:
        shown.append(replace(cell, word="failed") if cell.word in seen else cell)
        if cell.word.startswith("failed: "):
            seen.add(cell.word)
    return shown


def measured(states: Mapping[int, Entry], head: Head, mixed: bool, scores: str = "metrics") -> Cell:
    """The mean over the seeds that have a record. `mixed`: rows are of several tasks, so not all have each score."""
    records = [state for state in states.values() if isinstance(state, dict)]
    if not records:
        failures = [state.reason for state in states.values() if isinstance(state, Failure) and state.word == "failed"]
        if failures:
            return Cell(word=f"failed: {shorten(failures[0], 60, placeholder=' ...')}")
        return Cell(word="n/a" if states else "")
    having = [record for record in records if value_of(record, head.metric, scores) is not None]
    if head.metric == "prior_dependence" and all(record.get("prior") == "zero" for record in records):
        return Cell()  # there is no prior to depend on
    if not having:
        other_task = mixed and head.metric not in COSTS and all(head.metric not in r["metrics"] for r in records)
        return Cell(word="" if other_task or scores == "baseline" else "n/a")
    values = [value_of(record, head.metric, scores) or 0.0 for record in having]
    images = None
    if head.metric not in COSTS:
        counts = [r["n_images"].get(r["main_metric"] if head.metric in GAINS else head.metric) for r in having]
        images = min((count for count in counts if count is not None), default=None)
    return Cell(
        fmean(values),
        head.digits,
        spread(values) if head.metric not in ("parameters", "macs") else None,
        images,
        len(values),
        few=head.metric in SET_METRICS and images is not None and images < FEW_IMAGES,
    )


def spread(values: Sequence[float]) -> float | None:
    """The standard deviation (n - 1) of finite values, where there are two."""
    return stdev(values) if len(values) > 1 and all(map(math.isfinite, values)) else None


def baseline_line(experiment: Experiment, heads: Sequence[Head], filled: Filled) -> list[Line]:
    """What the input itself scores, or the best constant: of the first row that was measured."""
    cells, label = [], ""
    for head in heads:
        cell = Cell()
        if head.group == "here" and head.metric not in (*COSTS, *GAINS):
            for row in experiment.rows:
                states = states_of(filled, row.name, head.dataset)
                if records := [state for state in states.values() if isinstance(state, dict)]:
                    cell = measured(states, head, False, "baseline")
                    label = "input itself" if records[0].get("constant") is None else "constant"
                    break
        cells.append(cell)
    return [Line("", label, cells, "measured")] if label else []


def marked(lines: Sequence[Line], heads: Sequence[Head]) -> list[Line]:
    """Marks the best and the second of each score's column, as printed: what looks equal is equal.

    Costs have no marks, nor has a column where all are equal.
    """
    cells = [list(each.cells) for each in lines]
    for index, head in enumerate(heads):
        if head.metric in (*COSTS, *GAINS):
            continue
        values = [row[index].value for row in cells]
        printed = [None if value is None else round(value, head.digits) for value in values]
        order = sorted({value for value in printed if value is not None}, reverse=head.metric not in LOWER_IS_BETTER)
        if len(order) > 1:
            marks = {order[0]: "best", order[1]: "second"}
            for row, value in zip(cells, printed, strict=True):
                row[index] = replace(row[index], mark="" if value is None else marks.get(value, ""))
    return [replace(each, cells=row) for each, row in zip(lines, cells, strict=True)]
