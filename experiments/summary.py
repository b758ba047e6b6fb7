"""The kept small-scale tables as one: a line an experiment, a column a row of theirs.

    python experiments/summary.py

Reads the tables in experiments/results/demo and writes summary.md beside them, which the README shows.
"""

import json
from pathlib import Path

from diffi2i.tables.formats import number, restored
from diffi2i.tables.markdown import markdown
from diffi2i.tables.table import Cell, Line, Table

RESULTS = Path(__file__).resolve().parent / "results" / "demo"
EXPERIMENTS = {
    "table7": "inpainting, 64-pixel crops",
    "sisr": "x4 super-resolution",
    "realsr": "real-world x4",
    "deblur": "deblurring",
    "segmentation": "segmentation",
    "depth": "depth",
}
ROWS = {
    "": "input itself, or a constant",
    "none": "no prior",
    "s1": "stage 1 (sees GT)",
    "none-on": "no prior, trained on",
    "s1-on": "stage 1, trained on",
    "v1": "V1, no diffusion",
    "v3": "V3, the paper's",
}


def shown(cell: Cell) -> str:
    """The mean and its deviation over the seeds, of a difference the interval too."""
    spread = "" if cell.sd is None else f" ± {cell.sd:.{cell.digits}f}"
    if cell.interval is None:
        return number(cell) + spread
    low, high = (f"{end:+.{cell.digits}f}" for end in cell.interval)
    return f"{cell.value:+.{cell.digits}f}{spread} [{low}, {high}]"


def lines_of(table: Table) -> tuple[list[str], list[str]]:
    """The scores of an experiment's rows, and what the priors are worth there."""
    by_name: dict[str, Line] = {line.name: line for line in table.lines}
    main = by_name["v3"].main
    score = next(i for i, head in enumerate(table.heads) if head.metric == main and head.group == "here")
    worth = next(i for i, head in enumerate(table.heads) if head.metric == "prior_worth")
    images = f"{by_name['v3'].cells[score].images} images, {by_name['v3'].cells[score].seeds} seeds"
    name = f"{EXPERIMENTS[table.name]}: {table.heads[score].heading}, {images}"
    scores = [name, *(shown(by_name[row].cells[score]) for row in ROWS)]
    return scores, [name, *(shown(by_name[row].cells[worth]) for row in ("s1", "s1-on", "v1", "v3"))]


def summary() -> str:
    """Both tables in Markdown."""
    tables = [restored(json.loads(file.read_text())["table"]) for file in kept()]
    found = [lines_of(table) for table in tables]
    scores = markdown([["", *ROWS.values()], *(scores for scores, _ in found)])
    head = ["what the prior is worth", *(ROWS[row] for row in ("s1", "s1-on", "v1", "v3"))]
    return f"{scores}\n\n{markdown([head, *(worths for _, worths in found)])}\n"


def kept() -> list[Path]:
    return [file for name in EXPERIMENTS if (file := RESULTS / f"{name}.json").is_file()]


if __name__ == "__main__":
    (RESULTS / "summary.md").write_text(summary(), encoding="utf-8")
    print(summary())
