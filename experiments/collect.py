"""Keeps tables and the records behind them in experiments/results/<budget>/: what `diffi2i table` ran, without weights.

    python experiments/collect.py table7 budget=demo [seeds=3] [key=value ...]

Takes the same words as `diffi2i table` and reads outputs/runs of the working folder. Trains nothing.
"""

import contextlib
import json
import sys
import tempfile
from pathlib import Path

from diffi2i import cli
from diffi2i.commands.table import asked, cells_of
from diffi2i.config.commands import TableConfig
from diffi2i.config.compose import load
from diffi2i.errors import UserError
from diffi2i.run.plan import RUNS, Run
from diffi2i.run.record import Record
from diffi2i.run.state import read
from diffi2i.tables.draw import draw
from diffi2i.tables.plan import in_order

RESULTS = Path(__file__).resolve().parent / "results"


def keep(run: Run, results: Path = RESULTS) -> None:
    """Copies a run's record to where the records of this repository lie, or to other `results`."""
    kept = results / run.directory.relative_to(RUNS)
    kept.mkdir(parents=True, exist_ok=True)
    # Reasons for n/a name files in the home folder of whoever ran it.
    text = (run.directory / "result.json").read_text(encoding="utf-8").replace(str(Path.home()), "~")
    # On one line: half the size.
    (kept / "result.json").write_text(json.dumps(json.loads(text), separators=(",", ":")) + "\n", encoding="utf-8")


def main() -> None:
    _, overrides = cli.parsed(cli.COMMANDS["table"], sys.argv[1:])
    request = asked(load(TableConfig, "table", overrides))
    plans = [(experiment, cells_of(experiment, request)) for experiment in request.experiments]
    for run in in_order(cell for _, cells in plans for cell in cells):
        if not isinstance(read(run), Record):
            raise UserError(f"{run.directory} has no sound record: run diffi2i table {' '.join(sys.argv[1:])} first")
        keep(run)
    # Drawn from what is kept and nothing else.
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        RUNS.parent.mkdir()
        RUNS.symlink_to(RESULTS)
        for experiment, cells in plans:
            files = draw(experiment, cells, request.budget, RESULTS / request.budget)
            print(f"{experiment.name}: {', '.join(map(str, files))}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
