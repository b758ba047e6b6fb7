"""`diffi2i table`: finished runs side by side, or the paper's tables and figures, what they lack run first."""

import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from diffi2i.config.commands import TableConfig
from diffi2i.errors import UserError
from diffi2i.run.ensure import Durations, duration, ensure, say, total_duration
from diffi2i.run.plan import RUNS, Run, value_of
from diffi2i.run.record import Record
from diffi2i.run.rows import experiments_dir, no_such, table_names
from diffi2i.run.state import Failure, done, has_checkpoint, read, write_failure
from diffi2i.tables.experiment import Experiment, load, names_of_paper
from diffi2i.tables.plan import Cell, in_order, plan, run_of
from diffi2i.tables.runs import print_table


@dataclass
class Request:
    """What the command line asks for.

    `launcher` is one of conf/hydra/launcher, and `hydra` its settings; None runs here, `jobs` at a time. `roots` are
    the folders of test sets, `imports` the checkpoints of rows by `<table>/<row>`, `extra` goes to every training.
    """

    experiments: list[Experiment]
    budget: str = "demo"
    seeds: int = 3
    jobs: int = 1
    launcher: str | None = None
    hydra: list[str] = field(default_factory=list)
    roots: dict[str, str] = field(default_factory=dict)
    imports: dict[str, Path] = field(default_factory=dict)
    extra: list[str] = field(default_factory=list)
    dry_run: bool = False


def table(config: TableConfig) -> None:
    """Prints a table of finished runs; or plans the tables as one, runs what is missing, and draws each.

    Raises:
        UserError: a name of neither, or runs that do not compare; nothing has been started.
        SystemExit: status 1, with the tables drawn, where runs failed.
    """
    if not config.dry_run and not any(names_table(name) for name in config.names):
        print_table(config.names)
        return
    request = asked(config)
    plans = {experiment.name: cells_of(experiment, request) for experiment in request.experiments}
    runs = in_order(cell for cells in plans.values() for cell in cells)
    if request.dry_run:
        print_plan(runs, plans, request)
        return
    if request.launcher:
        launch([run for run in runs if run.command == "train"], request)
    ensure([run for run in runs if run.command != "train" or not request.launcher], request.jobs)
    pages = draw_all(plans, request)
    if len(pages) == 1:
        print(f"\n{pages[0].read_text(encoding='utf-8')}")
    failed = [(run, entry) for run in runs if isinstance(entry := read(run), Failure)]
    for run, entry in failed:
        print(f"failed: {run.name}: {entry.reason}")
    if failed:
        print("the same command tries them again")
        sys.exit(1)


def names_table(text: str) -> bool:
    """Whether a word of the command line means a table, there or not, and no run directory."""
    return text in ("all", *table_names()) or re.fullmatch(r"(table|figure)\d+", text) is not None


def asked(config: TableConfig) -> Request:
    """Raises `UserError`: a word that names no table, a folder for no test set, or a checkpoint for no row."""
    names = [name for word in config.names for name in (names_of_paper() if word == "all" else [word])]
    experiments = [load(name) for name in dict.fromkeys(names)]
    hydra = [text for text in config.overrides if text.startswith(("hydra.", "hydra/"))]
    if hydra and config.launcher is None:
        raise UserError(f"{hydra[0]} is for a launcher: write launcher=<name> too")
    known = {dataset for experiment in experiments for dataset in test_sets(experiment)}
    if unknown := [dataset for dataset in config.roots if dataset not in known]:
        raise UserError(f"roots.{unknown[0]}: write roots. and one of {', '.join(sorted(known))}")
    imports = checkpoints(config.imports, experiments)
    return Request(
        [with_weights(experiment, imports) for experiment in experiments],
        budget=config.budget,
        seeds=config.seeds or (1 if config.budget == "smoke" else 3),
        jobs=config.jobs,
        launcher=config.launcher,
        hydra=hydra,
        roots=config.roots,
        imports=imports,
        extra=[text for text in config.overrides if text not in hydra],
        dry_run=config.dry_run,
    )


def checkpoints(imports: Mapping[str, Mapping[str, str]], experiments: Sequence[Experiment]) -> dict[str, Path]:
    """The files by `<table>/<row>`. Raises `UserError`: no such row or file, or a row that nothing here shows."""
    found: dict[str, Path] = {}
    shown = {run_of(experiment, row) for experiment in experiments for row in experiment.rows}
    for table, files in imports.items():
        known = list(load(table).imports)
        for row, file in files.items():
            if row not in known:
                raise UserError(f"imports.{table}.{row}: {no_such('row that weights can fill', row, known)}")
            if f"{table}/{row}" not in shown:
                raise UserError(f"imports.{table}.{row} is a row of none of these tables: name {table} too")
            if not Path(file).is_file():
                raise UserError(f"imports.{table}.{row}={file} is no file: name a checkpoint")
            found[f"{table}/{row}"] = Path(file)
    return found


def with_weights(experiment: Experiment, imports: Mapping[str, Path]) -> Experiment:
    """Where rows that the paper alone has are run, since there are weights for them."""
    rows = [replace(row, run=row.run or run_of(experiment, row) in imports) for row in experiment.rows]
    return replace(experiment, rows=rows)


def test_sets(experiment: Experiment) -> list[str]:
    """The test sets that need a folder."""
    return list(dict.fromkeys(column.dataset for column in experiment.columns if column.dataset))


def cells_of(experiment: Experiment, request: Request) -> list[Cell]:
    roots = {dataset: root for dataset, root in request.roots.items() if dataset in test_sets(experiment)}
    return plan(experiment, request.budget, range(request.seeds), request.extra, roots, request.imports)


def launch(runs: Sequence[Run], request: Request) -> None:
    """Sends the missing trainings to the launcher, as sweeps over rows and seeds: first what others start from.

    Raises:
        UserError: there is no such launcher, or it cannot take these runs; before any is started.
    """
    from diffi2i.commands.sweep import check as check_sweep  # which takes seconds to load

    missing = [run for run in runs if not done(run)]
    while wave := [run for run in missing if run.before is None or done(run.before)]:
        sweeps: dict[tuple[str, ...], dict[str, dict[str, None]]] = {}
        for run in wave:
            shared = tuple(text for text in run.overrides if not text.startswith(("experiment=", "seed=")))
            swept = sweeps.setdefault(shared, {"experiment": {}, "seed": {}})
            for key, values in swept.items():
                values[str(value_of(key, run.overrides))] = None
        for shared, swept in sweeps.items():
            over = [f"{key}={','.join(values)}" for key, values in swept.items()]
            given = [f"hydra/launcher={request.launcher}", *request.hydra, *shared, *over]
            check_sweep(given)
            say(f"{request.launcher}: {' '.join(over)}")
            subprocess.run([sys.executable, "-m", "diffi2i", "train", "-m", *given], check=False)
        for run in wave:
            if read(run) is None:
                write_failure(run.directory, f"ended without a record under launcher={request.launcher}")
        missing = [run for run in missing if run not in wave]


def print_plan(runs: Sequence[Run], plans: Mapping[str, Sequence[Cell]], request: Request) -> None:
    """`--dry-run`: a line a run, what it is for, what it waits for, how long it takes; then the sum."""
    durations = Durations({request.budget})
    missing = [run for run in runs if not done(run)]
    width = max(len(run.name) for run in runs)
    for run in runs:
        line = f"{state(run):<12} {run.name:<{width}}  seed {run.config.seed}  {users(run, plans)}"
        if run in missing:
            seconds = durations.of(run)
            line += f"  {'unknown' if seconds is None else f'about {duration(seconds)}'}"
        print(line + (f"  after {run.before.name}" if run.before else ""))
    for dataset in sorted({dataset for experiment in request.experiments for dataset in test_sets(experiment)}):
        if request.budget == "paper" and dataset not in request.roots:
            print(f"{'n/a':<12} {dataset}: give roots.{dataset}=<folder>")
    left = total_duration([durations.of(run) for run in missing], request.jobs)
    finished = f"{len(runs) - len(missing)} of {len(runs)} runs finished"
    print(f"{finished}, {len(missing)} to do; training time {left} with jobs={request.jobs}")


def state(run: Run) -> str:
    """`finished`, `damaged`, `failed`, `interrupted` or `missing`."""
    if done(run):
        return "finished" if isinstance(read(run), Record) else "damaged"
    if has_checkpoint(run.directory):
        return "interrupted"
    return "failed" if isinstance(read(run), Failure) else "missing"


def users(run: Run, plans: Mapping[str, Sequence[Cell]]) -> str:
    """The rows whose cells need the run: `table7 (s1, v3), figure6 (t4)`."""
    uses = []
    for name, cells in plans.items():
        rows = [cell.row for cell in cells if run.directory in {other.directory for other in in_order([cell])}]
        uses += [f"{name} ({', '.join(rows)})"] if rows else []
    return ", ".join(uses)


def draw_all(plans: Mapping[str, Sequence[Cell]], request: Request) -> list[Path]:
    """Writes the files of all tables below outputs/tables and lists them. Returns the pages."""
    # pandas and matplotlib, which a dry run has no use for, take their time to load.
    from diffi2i.tables.draw import disagreements, draw

    pages = []
    for experiment in request.experiments:
        cells = plans[experiment.name]
        for line in disagreements(cells, experiments_dir() / "results"):
            print(f"{experiment.name}: not what comes with the project: {line}")
        files = draw(experiment, cells, request.budget, RUNS.parent / "tables" / request.budget)
        print(f"{experiment.name}: {', '.join(map(str, files))}")
        pages.append(files[0])
    return pages
