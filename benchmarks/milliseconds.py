"""Milliseconds of a prediction by each row of tables, the rows in turn: what docs/tradeoff.svg has on its axis.

    python benchmarks/milliseconds.py [tables=study-sisr,neighbours1,neighbours2,neighbours3] [budget=demo] [size=256]
      [rounds=3] [threads=1] [output=<file>.json]

Each row is made of its own configuration with random weights, which cost what others do, and so is what it starts from;
a row that is scored anew has the settings of that. One random image, `size` at the output, fp32. Without an output it
prints alone; experiments/tradeoff.py reads experiments/results/demo/tradeoff/milliseconds.json.
"""

import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from interleaved import given, interleaved
from omegaconf import OmegaConf
from rich.progress import track
from speed import batch_of, predicting
from torch import Tensor

from diffi2i.config.run import change_scoring
from diffi2i.config.schema import Config
from diffi2i.files import write_json
from diffi2i.methods.build import new_method
from diffi2i.metrics.cost import work
from diffi2i.run.plan import lineage
from diffi2i.run.provenance import provenance
from diffi2i.tables.experiment import load
from diffi2i.tables.markdown import markdown
from diffi2i.tables.plan import Cell, plan

DEFAULTS = {
    "tables": "study-sisr,neighbours1,neighbours2,neighbours3",
    "budget": "demo",
    "size": "256",
    "rounds": "3",
    "threads": "1",
    "output": "",
}


def rescored(config: Config, changes: list[str]) -> Config:
    """The configuration of a run under the settings that it is scored anew with."""
    saved = OmegaConf.structured(config)
    for change in changes:
        change_scoring(saved, change)
    changed: Config = OmegaConf.to_object(saved)  # type: ignore[assignment]
    return changed


def prediction(cell: Cell, changes: list[str], size: int) -> tuple[Callable[[], Tensor], int]:
    """One by a new network, and how often it calls the part that it calls most."""
    torch.manual_seed(0)
    method = None
    for run in lineage(cell.run):
        method = new_method(rescored(run.config, changes if run is cell.run else []), method)
    assert method is not None
    predict = predicting(method.eval(), batch_of(method.config, size, 1, "cpu"))
    return predict, work(predict, method.parts()).calls


def main() -> None:
    settings = given(DEFAULTS, sys.argv[1:])
    torch.set_num_threads(int(settings["threads"]))
    cases = {}
    for table in map(load, settings["tables"].split(",")):
        # The embedded images, which are there; none is read.
        for cell in track(plan(table, settings["budget"], [0], ["dataset=photos"]), description=table.name):
            changes = table.rescored[cell.row].set if cell.row in table.rescored else []
            cases[f"{table.name}/{cell.row}"] = prediction(cell, changes, int(settings["size"]))
    found = interleaved({name: predict for name, (predict, _) in cases.items()}, int(settings["rounds"]))
    rows = [
        {"row": name, "calls": calls, "ms": found[name].ms, "cpu_ms": found[name].cpu_ms, **asdict(found[name])}
        for name, (_, calls) in cases.items()
    ]
    shown = [[row["row"], str(row["calls"]), f"{row['ms']:.1f}", f"{row['cpu_ms']:.1f}"] for row in rows]
    print(markdown([("row", "network calls", "ms", "processor ms"), *shown]))
    if output := settings.pop("output"):
        file = Path(output)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, settings | {"provenance": asdict(provenance()), "rows": rows})


if __name__ == "__main__":
    main()
