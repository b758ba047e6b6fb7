"""The kept small-scale tables as docs/results.md shows them.

    python experiments/summary.py

Reads the tables in experiments/results/demo and writes beside them summary.md, a line an experiment of the prior and a
column a row of theirs, and studies.md, a table for each comparison of methods at equal processor seconds.
"""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from diffi2i.run.plan import RUNS
from diffi2i.run.record import Record
from diffi2i.tables.markdown import markdown
from diffi2i.tables.table import BASELINE, HERE, Table

RESULTS = Path(__file__).resolve().parent / "results" / "demo"
EXPERIMENTS = {
    "table7": "inpainting, 64-pixel crops",
    "small-sisr": "x4 super-resolution",
    "small-realsr": "real-world x4",
    "small-deblur": "deblurring",
    "small-segmentation": "segmentation",
    "small-depth": "depth",
}
STUDIES = {
    "study-sisr": "x4 super-resolution",
    "study-inpainting": "inpainting, 64-pixel crops",
    "neighbours1": "a finished diffusion made cheaper, x4",
    "neighbours2": "CoDi and its neighbours, x4",
    "neighbours3": "InvSR, x4",
}
ROWS = {
    BASELINE: "input itself, or a constant",
    "none": "no prior",
    "s1": "stage 1 (sees GT)",
    "none-on": "no prior, trained on",
    "s1-on": "stage 1, trained on",
    "v1": "V1, no diffusion",
    "v3": "V3, the paper's",
}
WITH_PRIOR = ("s1", "s1-on", "v1", "v3")


def shown(cell: Any) -> str:
    """The mean and its deviation over the seeds, of a difference the interval too."""
    digits = cell.digits
    spread = "" if pd.isna(cell.sd) else f" ± {cell.sd:.{digits}f}"
    if pd.isna(cell.low):
        return f"{cell.text}{spread}"
    return f"{cell.value:+.{digits}f}{spread} [{cell.low:+.{digits}f}, {cell.high:+.{digits}f}]"


def lines_of(table: Table) -> tuple[list[str], list[str]]:
    """The scores of an experiment's rows, and what the priors are worth there."""
    here = table.cells[table.cells.origin == HERE]
    scores = {cell.row: cell for cell in here[here.metric == here.main].itertuples()}
    worths = {cell.row: cell for cell in here[here.metric == "prior_worth"].itertuples()}
    ours = scores["v3"]
    name = f"{EXPERIMENTS[table.name]}: {ours.heading}, {ours.images:.0f} images, {ours.seeds:.0f} seeds"
    return [name, *(shown(scores[row]) for row in ROWS)], [name, *(shown(worths[row]) for row in WITH_PRIOR)]


def summary() -> str:
    """Both tables in Markdown."""
    tables = [Table.from_json(json.loads(file.read_text(encoding="utf-8"))) for file in kept()]
    found = [lines_of(table) for table in tables]
    scores = markdown([["", *ROWS.values()], *(scores for scores, _ in found)])
    head = ["what the prior is worth", *(ROWS[row] for row in WITH_PRIOR)]
    return f"{scores}\n\n{markdown([head, *(worths for _, worths in found)])}\n"


def processor_seconds(table: Table) -> dict[str, list[float]]:
    """Of each row's training under each seed, with all that it started from."""
    records = [Record.read(RESULTS / name) for name in table.seconds]
    # RePaint trains nothing, and so has the very weights that it starts from.
    made = {record.training.weights: record for record in records if record.training and record.training.steps}
    spent: dict[str, list[float]] = {}
    for run in table.runs:
        record: Record | None = Record.read(RESULTS.parent / Path(run["file"]).relative_to(RUNS))
        total = 0.0
        while record is not None:
            assert record.training is not None
            assert record.method is not None
            total += record.training.cpu_seconds or 0.0
            record = made[record.method.init.weights] if record.method.init else None
        spent.setdefault(run["row"], []).append(total)
    return spent


def study(table: Table) -> str:
    """Scores, costs and processor seconds of a study's rows in Markdown, best main score first."""
    here = table.cells[(table.cells.origin == HERE) & (table.cells.main != "")]  # not the paper's rows that nothing ran
    (main,) = here.main.unique()
    columns = [main, "lpips_alex", "fd_lite0", "calls", "seconds_per_image", "parameters"]
    cells = {(cell.row, cell.metric): cell for cell in here.itertuples()}
    spent = processor_seconds(table)
    ours = cells[next(iter(spent)), main]
    head = [f"{STUDIES[table.name]}, {ours.images:.0f} images, {ours.seeds:.0f} seeds"]
    head += [cells[ours.row, column].heading for column in columns] + ["processor seconds"]
    rows = sorted({row for row, _ in cells}, key=lambda row: -cells[row, main].value)
    lines = []
    for row in rows:
        line = [shown(cells[row, column]) for column in columns[:3]] + [
            cells[row, column].text for column in columns[3:]
        ]
        seconds = f"{min(spent[row]):.0f} to {max(spent[row]):.0f}" if row in spent else ""
        lines.append([cells[row, main].label, *line, seconds])
    return markdown([head, *lines])


def studies() -> str:
    """The tables of all studies that are kept."""
    files = [file for name in STUDIES if (file := RESULTS / f"{name}.json").is_file()]
    return "\n\n".join(study(Table.from_json(json.loads(file.read_text(encoding="utf-8")))) for file in files) + "\n"


def kept() -> list[Path]:
    return [file for name in EXPERIMENTS if (file := RESULTS / f"{name}.json").is_file()]


if __name__ == "__main__":
    (RESULTS / "summary.md").write_text(summary(), encoding="utf-8")
    (RESULTS / "studies.md").write_text(studies(), encoding="utf-8")
    print(summary(), studies(), sep="\n")
