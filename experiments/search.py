"""The same search for every row of a table: learning rates, and where a method has them image or residual and steps.

    python experiments/search.py study-sisr [rows=[pixel,ldm]] budget=demo jobs=2 [key=value ...]

search.yaml says what is tried. The other words are overrides of every training, above all those that keep the test
images out: dataset.source.val_root=<folder of training images>. A row that starts from another searches with it, both
at one rate. Writes experiments/results/<budget>/<table>/search.csv, a line for all that was tried, over the lines of
the same trials; it may be interrupted and called again. What a row then has in its file is decided by whoever reads it.
"""

import csv
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from diffi2i.config.schema import Config
from diffi2i.run.ensure import ensure
from diffi2i.run.plan import Run, evaluation, planned, value_of
from diffi2i.run.record import Record
from diffi2i.run.state import read
from diffi2i.tables.experiment import load
from diffi2i.tables.plan import run_of, setting

HERE = Path(__file__).resolve().parent
OWN_KEYS = ("rows", "jobs")
HEAD = ["row", "settings", "lr", "steps", "calls"]

Settings = tuple[str, ...]
Trial = tuple[str, Settings, str]
"""A row, its further settings, and its rate."""


def chain(overrides: Sequence[str]) -> list[tuple[str, int]]:
    """The rows that a training goes through, first things first, each with its own steps."""
    run, found = planned(overrides), []
    while True:
        found.append((value_of("experiment", run.overrides) or "", run.config.train.steps))
        if run.before is None:
            return found[::-1]
        run = run.before


def trained(trials: Iterable[Trial], share: float, extra: Sequence[str], jobs: int) -> dict[Trial, Run]:
    """The last run of each trial, finished: what it starts from is trained at its rate too, without its settings."""
    chains = {trial: chain([f"experiment={trial[0]}", *extra]) for trial in trials}
    last: dict[Trial, Run] = {}
    for stage in range(max(map(len, chains.values()))):
        under_way = {trial: steps for trial, steps in chains.items() if stage < len(steps)}
        for trial, steps in under_way.items():
            (_, settings, lr), (name, whole) = trial, steps[stage]
            init = [f"method.init={last[trial].directory}"] if stage else []
            own = settings if stage + 1 == len(steps) else ()
            words = [f"experiment={name}", *init, f"train.steps={round(share * whole)}", f"train.lr={lr}", *own]
            last[trial] = planned([*words, *extra])
        ensure(dict.fromkeys(last[trial] for trial in under_way), jobs)
    return last


def score_of(run: Run) -> float:
    entry = read(run)
    value = entry.scores[run.config.task.main_metric].value if isinstance(entry, Record) else None
    return float("-inf") if value is None else value


def line(trial: Trial, run: Run, metrics: Sequence[str]) -> dict[str, Any]:
    row, settings, lr = trial
    entry = read(run)
    found: dict[str, Any] = {"row": row, "settings": " ".join(settings), "lr": lr, "steps": run.config.train.steps}
    if not isinstance(entry, Record):
        return found | {metrics[0]: getattr(entry, "reason", "")}
    calls = entry.cost.calls if entry.cost else None
    values = {metric: entry.scores[metric].value for metric in metrics}
    return found | {"calls": calls} | {metric: f"{value:.3f}" for metric, value in values.items() if value is not None}


def metrics_of(config: Config) -> list[str]:
    """The main one first."""
    main = config.task.main_metric
    return [main, *(metric for metric in config.task.protocol.metrics if metric != main)]


def trial_of(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """By what a line is known."""
    return tuple(str(entry[key]) for key in HEAD[:4])


def main() -> None:
    table, *words = sys.argv[1:]
    only, jobs = value_of("rows", words), int(value_of("jobs", words) or 1)
    extra = [word for word in words if word.partition("=")[0] not in OWN_KEYS]
    every: Any = OmegaConf.to_container(OmegaConf.load(HERE / "search.yaml"))
    tried = every[table]
    experiment = load(table)
    names = only.strip("[]").split(",") if only else [row.name for row in experiment.rows]
    rows = {row.name: run_of(experiment, row) for row in experiment.rows if row.run and row.name in names}
    rows = {name: run for name, run in rows.items() if name not in experiment.rescored}
    trials = [
        (run, tuple(settings), f"{lr:g}")
        for name, run in rows.items()
        for settings in [[], *tried["trained"].get(name, [])]
        for lr in map(float, tried["lr"])
    ]
    runs = trained(trials, tried["share"], extra, jobs)
    for name, row in rows.items():
        best = max((trial for trial in trials if trial[0] == row), key=lambda trial: score_of(runs[trial]))
        for settings in tried["scored"].get(name, []):
            runs[row, (*best[1], "then", *settings), best[2]] = evaluation(runs[best], "search", setting(settings))
    ensure(runs.values(), jobs)

    config = next(iter(runs.values())).config
    found = [line(trial, run, metrics_of(config)) for trial, run in runs.items()]
    file = HERE / "results" / config.budget / table / "search.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    kept = []
    if file.is_file():
        with file.open(encoding="utf-8") as before:
            kept = [entry for entry in csv.DictReader(before) if trial_of(entry) not in map(trial_of, found)]
    with file.open("w", encoding="utf-8", newline="") as lines:
        writer = csv.DictWriter(lines, [*HEAD, *metrics_of(config)], lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(sorted([*kept, *found], key=lambda entry: entry["row"]))
    print(file.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
