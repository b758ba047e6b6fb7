"""`diffi2i table <experiment> ...`: plans, runs what is missing, draws the tables."""

import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from diffi2i.config.schema import TableConfig
from diffi2i.errors import UserError
from diffi2i.tables.execute import Durations, duration, execute, has_checkpoint, total_duration
from diffi2i.tables.experiment import Experiment, experiments_dir
from diffi2i.tables.plan import RUNS, Cell, Run, in_order, named, plan, scored_apart
from diffi2i.tables.records import Failure, disagreements, done, read


@dataclass
class Request:
    """What the command line asks for. `roots` are the folders of test sets, `extra` goes to every training."""

    experiments: list[Experiment]
    scale: str = "demo"
    seeds: int = 3
    jobs: int = 1
    roots: dict[str, str] = field(default_factory=dict)
    extra: list[str] = field(default_factory=list)
    dry_run: bool = False


def table(config: TableConfig) -> None:
    """Plans the experiments as one, so that what they share is run once; runs what is missing and draws each.

    Raises:
        UserError: nothing has been started.
        SystemExit: status 1, with the tables drawn, where runs failed.
    """
    request = asked(config)
    plans = {experiment.name: cells_of(experiment, request) for experiment in request.experiments}
    runs = in_order(cell for cells in plans.values() for cell in cells)
    if request.dry_run:
        print_plan(runs, plans, request)
        return
    # So that `kill` stops the runs too, as Ctrl-C does.
    signal.signal(signal.SIGTERM, stopped)
    execute(runs, request.jobs)
    pages = [draw(experiment, plans[experiment.name], request.scale) for experiment in request.experiments]
    if len(pages) == 1:
        print(f"\n{pages[0].read_text(encoding='utf-8')}")
    failed = [(run, entry) for run in runs if isinstance(entry := read(run), Failure)]
    for run, entry in failed:
        print(f"failed: {run.key}: {entry.reason}")
    if failed:
        print("the same command tries them again")
        sys.exit(1)


def stopped(*_: object) -> NoReturn:
    sys.exit(128 + signal.SIGTERM)


def asked(config: TableConfig) -> Request:
    """Raises `UserError`: a word that names no experiment, or a folder for no test set."""
    found = {experiment.name: experiment for name in config.names for experiment in named(name)}
    seeds = config.seeds or (1 if config.budget == "smoke" else 3)
    experiments = list(found.values())
    known = {dataset for experiment in experiments for dataset in test_sets(experiment)}
    if unknown := [dataset for dataset in config.roots if dataset not in known]:
        raise UserError(f"roots.{unknown[0]}: write roots. and one of {', '.join(sorted(known))}")
    return Request(experiments, config.budget, seeds, config.jobs, config.roots, config.overrides, config.dry_run)


def test_sets(experiment: Experiment) -> list[str]:
    """The test sets that need a folder."""
    return list(dict.fromkeys(column.dataset for column in experiment.columns if scored_apart(column)))


def cells_of(experiment: Experiment, request: Request) -> list[Cell]:
    roots = {dataset: root for dataset, root in request.roots.items() if dataset in test_sets(experiment)}
    return plan(experiment, request.scale, range(request.seeds), request.extra, roots)


def print_plan(runs: Sequence[Run], plans: dict[str, list[Cell]], request: Request) -> None:
    """`--dry-run`: a line a run, what it is for, what it waits for, how long it takes; then the sum."""
    durations = Durations({request.scale})
    missing = [run for run in runs if not done(run)]
    width = max(len(run.key) for run in runs)
    for run in runs:
        line = f"{state(run):<12} {run.key:<{width}}  seed {run.seed}  {users(run, plans)}"
        if run in missing:
            seconds = durations.of(run)
            line += f"  {'unknown' if seconds is None else f'about {duration(seconds)}'}"
        print(line + (f"  after {run.needs.key}" if run.needs else ""))
    for dataset in sorted({dataset for experiment in request.experiments for dataset in test_sets(experiment)}):
        if request.scale == "paper" and dataset not in request.roots:
            print(f"{'n/a':<12} {dataset}: give roots.{dataset}=<folder>")
    left = total_duration([durations.of(run) for run in missing], request.jobs)
    finished = f"{len(runs) - len(missing)} of {len(runs)} runs finished"
    print(f"{finished}, {len(missing)} to do; training time {left} with jobs={request.jobs}")


def state(run: Run) -> str:
    """`finished`, `damaged`, `failed`, `interrupted` or `missing`."""
    if done(run):
        return "finished" if isinstance(read(run), dict) else "damaged"
    if has_checkpoint(run):
        return "interrupted"
    return "failed" if isinstance(read(run), Failure) else "missing"


def users(run: Run, plans: dict[str, list[Cell]]) -> str:
    """The rows whose cells need the run: `table7 (s1, v3), figure6 (t4)`."""
    found = []
    for name, cells in plans.items():
        rows = [cell.row for cell in cells if run.directory in {other.directory for other in in_order([cell])}]
        found += [f"{name} ({', '.join(rows)})"] if rows else []
    return ", ".join(found)


def draw(experiment: Experiment, cells: Sequence[Cell], scale: str) -> Path:
    """Writes the files of a table below outputs/tables and lists them. Returns the Markdown file."""
    # matplotlib, which a dry run has no use for, takes its time to load.
    from diffi2i.tables.write import write

    for line in disagreements(cells, experiments_dir() / "results"):
        print(f"{experiment.name}: not what comes with the project: {line}")
    files = write(experiment, cells, scale, RUNS.parent / "tables" / scale)
    print(f"{experiment.name}: {', '.join(map(str, files))}")
    return next(file for file in files if file.suffix == ".md")
