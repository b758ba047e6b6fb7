"""Finished runs side by side, the baseline's score first: the input's own, or a constant's for labels and depth."""

from collections.abc import Mapping, Sequence
from math import log10
from pathlib import Path
from typing import Any

from diffi2i.errors import UserError
from diffi2i.metrics.spec import COLUMNS, FEW_IMAGES, METRICS
from diffi2i.results import read_result, why_not_comparable
from diffi2i.run.rows import table_names
from diffi2i.tables.markdown import markdown

NAMES = {
    "truth": "stage 1 (sees GT)",
    "zero": "no prior",
    "joint": "stage 2",
    "none": "stage 2, no diffusion",
    "traditional": "stage 2, traditional",
}


def label(record: dict[str, Any]) -> str:
    """What the method is called, and under which settings of its own it was scored."""
    settings = []
    if record["stage"] == "pretrain" and record["init"]:
        settings.append("trained on")
    if record.get("budget") == "gan":
        settings.append("GAN")
    if record["timesteps"]:
        settings.append(f"time steps {','.join(map(str, record['timesteps']))}")
    if record.get("tlc_window"):
        settings.append(f"TLC {record['tlc_window']}")
    return ", ".join([NAMES[record["prior"]], *settings])


def row(name: str, metrics: dict[str, Any], keys: Sequence[str], main: str, cost: Sequence[str]) -> list[str]:
    # The prior dependence is counted in the main score.
    return [
        name,
        *(number(metrics.get(key), digits(main if key == "prior_dependence" else key)) for key in keys),
        *cost,
    ]


def digits(key: str) -> int:
    """Decimals of a score as records have it, not yet in per cent."""
    return COLUMNS[key].digits + round(log10(COLUMNS[key].unit))


def number(value: float | str | None, digits: int) -> str:
    return value if isinstance(value, str) else "n/a" if value is None else f"{value:.{digits}f}"


def runs_table(records: Sequence[dict[str, Any]]) -> str:
    """Markdown: the baseline, then a row per record.

    Raises:
        UserError: the records do not compare; see `results.why_not_comparable`.
    """
    first = records[0]
    for record in records[1:]:
        if why := why_not_comparable(first, record):
            raise UserError(f"these runs do not compare: {why}")
    # What was asked for is shown also where it could not be had; earlier versions did not record what was asked.
    asked = first["protocol"].get("metrics", [])
    keys = [
        key
        for key in (*METRICS, "prior_dependence")
        if COLUMNS[key].overview
        and any(key in record["metrics"] and (key in asked or record["metrics"][key] is not None) for record in records)
    ]
    of_images = first.get("constant") is None
    head = ["", *(COLUMNS[key].titled for key in keys), "parameters", "s / image"]
    main, baseline = first["main_metric"], {"prior_dependence": "", **first["baseline"]}
    rows = [row("input itself" if of_images else "constant", baseline, keys, main, ["", ""])]
    for record in records:
        cost = [f"{record['parameters'] / 1e6:.2f} M", f"{record['seconds_per_image']:.3f}"]
        rows.append(row(label(record), record["metrics"], keys, main, cost))
    return markdown([head, *rows])


def few_images(metrics: Mapping[str, Any], n_images: Mapping[str, int]) -> list[str]:
    """A line for each distance between sets that is biased since the images are few."""
    return [
        f"{metric.titled} of fewer than {FEW_IMAGES} images is biased: compare it over the same images only"
        for key, metric in METRICS.items()
        if metrics.get(key) is not None and metric.few(n_images[key])
    ]


def print_table(run_dirs: Sequence[str]) -> None:
    """`diffi2i table <run> ...`.

    Raises:
        UserError: no run named, one is unfinished, or they do not compare.
    """
    if not run_dirs:
        raise UserError("table needs run directories: diffi2i table <run> <run> ...")
    if absent := [run_dir for run_dir in run_dirs if not Path(run_dir).exists()]:
        raise UserError(f"{absent[0]} is neither a run directory nor one of {', '.join(table_names())}")
    records = [read_result(Path(run_dir)) for run_dir in run_dirs]
    first = records[0]
    images = max(first["n_images"].values())
    print(f"\n{first['task']}, {first['dataset']['name']}, {images} held-out images, scale {first['scale']}\n")
    print(runs_table(records))
    for record in records:
        for key, reason in record["reasons"].items():
            if key in record["protocol"].get("metrics", []):
                print(f"\n{key} n/a: {reason}")
    for line in dict.fromkeys(line for record in records for line in few_images(record["metrics"], record["n_images"])):
        print(f"\n{line}")
    panel = Path(run_dirs[-1]) / "panel.png"
    if panel.is_file():
        print(f"\npicture (input | output | ground truth | error): {panel}")
