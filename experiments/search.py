"""The same search of the learning rate for every row of a table, at a share of its steps.

    python experiments/search.py study-sisr lr=[5e-4,1e-3,2e-3] share=0.25 budget=demo jobs=2 [key=value ...]

The other words are overrides of every training, above all those that keep the test images out:
dataset.source.val_root=<folder of training images>. A row that starts from another searches with it, both at one rate.
Writes experiments/results/<budget>/<table>/search.csv, a line for all that was tried; it may be interrupted and called
again. The rate that a row then has in its file is of whoever reads that table.
"""

import csv
import sys
from collections.abc import Sequence
from pathlib import Path

from diffi2i.run.ensure import ensure
from diffi2i.run.plan import Run, planned, value_of
from diffi2i.run.record import Record
from diffi2i.run.state import read
from diffi2i.tables.experiment import load
from diffi2i.tables.plan import run_of

RESULTS = Path(__file__).resolve().parent / "results"
OWN_KEYS = ("lr", "share", "jobs")


def chain(overrides: Sequence[str]) -> list[tuple[str, int]]:
    """The rows that a training goes through, first things first, each with its own steps."""
    run, found = planned(overrides), []
    while True:
        found.append((value_of("experiment", run.overrides) or "", run.config.train.steps))
        if run.before is None:
            return found[::-1]
        run = run.before


def main() -> None:
    table, *words = sys.argv[1:]
    lrs = (value_of("lr", words) or "[5e-4,1e-3,2e-3]").strip("[]").split(",")
    share, jobs = float(value_of("share", words) or 0.25), int(value_of("jobs", words) or 1)
    extra = [word for word in words if word.partition("=")[0] not in OWN_KEYS]
    experiment = load(table)
    rows = [run_of(experiment, row) for row in experiment.rows if row.run and row.name not in experiment.rescored]
    chains = {(row, lr): chain([f"experiment={row}", *extra]) for row in rows for lr in lrs}
    last: dict[tuple[str, str], Run] = {}
    for stage in range(max(map(len, chains.values()))):
        for (row, lr), steps in chains.items():
            if stage < len(steps):
                name, whole = steps[stage]
                init = [f"method.init={last[row, lr].directory}"] if stage else []
                own = [f"experiment={name}", *init, f"train.steps={round(share * whole)}", f"train.lr={lr}"]
                last[row, lr] = planned([*own, *extra])
        ensure([run for key, run in last.items() if stage < len(chains[key])], jobs)
    metric = next(iter(last.values())).config.task.main_metric
    file = RESULTS / (value_of("budget", extra) or "demo") / table / "search.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8", newline="") as lines:
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(["row", "lr", "steps", metric, "run"])
        for (row, lr), run in last.items():
            entry = read(run)
            score = f"{entry.scores[metric].value:.3f}" if isinstance(entry, Record) else getattr(entry, "reason", "")
            writer.writerow([row, lr, run.config.train.steps, score, run.name])
    print(file.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
