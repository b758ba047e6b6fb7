"""From an experiment to the runs that fill its table.

A run's directory is named by a hash of everything that shapes its result, its stage 1 included. So tables share runs,
and a table that is called again finds what it has.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from hashlib import sha256
from pathlib import Path

from diffi2i.config import compose
from diffi2i.config.schema import Config
from diffi2i.errors import UserError
from diffi2i.run.identity import config_hash
from diffi2i.tables import experiment as experiments
from diffi2i.tables.experiment import ALL_TASKS, Column, Experiment, Row

# Relative, as `stage.init` in the runs' configurations is: so a record's hash does not depend on where the user works.
RUNS = Path("outputs") / "runs"
GAN = "stage.budget=gan"
# What a table decides for each of its runs, and what to write instead.
OWN_KEYS = {
    "seed": "write seeds=<how many>",
    "stage": "the experiment's rows name their stage",
    "stage.init": "the experiment's rows name their stage 1",
    "task": "the experiment names its task",
    "run_dir": "runs lie below outputs/runs",
}


@dataclass(frozen=True)
class Run:
    """One command, whose record will be `directory/result.json`.

    `command` is `train`, or `eval` of the training in `needs`. `overrides` are all of them. `needs` is what must be
    finished first. `config_hash` is what the record of a training says; an evaluation's is not foreseen (None).
    """

    command: str
    key: str
    directory: Path
    overrides: tuple[str, ...]
    task: str
    stage: str
    scale: str
    seed: int
    needs: "Run | None" = None
    config_hash: str | None = None


@dataclass(frozen=True)
class Cell:
    """A row under one seed.

    `run` is its training. `record` is the run whose record fills the cell: the same, or an evaluation of it. `columns`
    are the evaluations on the paper's test sets, by `Column.dataset`.
    """

    row: str
    seed: int
    run: Run
    record: Run
    columns: Mapping[str, Run] = field(default_factory=dict)


def named(text: str) -> list[Experiment]:
    """The experiments that a word of the command line means: a name, the path of a YAML file, or `all`.

    Raises:
        UserError: there is none, or its file is not right.
    """
    if text == "all":
        return [experiments.load(name) for name in experiments.names()]
    return [experiments.read(Path(text)) if text.endswith(".yaml") else experiments.load(text)]


def names_experiment(text: str) -> bool:
    """Whether a word of the command line means an experiment, there or not, and no run directory."""
    return text == "all" or text.endswith(".yaml") or re.fullmatch(r"(table|figure)\d+", text) is not None


def plan(
    experiment: Experiment,
    scale: str,
    seeds: Iterable[int],
    extra: Sequence[str] = (),
    roots: Mapping[str, str] | None = None,
) -> list[Cell]:
    """The cells of the rows that are run, seed by seed.

    Args:
        extra: training overrides for all runs.
        roots: at scale=paper the folder of each test set, by `Column.dataset`; sets without one are not scored.

    Raises:
        UserError: an override that cannot be, or that makes two rows the same.
    """
    check_extra(experiment, scale, extra, roots or {})
    rows = [row for row in experiment.rows if row.overrides is not None]
    cells = [cell(experiment, row, scale, seed, extra, roots or {}) for seed in seeds for row in rows]
    filled: dict[Path, Cell] = {}
    for each in cells:
        twin = filled.setdefault(each.record.directory, each)
        if twin is not each:
            given = " ".join(extra) or "these overrides"
            raise UserError(f"{experiment.name}: {given} makes rows {twin.row} and {each.row} one and the same run")
    return cells


def check_extra(experiment: Experiment, scale: str, extra: Sequence[str], roots: Mapping[str, str]) -> None:
    for override in extra:
        key = override.lstrip("+~").partition("=")[0]
        if key in OWN_KEYS:
            raise UserError(f"{override} is not for {experiment.name}: {OWN_KEYS[key]}")
    if roots and scale != "paper":
        raise UserError(f"roots.{next(iter(roots))} belongs to scale=paper: at scale={scale} the runs score themselves")
    for dataset, root in roots.items():
        if not Path(root).is_dir():
            raise UserError(f"roots.{dataset}={root} is not a folder")
    if scale == "paper" and not any(text.startswith("dataset=") for text in (*experiment.overrides, *extra)):
        raise UserError(
            f"{experiment.name}: scale=paper needs the paper's data: write dataset=<name> root=<folder> "
            f"(see experiments/{experiment.name}.yaml)"
        )


def cell(
    experiment: Experiment, row: Row, scale: str, seed: int, extra: Sequence[str], roots: Mapping[str, str]
) -> Cell:
    """A row's runs under one seed."""
    assert row.overrides is not None
    chain = [(*experiment.overrides, *link, f"scale={scale}", *extra) for link in (*row.before, row.overrides)]
    if not has_gan(chain[0], scale):
        chain = [link for link in chain if GAN not in link]
    run = None
    for number, link in enumerate(chain, start=1):
        run = training(link, seed, run, experiment.name, row.name if number == len(chain) else f"before-{number}")
    assert run is not None
    hardware = tuple(text for text in extra if text.startswith(("trainer=", "trainer.")))
    record = evaluation(run, "own", tuple(row.evaluation), hardware) if row.evaluation else run
    columns = {
        column.dataset: evaluation(
            run,
            column.dataset,
            (*column.evaluation, *row.evaluation, f"root={quoted(roots[column.dataset])}"),
            hardware,
        )
        for number, column in enumerate(experiment.columns)
        if scored_apart(column) and column.dataset in roots and fits(experiment, row, number)
    }
    return Cell(row.name, seed, run, record, columns)


def scored_apart(column: Column) -> bool:
    """Whether the column's scores come from `diffi2i eval` on a test set, which the user has to have."""
    return bool(column.evaluation)


def fits(experiment: Experiment, row: Row, column: int) -> bool:
    """Whether the row's task is the column's: where each row has its own, the paper's numbers tell."""
    return experiment.task != ALL_TASKS or row.paper[column] is not None


def has_gan(overrides: tuple[str, ...], scale: str) -> bool:
    """Whether the task's recipe ends with a stage of its own under the discriminator's losses."""
    return composed(overrides).task.scales[scale].gan is not None


def training(overrides: tuple[str, ...], seed: int, before: Run | None, table: str, row: str) -> Run:
    """The run of these overrides. `before` is the run that it starts from, None for one that starts from nothing."""
    made = replace(composed(overrides), seed=seed)
    own = [] if before is None else [f"stage.init={before.directory}"]
    # By what it starts from, not by where that lies; folders by their last name, wherever they lie. What is in them is
    # compared when a run goes on, and between the records of a table.
    roots = [Path(root).absolute().name for key in ("root", "val_root") if (root := made.dataset.source.get(key))]
    identity = "-".join([config_hash(made), before.key if before else "", *roots])
    key = f"{made.task.name}-{made.stage.name}-{sha256(identity.encode()).hexdigest()[:8]}"
    directory = RUNS / made.scale / key
    if "group" in (made.logger or {}):
        own += [f"logger.group={table}", f"logger.job_type={row}"]
    return Run(
        "train",
        key,
        directory,
        (*overrides, f"seed={seed}", *own, f"run_dir={directory}"),
        task=made.task.name,
        stage=made.stage.name,
        scale=made.scale,
        seed=seed,
        needs=before,
        config_hash=config_hash(made),
    )


@cache
def composed(overrides: tuple[str, ...]) -> Config:
    """The checked configuration without seed and `stage.init`, which do not change the rest: composing takes long."""
    return compose.load(Config, "train", overrides)


def evaluation(run: Run, name: str, overrides: tuple[str, ...], hardware: tuple[str, ...]) -> Run:
    """`diffi2i eval` of a run, with the overrides that shape the score and those that do not."""
    directory = run.directory / "eval" / f"{name}-{sha256(repr(overrides).encode()).hexdigest()[:8]}"
    return replace(
        run,
        command="eval",
        key=f"{run.key}/eval/{directory.name}",
        directory=directory,
        overrides=(f"run={run.directory}", *overrides, *hardware, f"output={directory}"),
        needs=run,
        config_hash=None,
    )


def quoted(text: str) -> str:
    """A value that Hydra's grammar takes literally, whatever characters a path has."""
    # A backslash escapes only before a quote, the closing one included.
    return "'" + re.sub(r"(\\*)(?:(')|$)", lambda end: 2 * end[1] + ("\\'" if end[2] else ""), text) + "'"


def in_order(cells: Iterable[Cell]) -> list[Run]:
    """All runs of the cells, each once: what others start from first, evaluations last."""
    trainings: dict[Path, Run] = {}
    evaluations: dict[Path, Run] = {}
    for each in cells:
        for run in lineage(each.run):
            trainings.setdefault(run.directory, run)
        for run in (each.record, *each.columns.values()):
            if run.command == "eval":
                evaluations.setdefault(run.directory, run)
    return [*trainings.values(), *evaluations.values()]


def lineage(run: Run) -> list[Run]:
    """The run and all that it starts from, first things first."""
    return [*(lineage(run.needs) if run.needs else []), run]


def row_run(overrides: Sequence[str]) -> Run:
    """The training that `experiment=<name> variant=<row>` means, with further training overrides, a seed among them.

    It is the very run that the experiment's table makes, so a sweep over variants fills the table.

    Raises:
        UserError: no such row, or it is not run.
    """
    given = {"scale": "demo", "seed": "0"}
    extra = []
    for override in overrides:
        # Hydra's sweeps hand down the two that no schema has as added keys: `+experiment=`.
        key, _, value = override.removeprefix("+").partition("=")
        if key in ("experiment", "variant", "scale", "seed"):
            given[key] = value
        else:
            extra.append(override)
    if "experiment" not in given:
        raise UserError("variant names the row of an experiment: write experiment=<name> too")
    found = named(given["experiment"])
    if len(found) != 1:
        raise UserError("experiment=all is many: name one")
    rows = {row.name: row for row in found[0].rows if row.overrides is not None}
    if given.get("variant") not in rows:
        raise UserError(f"experiment={found[0].name} needs the row to train: write variant= one of {', '.join(rows)}")
    if not given["seed"].isdecimal():
        raise UserError(f"seed={given['seed']} must be a whole number, 0 or more")
    alone = replace(found[0], rows=[rows[given["variant"]]])
    return plan(alone, given["scale"], [int(given["seed"])], extra)[0].run
