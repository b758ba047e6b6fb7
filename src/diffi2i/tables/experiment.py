"""Experiments: a folder in `experiments/` for each table and figure of the paper.

table.yaml     title, columns and the paper's claim: the keys of `Settings`
paper.csv      what the paper prints: a line a method, in the table's order
common.yaml    where all rows share settings: these, as a Hydra configuration
<row>.yaml     a row that is run, as a Hydra configuration: `diffi2i train experiment=<table>/<row>`

A row without a line in paper.csv stands below the others, under its own name; if others start from it, it is no row of
the table, only a run. The paper's numbers keep the paper's units and decimals.
"""

import csv
import re
from dataclasses import dataclass, field, fields
from itertools import chain
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from diffi2i.config import compose
from diffi2i.config.trust import check_file, check_overrides, read_yaml
from diffi2i.errors import UserError
from diffi2i.metrics.spec import COLUMNS, COSTS
from diffi2i.run.rows import TABLE, experiments_dir, no_such, row_files, table_names

SECONDS = "seconds_per_image"
ALL_TASKS = "all"
"""The task of an experiment whose rows each have their own."""


@dataclass
class Column:
    """One score, or one cost, of every row.

    `metric` is a key of `metrics.spec.COLUMNS`. `dataset` is the test set as the paper groups its columns
    (`celebahq-wide`), empty for a cost.
    """

    heading: str
    metric: str
    dataset: str = ""


@dataclass
class TestSet:
    """How `diffi2i eval` scores a run on a test set: its overrides, and what it `set`s of the run."""

    overrides: list[str]
    set: list[str] = field(default_factory=list)


@dataclass
class Rescored:
    """A row that scores another row's `run` anew, under the settings that `diffi2i eval run=... set=...` takes."""

    run: str
    set: list[str]


@dataclass
class Weights:
    """Whose weights can fill a row: a `source` of `diffi2i import`, and the overrides that its files ask for."""

    source: str
    overrides: list[str] = field(default_factory=list)


@dataclass
class Settings:
    """What table.yaml holds.

    `task` is that of all rows, or `ALL_TASKS`. `testsets` says how to score on a column's dataset where that is not
    just `dataset=<its name>`. `rescored` are rows that are scored as it says. `imports` are rows, run or not, that
    their authors' weights can fill. `claim` names rows that are run, from
    best to worst as the paper orders them by column number `claim_column` (from 0). `pairs` are further pairs of rows
    to compare, each [expected better, expected worse]. `controls` names, for a network without a prior, the rows that
    have been trained as long with one. A figure has an `x`: `seconds_per_image`, or the label of an axis on which
    `curves`, by their labels, place rows.
    """

    title: str
    task: str
    columns: list[Column]
    testsets: dict[str, TestSet] = field(default_factory=dict)
    rescored: dict[str, Rescored] = field(default_factory=dict)
    imports: dict[str, Weights] = field(default_factory=dict)
    claim: list[str] = field(default_factory=list)
    claim_column: int = 0
    pairs: list[list[str]] = field(default_factory=list)
    controls: dict[str, list[str]] = field(default_factory=dict)
    x: str | None = None
    curves: dict[str, dict[str, int]] = field(default_factory=dict)
    note: str = ""


@dataclass
class Row:
    """One method or variant. `paper` are the numbers as printed, a column each, empty where the paper prints none.

    A row that is not `run` is a peer, of which only the paper's numbers are shown.
    """

    name: str
    label: str
    paper: list[str]
    note: str = ""
    run: bool = True


@dataclass
class Experiment(Settings):
    """A table or figure of the paper."""

    name: str = ""
    rows: list[Row] = field(default_factory=list)

    @property
    def labels(self) -> dict[str, str]:
        return {row.name: row.label for row in self.rows}

    def control_of(self, row: str) -> str | None:
        """The row of the same network trained as long without a prior."""
        return next((control for control, rows in self.controls.items() if row in rows), None)

    def testset(self, dataset: str) -> TestSet:
        return self.testsets.get(dataset, TestSet([f"dataset={dataset}"]))

    def orders(self) -> list[tuple[str, str]]:
        """The pairs to compare, the row that is expected to be better first."""
        return [*zip(self.claim, self.claim[1:], strict=False), *((better, worse) for better, worse in self.pairs)]


def names_of_paper() -> list[str]:
    """The paper's tables and figures."""
    return [name for name in table_names() if re.fullmatch(r"(table|figure)\d+", name)]


def load(name: str) -> Experiment:
    """The experiment of that name.

    Raises:
        UserError: one line that names the file: none of that name, unreadable, an unknown key, a wrong type, a missing
            value, or columns and rows that do not fit together.
    """
    if name not in table_names():
        raise no_such("table", name, table_names())
    folder = experiments_dir() / name
    settings, runs = read_settings(folder / f"{TABLE}.yaml"), row_files(name)
    rows = read_paper(folder / "paper.csv", settings, {*runs, *settings.rescored})
    before = {starts_from(file) for file in runs.values()}
    added = [row for row in runs if row not in {row.name for row in rows} and f"{name}/{row}" not in before]
    rows += [Row(row, row, [""] * len(settings.columns)) for row in added]
    experiment = Experiment(**vars(settings), name=name, rows=rows)
    check_rows(experiment, folder / f"{TABLE}.yaml")
    return experiment


def starts_from(file: Path) -> str | None:
    """The row or run directory that a row's run starts from."""
    init: str | None = OmegaConf.select(read_yaml(file), "method.init")
    return init


def read_settings(file: Path) -> Settings:
    """Raises `UserError` as `load` does."""
    plain = read_yaml(file)
    check_file(file, plain, (), compose.conf_dir())
    try:
        settings = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Settings), plain))
        assert isinstance(settings, Settings)
    except (OmegaConfBaseException, ValueError) as error:
        raise UserError(f"{file}: {explain(error)}") from error
    given = [text for testset in settings.testsets.values() for text in (*testset.overrides, *testset.set)]
    given += [text for rescored in settings.rescored.values() for text in rescored.set]
    given += [text for weights in settings.imports.values() for text in weights.overrides]
    check_overrides(file, given, compose.conf_dir())
    tasks = [ALL_TASKS, *sorted(path.stem for path in (compose.conf_dir() / "task").glob("*.yaml"))]
    if settings.task not in tasks:
        raise UserError(f"{file}: unknown task {settings.task}: write one of {', '.join(tasks)}")
    if not settings.columns:
        raise UserError(f"{file}: columns must not be empty")
    for column in settings.columns:
        if column.metric not in COLUMNS:
            raise UserError(f"{file}: column {column.heading}: {no_such('metric', column.metric, [*COLUMNS])}")
        if (column.metric in COSTS) != (column.dataset == ""):
            raise UserError(f"{file}: column {column.heading}: a score needs its dataset, a cost has none")
    if not 0 <= settings.claim_column < len(settings.columns):
        raise UserError(
            f"{file}: claim_column={settings.claim_column}: columns count from 0 to {len(settings.columns) - 1}"
        )
    return settings


def explain(error: Exception) -> str:
    """What is wrong in a YAML file, in one line."""
    if isinstance(error, ConfigKeyError) and isinstance(error.object_type, type):
        known = [key.name for key in fields(error.object_type)]
        return f"unknown key {error.key}: write one of {', '.join(known)}"
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} is missing"
    if isinstance(error, OmegaConfBaseException):
        return f"{error.full_key}: {str(error).splitlines()[0]}"
    return str(error).splitlines()[0]


def read_paper(file: Path, settings: Settings, run: set[str]) -> list[Row]:
    """The lines of a paper.csv; `run` names the rows that are run. Raises `UserError` as `load` does."""
    head = ["row", "label", *(column.heading for column in settings.columns), "note"]
    try:
        lines = list(csv.reader(file.read_text(encoding="utf-8").splitlines()))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not a readable file ({error})") from error
    if lines[:1] != [head]:
        raise UserError(f"{file}: its first line must be {','.join(head)}, the columns of {TABLE}.yaml")
    for line in lines[1:]:
        if len(line) != len(head):
            raise UserError(
                f"{file}: row {','.join(line[:1])} has {len(line)} fields, not the {len(head)} of the first"
            )
        if wrong := [text for text in line[2:-1] if not re.fullmatch(r"(-?\d+(\.\d+)?)?", text)]:
            raise UserError(f"{file}: row {line[0]}: '{wrong[0]}' must be a number, or nothing where none is printed")
    return [Row(name, label, paper, note, name in run) for name, label, *paper, note in lines[1:]]


def check_rows(experiment: Experiment, file: Path) -> None:
    """What table.yaml says of rows is said of rows that there are. Raises `UserError` as `load` does."""
    every = [row.name for row in experiment.rows]
    if twice := [name for name in every if every.count(name) > 1]:
        raise UserError(f"{file.with_name('paper.csv')}: row {twice[0]} stands twice: give each its own name")
    if unknown := [name for name in experiment.imports if name not in every]:
        raise UserError(f"{file}: imports: {no_such('row', unknown[0], every)}")
    run = [row.name for row in experiment.rows if row.run]
    mentioned = {
        "claim": experiment.claim,
        "pairs": chain(*experiment.pairs),
        "controls": chain(experiment.controls, *experiment.controls.values()),
        "curves": chain(*experiment.curves.values()),
        "rescored": experiment.rescored,
    }
    for key, named in mentioned.items():
        if unknown := [name for name in named if name not in run]:
            raise UserError(f"{file}: {key}: {no_such('row that is run', unknown[0], run)}")
    runs = list(row_files(experiment.name))
    if unknown := [each.run for each in experiment.rescored.values() if each.run not in runs]:
        raise UserError(f"{file}: rescored: {no_such('run', unknown[0], runs)}")
    if len(set(experiment.claim)) < len(experiment.claim) or any(len(pair) != 2 for pair in experiment.pairs):
        raise UserError(f"{file}: claim must name each row once, and each of pairs two rows")
