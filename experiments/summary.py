"""The kept small-scale tables as one: a line an experiment, a column a row of theirs.

    python experiments/summary.py

Reads the tables in experiments/results/demo and writes summary.md beside them, which the README shows.
"""

import json
from pathlib import Path
from typing import Any

import pandas as pd

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


def kept() -> list[Path]:
    return [file for name in EXPERIMENTS if (file := RESULTS / f"{name}.json").is_file()]


if __name__ == "__main__":
    (RESULTS / "summary.md").write_text(summary(), encoding="utf-8")
    print(summary())
