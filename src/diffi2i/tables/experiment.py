"""Experiments: a file in `experiments/` for each table and figure of the paper, its rows as overrides.

The paper's numbers stand in the paper's own units; `metrics.spec` brings a measured value into them.
"""

import math
import re
from collections import Counter
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException
from yaml import YAMLError

from diffi2i.config.compose import conf_dir
from diffi2i.errors import UserError
from diffi2i.metrics.spec import COLUMNS, COSTS, GAINS, METRICS

AXES = ("seconds_per_image", "timesteps")
# The task of an experiment whose rows each name their own.
ALL_TASKS = "all"


@dataclass
class Column:
    """One score, or one cost, of every row.

    `dataset` is the test set as the paper groups its columns (`celebahq-wide`), empty for a cost. `metric` is a key of
    a record's `metrics`, or one of `COSTS`. `evaluation` are the overrides of `diffi2i eval` that score a run on that
    set; empty where the run has scored it itself.
    """

    dataset: str
    metric: str
    heading: str
    evaluation: list[str] = field(default_factory=list)


@dataclass
class Row:
    """One method or variant.

    `overrides` are those of its training, added to the experiment's; None means that it is not run here, and only the
    paper's value is shown. `before` are those of the runs that come before it, likewise added, each of which starts
    from the one before; runs with `stage.budget=gan` are left out at scales that have no such budget. `paper` holds one
    number a column, None where the paper prints none. `evaluation` is added to each column's. `control` names the row
    of the same network trained as long without a prior.
    """

    name: str
    label: str
    overrides: list[str] | None
    paper: list[float | None]
    before: list[list[str]] = field(default_factory=list)
    note: str = ""
    evaluation: list[str] = field(default_factory=list)
    control: str | None = None


@dataclass
class Experiment:
    """A table or figure of the paper.

    `overrides` hold for all rows. `x` is a figure's horizontal axis, one of `AXES`; None for a table. `claim` names
    rows that are run, from best to worst as the paper orders them by column number `claim_column` (from 0). `pairs` are
    further pairs of rows to compare, each [expected better, expected worse].
    """

    name: str
    title: str
    task: str
    overrides: list[str]
    columns: list[Column]
    rows: list[Row]
    x: str | None = None
    claim: list[str] = field(default_factory=list)
    claim_column: int = 0
    pairs: list[list[str]] = field(default_factory=list)
    note: str = ""


def timesteps(experiment: Experiment, row: Row) -> int:
    """Number of reverse steps that a row makes: its re-spaced ones, or all that it was trained with."""
    steps = 4
    for override in (*experiment.overrides, *(row.overrides or []), *row.evaluation):
        key, _, value = override.partition("=")
        if key == "stage.diffusion.steps":
            steps = int(value)
        if key == "timesteps":
            steps = len(value.split(","))
    return steps


def experiments_dir() -> Path:
    """The folder of experiments: it lies beside `conf/`, in the checkout as in the installed package."""
    return conf_dir().parent / "experiments"


def names() -> list[str]:
    """All experiments: table1 ... table11, figure1, figure6."""
    stems = [path.stem for path in experiments_dir().glob("*.yaml")]
    return sorted(stems, key=lambda stem: (not stem.startswith("table"), len(stem), stem))


def load(name: str) -> Experiment:
    """The experiment of that name. Raises `UserError`: there is none, or its file is not right (see `read`)."""
    if name not in names():
        raise UserError(f"no experiment '{name}': write one of {', '.join(names())}")
    return read(experiments_dir() / f"{name}.yaml")


def read(file: Path) -> Experiment:
    """Reads one file and checks it.

    Raises:
        UserError: one line that names the file, and the row or column where there is one: unreadable, an unknown key,
            a wrong type, a missing value, or rows and columns that do not fit together.
    """
    try:
        plain = OmegaConf.load(file)
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        raise UserError(f"{file}: not a readable YAML file ({' '.join(str(error).split())})") from error
    if not isinstance(plain, DictConfig):
        raise UserError(f"{file}: must hold the keys name, title, task, overrides, columns and rows")
    # Entry by entry, since OmegaConf's errors do not tell in which of a list's entries they arose.
    for kind, schema, called in (("column", Column, "heading"), ("row", Row, "name")):
        entries = plain.get(f"{kind}s")
        for number, entry in enumerate(entries if isinstance(entries, ListConfig) else [], start=1):
            title = entry.get(called, number) if isinstance(entry, DictConfig) else number
            typed(schema, entry, f"{file}, {kind} {title}")
    experiment = typed(Experiment, plain, str(file))
    check(experiment, file)
    return experiment


T = TypeVar("T")


def typed(schema: type[T], node: Any, where: str) -> T:
    """`node` as an object of the dataclass `schema`. Raises `UserError`, which begins with `where`."""
    if not isinstance(node, DictConfig):
        raise UserError(f"{where}: must hold the keys {', '.join(key.name for key in fields(schema))}")  # type: ignore[arg-type]
    try:
        converted: T = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), node))  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        message = str(error).splitlines()[0]
        if isinstance(error, ConfigKeyError):
            message = f"unknown key: write one of {', '.join(key.name for key in fields(schema))}"  # type: ignore[arg-type]
        elif isinstance(error, MissingMandatoryValue):
            message = "is missing"
        elif "ListConfig" in message:
            message = "must be a list"
        raise UserError(f"{where}, {error.full_key}: {message}") from error
    return converted


def check(experiment: Experiment, file: Path) -> None:
    """Refuses what types alone allow. Raises `UserError` as `read` does."""
    tasks = [ALL_TASKS, *sorted(path.stem for path in (conf_dir() / "task").glob("*.yaml"))]
    if experiment.name != file.stem:
        raise UserError(f"{file}: name is {experiment.name}: write name: {file.stem}")
    if experiment.task not in tasks:
        raise UserError(f"{file}: unknown task {experiment.task}: write one of {', '.join(tasks)}")
    if experiment.x is not None and experiment.x not in AXES:
        raise UserError(f"{file}: unknown x {experiment.x}: write one of {', '.join(AXES)}, or null")
    if not experiment.columns or not experiment.rows:
        raise UserError(f"{file}: columns and rows must not be empty")
    for column in experiment.columns:
        check_column(column, file)
    for row in experiment.rows:
        check_row(row, experiment, file)
    if twice := [name for name, count in Counter(row.name for row in experiment.rows).items() if count > 1]:
        raise UserError(f"{file}, row {twice[0]}: the name stands twice: give each row its own")
    check_claim(experiment, file)


def check_column(column: Column, file: Path) -> None:
    if column.metric not in COLUMNS:
        known = ", ".join((*METRICS, *GAINS, *COSTS))
        raise UserError(f"{file}, column {column.heading}: unknown metric {column.metric}: write one of {known}")
    if (column.metric in COSTS) != (column.dataset == ""):
        raise UserError(f"{file}, column {column.heading}: a score needs its dataset, a cost has dataset: ''")


def check_row(row: Row, experiment: Experiment, file: Path) -> None:
    where = f"{file}, row {row.name}"
    if not re.fullmatch(r"[a-z0-9_.-]+", row.name):
        raise UserError(f"{where}: a name is made of a-z, 0-9, dot, hyphen and underscore")
    if len(row.paper) != len(experiment.columns):
        raise UserError(
            f"{where}: paper has {len(row.paper)} numbers for {len(experiment.columns)} columns: "
            "write one a column, null where the paper prints none"
        )
    if not all(value is None or math.isfinite(value) for value in row.paper):
        raise UserError(f"{where}: paper must hold finite numbers, or null")
    if row.overrides is None:
        if row.before or row.evaluation or row.control:
            raise UserError(
                f"{where}: overrides: null means not run here, so before, evaluation and control must be left out"
            )
        return
    for number, link in enumerate([*row.before, row.overrides]):
        stages = [text for text in (*experiment.overrides, *link) if text.startswith("stage=")]
        if not stages:
            raise UserError(f"{where}: {link} lacks its stage: write stage=pretrain, stage=no_prior or stage=joint")
        if stages[-1] == "stage=joint" and number == 0:
            raise UserError(f"{where}: stage=joint starts from a run: write before: [[stage=pretrain]]")
    others = [other.name for other in experiment.rows if other.overrides is not None and other.name != row.name]
    if row.control is not None and row.control not in others:
        raise UserError(f"{where}: control={row.control} is no other row that is run")


def check_claim(experiment: Experiment, file: Path) -> None:
    run = [row.name for row in experiment.rows if row.overrides is not None]
    for name in experiment.claim:
        if name not in run or experiment.claim.count(name) > 1:
            raise UserError(f"{file}, claim {name}: name each row once, and only rows that are run: {', '.join(run)}")
    for pair in experiment.pairs:
        if len(pair) != 2 or not set(pair) <= set(run):
            raise UserError(f"{file}, pairs {pair}: name two rows that are run: {', '.join(run)}")
    if not 0 <= experiment.claim_column < len(experiment.columns):
        raise UserError(
            f"{file}: claim_column={experiment.claim_column}: columns count from 0 to {len(experiment.columns) - 1}"
        )
