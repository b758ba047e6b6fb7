"""What the runs of a plan have left on disk: records, checked to be their own, or the reason why there is none."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from diffi2i.errors import UserError
from diffi2i.run.record import read_result, why_not_comparable
from diffi2i.tables.experiment import Experiment
from diffi2i.tables.plan import RUNS, Cell, Run, fits, in_order, scored_apart

K = TypeVar("K")
Record = dict[str, Any]
# What every record has; a JSON file without is none.
NEEDED = {"scale": str, "seed": int, "config_hash": str, "protocol": dict, "dataset": dict, "metrics": dict}
EACH_IMAGE = ("per_image", "baseline_per_image")


@dataclass(frozen=True)
class Failure:
    """Why a cell has no value, in one line. `word` stands in the cell: `failed`, or `n/a` where nothing went wrong."""

    reason: str
    word: str = "failed"


# None: not run yet.
Entry = Record | Failure | None


@dataclass
class Filled:
    """The cells of an experiment; None is not run yet.

    `own` are the scores on the images held out in training, by row and seed. `columns` are those on the paper's test
    sets, by row, seed and `Column.dataset`; empty below scale=paper.
    """

    own: dict[tuple[str, int], Entry] = field(default_factory=dict)
    columns: dict[tuple[str, int, str], Entry] = field(default_factory=dict)


def done(run: Run) -> bool:
    """Whether the run has left a record, a damaged one included: what is there is never trained over."""
    return (run.directory / "result.json").is_file()


def failure_file(run: Run) -> Path:
    """Where the reason of a failure stands: {"reason": one line, "date": ..., "log": file}."""
    return run.directory / "failed.json"


def read(run: Run) -> Entry:
    """The run's record, checked to be its own, or why it has none; None where it has not been tried."""
    if done(run):
        return read_record(run, run.directory)
    if failure_file(run).is_file():
        try:
            return Failure(str(json.loads(failure_file(run).read_text())["reason"]))
        except (ValueError, KeyError, TypeError):
            return Failure(f"failed; {failure_file(run)}, which says why, is damaged")
    if run.needs is not None and isinstance(before := read(run.needs), Failure):
        return Failure(f"{run.needs.key}, which it starts from: {before.reason}")
    return None


def read_record(run: Run, directory: Path) -> Record | Failure:
    """The record in a directory, if it is one of this run."""
    file = directory / "result.json"
    try:
        record = read_result(directory)
    except UserError as error:
        return Failure(str(error))
    except OSError:
        return Failure(f"damaged record: {file}")
    if not isinstance(record, dict) or any(not isinstance(record.get(key), kind) for key, kind in NEEDED.items()):
        return Failure(f"damaged record: {file}")
    started_from = (record.get("init") or {}).get("config_hash")
    planned = run.needs.config_hash if run.needs else None
    if run.command == "train" and started_from != planned:
        words = [f"from {start}" if start else "anew" for start in (started_from, planned)]
        return Failure(f"record of another run: it started {words[0]}, not {words[1]}, in {file}")
    for key, expected in (("config_hash", run.config_hash), ("scale", run.scale), ("seed", run.seed)):
        if expected is not None and record[key] != expected:
            return Failure(f"record of another run: {key} is {record[key]}, not {expected}, in {file}")
    return record


def collect(experiment: Experiment, cells: Sequence[Cell]) -> Filled:
    """All that is there of an experiment's cells. A record that does not compare with most others is a failure."""
    own = {(each.row, each.seed): each.record for each in cells}
    columns = without_folder(experiment, cells)
    for dataset in {dataset: None for each in cells for dataset in each.columns}:
        runs = {(each.row, each.seed, dataset): each.columns[dataset] for each in cells if dataset in each.columns}
        columns |= without_strays({key: read(run) for key, run in runs.items()}, runs)
    return Filled(without_strays({key: read(run) for key, run in own.items()}, own), columns)


def trainings(cells: Sequence[Cell]) -> dict[str, Record]:
    """The records of all that was trained for the cells, stage 1 among them, by the run's key."""
    found = {run.key: read(run) for run in in_order(cells) if run.command == "train"}
    return {key: entry for key, entry in found.items() if isinstance(entry, dict)}


def without_folder(experiment: Experiment, cells: Sequence[Cell]) -> dict[tuple[str, int, str], Entry]:
    """The cells of scale=paper whose test set the user has not named."""
    rows = {row.name: row for row in experiment.rows}
    return {
        (each.row, each.seed, column.dataset): Failure(f"give roots.{column.dataset}=<folder>", "n/a")
        for number, column in enumerate(experiment.columns)
        for each in cells
        if each.run.scale == "paper" and scored_apart(column) and fits(experiment, rows[each.row], number)
        if column.dataset not in each.columns
    }


def without_strays(entries: Mapping[K, Entry], runs: Mapping[K, Run]) -> dict[K, Entry]:
    """Refuses, by name, the records that do not compare with most records of their task."""
    alike: dict[str, list[list[K]]] = defaultdict(list)
    for key, entry in entries.items():
        if isinstance(entry, dict):
            groups = alike[runs[key].task]
            group = next((one for one in groups if why_apart(entries[one[0]], entry) is None), None)
            if group is None:
                groups.append(group := [])
            group.append(key)
    result = dict(entries)
    for groups in alike.values():
        # Of equally many, those that come first in the table.
        most = max(groups, key=len)
        for key in (key for group in groups if group is not most for key in group):
            file = runs[key].directory / "result.json"
            reason = why_apart(entries[most[0]], entries[key])
            result[key] = Failure(f"does not compare with the other rows: {reason}: {file}")
    return result


def why_apart(one: Entry, other: Entry) -> str | None:
    """Why two records do not belong in one table, None where they do: there all rows have the same training data."""
    assert isinstance(one, dict)
    assert isinstance(other, dict)
    if one["dataset"].get("train") != other["dataset"].get("train"):
        return "it was trained on other images"
    return why_not_comparable(one, other)


def disagreements(cells: Sequence[Cell], folder: Path) -> list[str]:
    """One line for each cell whose record differs from the one in `folder`, laid out as outputs/runs is; names both.

    Compared are protocol, images and scores, not who ran it when and how fast. Cells that only one side has are passed
    over, and so is a damaged record of ours, which the table itself shows.
    """
    lines = []
    for each in cells:
        run = each.record
        other = folder / run.directory.relative_to(RUNS)
        if not done(run) or not (other / "result.json").is_file():
            continue
        ours, theirs = read_record(run, run.directory), read_record(run, other)
        if isinstance(ours, Failure):
            continue
        if isinstance(theirs, Failure):
            lines.append(f"{each.row}, seed {each.seed}: {theirs.reason}")
            continue
        where = f"{run.directory / 'result.json'} and {other / 'result.json'}"
        for key in ("protocol", "dataset", "metrics"):
            one, another = ours[key], theirs[key]
            differing = [name for name in {**one, **another} if one.get(name) != another.get(name)]
            if differing:
                values = ", ".join(f"{key}.{name} {one.get(name)} and {another.get(name)}" for name in differing)
                lines.append(f"{each.row}, seed {each.seed}: {values} in {where}")
    return lines


def as_json(experiment: Experiment, cells: Sequence[Cell], filled: Filled) -> dict[str, Any]:
    """The cells for other programs: where each record lies and what it says, without the scores of each image.

    `dataset` is empty for the images held out in training.
    """
    files = {(each.row, each.seed, ""): each.record for each in cells}
    files |= {(each.row, each.seed, dataset): run for each in cells for dataset, run in each.columns.items()}
    entries = {(row, seed, ""): entry for (row, seed), entry in filled.own.items()} | filled.columns
    listed = []
    for key, entry in entries.items():
        row, seed, dataset = key
        listed.append(
            {
                "row": row,
                "seed": seed,
                "dataset": dataset,
                "file": str(files[key].directory / "result.json") if key in files else None,
                "failure": entry.reason if isinstance(entry, Failure) else None,
                "record": {name: entry[name] for name in entry if name not in EACH_IMAGE}
                if isinstance(entry, dict)
                else None,
            }
        )
    return {"experiment": experiment.name, "title": experiment.title, "cells": listed}
