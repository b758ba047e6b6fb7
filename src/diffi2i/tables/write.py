"""Writes the files of a table: Markdown, CSV, LaTeX, JSON, and the pictures of a figure."""

import os
from collections.abc import Sequence
from pathlib import Path

from diffi2i.run.files import write_json
from diffi2i.tables import figures
from diffi2i.tables.experiment import Experiment
from diffi2i.tables.formats import plain, to_csv, to_latex, to_markdown
from diffi2i.tables.plan import Cell
from diffi2i.tables.records import as_json, collect, trainings
from diffi2i.tables.render import render


def write(experiment: Experiment, cells: Sequence[Cell], scale: str, folder: Path) -> list[Path]:
    """Writes what there is of an experiment's cells into `folder`. Returns the files.

    Raises:
        UserError: rows do not compare.
    """
    folder.mkdir(parents=True, exist_ok=True)
    filled = collect(experiment, cells)
    table = render(experiment, filled, scale, trainings(cells), panels(experiment, cells, folder))
    stem = folder / experiment.name
    pictures = figures.save(figures.draw(experiment, table), stem) if experiment.x else []
    shown = [file.name for file in pictures if file.suffix == ".svg"]
    texts = {"md": to_markdown(table, shown), "csv": to_csv(table), "tex": to_latex(table)}
    files = []
    for kind, text in texts.items():
        files.append(folder / f"{experiment.name}.{kind}")
        files[-1].write_text(text, encoding="utf-8")
    files.append(folder / f"{experiment.name}.json")
    write_json(files[-1], as_json(experiment, cells, filled) | {"table": plain(table)})
    return [*files, *pictures]


def panels(experiment: Experiment, cells: Sequence[Cell], folder: Path) -> list[tuple[str, str]]:
    """(label, file) of the pictures of each row's first seed that has some, the file relative to `folder`."""
    labels = {row.name: row.label for row in experiment.rows}
    found: dict[str, tuple[str, str]] = {}
    for cell in cells:
        file = cell.record.directory / "panel.png"
        if cell.row not in found and file.is_file():
            found[cell.row] = (f"{labels[cell.row]}, seed {cell.seed}", Path(os.path.relpath(file, folder)).as_posix())
    return list(found.values())
