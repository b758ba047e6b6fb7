"""Draws a table from what its runs have left on disk."""

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from diffi2i.errors import UserError
from diffi2i.run.plan import RUNS, Run
from diffi2i.run.record import Record
from diffi2i.run.state import Entry, Failure, read
from diffi2i.tables.experiment import Experiment
from diffi2i.tables.frame import Found, Key
from diffi2i.tables.plan import Cell, columns_of, in_order
from diffi2i.tables.table import table_of
from diffi2i.tables.write import write


def draw(experiment: Experiment, cells: Sequence[Cell], budget: str, folder: Path) -> list[Path]:
    """Writes the files of what there is of an experiment's cells into `folder`. Returns them, the page first."""
    runs = {run.name: read(run) for run in in_order(cells) if run.command == "train"}
    trained = {name: entry for name, entry in runs.items() if isinstance(entry, Record)}
    table = table_of(experiment, found(experiment, cells), budget, trained, panels(experiment, cells, folder))
    return write(table, experiment, folder)


def found(experiment: Experiment, cells: Sequence[Cell]) -> Found:
    """All that there is of an experiment's cells; at budget=paper those of test sets that have no folder, too."""
    runs: dict[Key, Run] = {}
    entries: dict[Key, Entry] = {}
    rows = {row.name: row for row in experiment.rows}
    for cell in cells:
        runs[cell.row, cell.seed, ""] = cell.record
        for dataset in columns_of(experiment, rows[cell.row]) if cell.run.config.budget == "paper" else []:
            entries[cell.row, cell.seed, dataset] = Failure(f"give roots.{dataset}=<folder>", "n/a")
        runs |= {(cell.row, cell.seed, dataset): run for dataset, run in cell.columns.items()}
    files = {key: run.directory / "result.json" for key, run in runs.items()}
    return Found(entries | {key: read(run) for key, run in runs.items()}, files)


def panels(experiment: Experiment, cells: Sequence[Cell], folder: Path) -> list[tuple[str, str]]:
    """(label, file) of the pictures of each row's first seed that has some, the file relative to `folder`."""
    shown: dict[str, tuple[str, str]] = {}
    for cell in cells:
        file = cell.record.directory / "panel.png"
        if cell.row not in shown and file.is_file():
            place = Path(os.path.relpath(file, folder)).as_posix()
            shown[cell.row] = (f"{experiment.labels[cell.row]}, seed {cell.seed}", place)
    return list(shown.values())


def disagreements(cells: Sequence[Cell], folder: Path) -> list[str]:
    """One line for each cell whose record differs from the one in `folder`, laid out as outputs/runs is; names both.

    Compared are data and scores, not who ran it when and how fast. Cells that only one side has are passed over, and so
    is a damaged record of ours, which the table itself shows.
    """
    lines = []
    for cell in cells:
        ours, other = cell.record.directory, folder / cell.record.directory.relative_to(RUNS)
        if not ((ours / "result.json").is_file() and (other / "result.json").is_file()):
            continue
        try:
            one, another = (compared(Record.read(place)) for place in (ours, other))
        except UserError as error:
            lines.append(f"{cell.row}, seed {cell.seed}: {error}")
            continue
        if differing := [key for key in one | another if one.get(key) != another.get(key)]:
            values = ", ".join(f"{key} {one.get(key)} and {another.get(key)}" for key in differing)
            lines.append(f"{cell.row}, seed {cell.seed}: {values} in {ours} and {other}")
    return lines


def compared(record: Record) -> dict[str, object]:
    return asdict(record.data) | {key: score.value for key, score in record.scores.items()}
