"""From an experiment to the runs that fill its table."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from diffi2i.config.compose import quoted
from diffi2i.errors import UserError
from diffi2i.run.plan import Run, evaluation, imported, lineage, planned, value_of
from diffi2i.run.rows import COMMON, has_common, origin
from diffi2i.tables.experiment import ALL_TASKS, Experiment, Row, load

# What a table decides for each of its runs, and what to write instead.
OWN_KEYS = {
    "seed": "write seeds=<how many>",
    "experiment": "name the table alone",
    "method": "the rows name their method",
    "method.init": "the rows name what they start from",
    "task": "the rows name their task",
    "run_dir": "runs lie below outputs/runs",
}


@dataclass(frozen=True)
class Cell:
    """A row under one seed.

    `run` is its training, or the import of its weights. `record` is the run whose record fills the cell: the same, or
    an evaluation of it. `columns` are the evaluations on the paper's test sets, by `Column.dataset`.
    """

    row: str
    seed: int
    run: Run
    record: Run
    columns: Mapping[str, Run] = field(default_factory=dict)


def plan(
    experiment: Experiment,
    budget: str,
    seeds: Iterable[int],
    extra: Sequence[str] = (),
    roots: Mapping[str, str] | None = None,
    imports: Mapping[str, Path] | None = None,
) -> list[Cell]:
    """The cells of the rows that are run, seed by seed. A row of imported weights, which have no seed, has one cell.

    Args:
        imports: checkpoints of other authors, by `<table>/<row>`.
        extra: training overrides for all runs.
        roots: at budget=paper the folder of each test set, by `Column.dataset`; sets without one are not scored.

    Raises:
        UserError: an override that cannot be.
    """
    check(experiment, budget, extra, roots or {})
    cells: list[Cell] = []
    for seed in seeds:
        for row in experiment.rows:
            name, given = run_of(experiment, row), [f"budget={budget}", *extra, f"seed={seed}"]
            if file := (imports or {}).get(name):
                if all(other.row != row.name for other in cells):
                    cells.append(cell(experiment, row, of_weights(name, file, given), extra, roots or {}))
            elif row.run:
                cells.append(cell(experiment, row, planned([f"experiment={name}", *given]), extra, roots or {}))
    return cells


def check(experiment: Experiment, budget: str, extra: Sequence[str], roots: Mapping[str, str]) -> None:
    for override in extra:
        key = override.lstrip("+~").partition("=")[0]
        if key in OWN_KEYS:
            raise UserError(f"{override} is not for {experiment.name}: {OWN_KEYS[key]}")
    if roots and budget != "paper":
        raise UserError(
            f"roots.{next(iter(roots))} belongs to budget=paper: at budget={budget} the runs score themselves"
        )
    for dataset, root in roots.items():
        if not Path(root).is_dir():
            raise UserError(f"roots.{dataset}={root} is not a folder")
    if budget == "paper" and value_of("dataset", extra) is None:
        raise UserError(
            f"{experiment.name}: budget=paper needs the paper's data: write dataset=<name> root=<folder> "
            f"(see experiments/{experiment.name}/table.yaml)"
        )


def run_of(experiment: Experiment, row: Row) -> str:
    """The `<table>/<row>` whose run it is."""
    rescored = experiment.rescored.get(row.name)
    return origin(f"{experiment.name}/{rescored.run if rescored else row.name}")


def of_weights(name: str, file: Path, given: Sequence[str]) -> Run:
    """The import of a checkpoint for the row `name`: under the settings that all rows of its table share."""
    table, _, row = name.partition("/")
    experiment = load(table)
    shared = f"experiment={table}/{COMMON}" if has_common(table) else f"task={experiment.task}"
    weights = experiment.imports[row]
    return imported(weights.source, file, [shared, *weights.overrides, *given])


def cell(experiment: Experiment, row: Row, run: Run, extra: Sequence[str], roots: Mapping[str, str]) -> Cell:
    """A row's run, with its evaluations."""
    rescored = experiment.rescored.get(row.name)
    hardware = [text for text in extra if text.startswith(("trainer", "trust="))]
    settings = rescored.set if rescored else []
    columns = {}
    for dataset in columns_of(experiment, row):
        if dataset in roots:
            testset = experiment.testset(dataset)
            given = [*testset.overrides, *setting([*testset.set, *settings]), f"root={quoted(roots[dataset])}"]
            columns[dataset] = evaluation(run, dataset, given, hardware)
    record = evaluation(run, "own", setting(settings), hardware) if rescored else run
    return Cell(row.name, run.config.seed, run, record, columns)


def columns_of(experiment: Experiment, row: Row) -> list[str]:
    """The test sets of a row's columns: where each row has its own task, the paper's numbers tell which."""
    of_row = zip(experiment.columns, row.paper, strict=True)
    found = [column.dataset for column, printed in of_row if experiment.task != ALL_TASKS or printed]
    return [dataset for dataset in dict.fromkeys(found) if dataset]


def setting(settings: Sequence[str]) -> list[str]:
    """The override of `diffi2i eval` that sets them."""
    return [f"set=[{','.join(map(quoted, settings))}]"] if settings else []


def in_order(cells: Iterable[Cell]) -> list[Run]:
    """All runs of the cells, each once: what others start from first, evaluations last."""
    cells = list(cells)
    trainings = [run for each in cells for run in lineage(each.run)]
    records = [run for each in cells for run in (each.record, *each.columns.values())]
    return list({run.directory: run for run in (*trainings, *records)}.values())
