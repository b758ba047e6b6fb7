"""Finished runs side by side, the baseline's score first: the input's own, or a constant's for labels and depth."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from math import log10
from pathlib import Path

from diffi2i.errors import UserError
from diffi2i.metrics.spec import COLUMNS, FEW_IMAGES, GAINS, METRICS
from diffi2i.run.record import Record, Score
from diffi2i.run.rows import table_names
from diffi2i.tables.markdown import markdown


def digits(key: str) -> int:
    """Decimals of a score as records have it, not yet in per cent."""
    return COLUMNS[key].digits + round(log10(COLUMNS[key].unit))


def number(value: float | None, digits: int) -> str:
    return "n/a" if value is None else f"{value:.{digits}f}"


def runs_table(records: Sequence[Record]) -> str:
    """Markdown: the baseline where it is known, then a row per record, each of a run.

    Raises:
        UserError: the records do not compare; see `Record.comparable`.
    """
    first = records[0]
    for record in records[1:]:
        if why := first.comparable(record):
            raise UserError(f"these runs do not compare: {why}")
    main, asked = first.main_metric, first.data.protocol["metrics"]
    values = [values_of(record) for record in records]
    # What was asked for is shown also where it could not be had.
    keys = [
        key
        for key in (*METRICS, *GAINS)
        if COLUMNS[key].overview
        if any(key in own and (key in asked or own[key] is not None) for own in values)
    ]
    rows = [["", *(COLUMNS[key].titled for key in keys), "parameters", "s / image"]]
    if known := next((record for record in records if record.data.baseline), None):
        baseline = {key: score.baseline for key, score in known.scores.items()}
        rows.append([str(known.data.baseline), *cells(baseline, keys, main), "", ""])
    for record, own in zip(records, values, strict=True):
        assert record.method
        assert record.cost
        reckoned = record.cost.timed_calls is not None and record.cost.timed_calls != record.cost.calls
        seconds = f"{'~' if reckoned else ''}{record.cost.seconds_per_image:.3f}"
        cost = [f"{record.cost.parameters / 1e6:.2f} M", seconds]
        rows.append([record.method.label, *cells(own, keys, main), *cost])
    return markdown(rows)


def values_of(record: Record) -> dict[str, float | None]:
    """A run's scores, and its gains in the main one."""
    return {key: score.value for key, score in record.scores.items()} | record.scores[record.main_metric].gains


def cells(values: Mapping[str, float | None], keys: Sequence[str], main: str) -> list[str]:
    # Gains are counted in the main score.
    places = {key: digits(main if key in GAINS else key) for key in keys}
    return [number(values[key], places[key]) if key in values else "" for key in keys]


def few_images(scores: Mapping[str, Score]) -> list[str]:
    """A line for each distance between sets that is biased since the images are few."""
    return [
        f"{METRICS[key].titled} of fewer than {FEW_IMAGES} images is biased: compare it over the same images only"
        for key, score in scores.items()
        if score.value is not None and METRICS[key].few(score.n)
    ]


def print_table(run_dirs: Sequence[str]) -> None:
    """`diffi2i table <run> ...`.

    Raises:
        UserError: one is no run directory, or unfinished, or they do not compare.
    """
    if absent := [run_dir for run_dir in run_dirs if not Path(run_dir).exists()]:
        near = get_close_matches(absent[0], table_names(), n=1)
        choice = f"did you mean {near[0]}?" if near else f"the tables are {', '.join(table_names())}"
        raise UserError(f"{absent[0]} is neither a run directory nor a table: {choice}")
    records = {run_dir: Record.read(Path(run_dir)) for run_dir in run_dirs}
    if scored := [run_dir for run_dir, record in records.items() if record.method is None]:
        raise UserError(f"{scored[0]} holds scores of folders, not of a run: write diffi2i compare {scored[0]} <run>")
    first = records[run_dirs[0]]
    images = max(score.n for score in first.scores.values())
    given = ", given masks" if first.data.masks else ""
    print(f"\n{first.task}, {first.data.dataset}, {images} held-out images{given}, budget {first.budget}\n")
    print(runs_table(list(records.values())))
    for record in records.values():
        for key, score in record.scores.items():
            if score.value is None and key in record.data.protocol["metrics"]:
                print(f"\n{key} n/a: {score.why_not}")
    for line in dict.fromkeys(line for record in records.values() for line in few_images(record.scores)):
        print(f"\n{line}")
    panel = Path(run_dirs[-1]) / "panel.png"
    if panel.is_file():
        print(f"\npicture (input | output | ground truth | error): {panel}")
