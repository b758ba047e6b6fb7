"""`diffi2i compare`: two records of scores image by image, which tells more than their two means."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from diffi2i.errors import UserError
from diffi2i.metrics.intervals import paired_difference
from diffi2i.metrics.spec import METRICS
from diffi2i.results import read_result, why_not_comparable, write_json
from diffi2i.tables.markdown import markdown
from diffi2i.tables.runs import digits, label, number

USE = "diffi2i compare <run> <run> [output=<file>.json], each a run, an eval folder or a JSON of diffi2i score"


def compare(arguments: Sequence[str]) -> dict[str, Any]:
    """`diffi2i compare <a> <b>`: prints the table, and writes `output` if asked. Returns what it writes.

    Raises:
        UserError: not two places, a place without record, or records that do not compare.
    """
    outputs = [text.removeprefix("output=") for text in arguments if text.startswith("output=")]
    places = [text for text in arguments if not text.startswith("output=")]
    if len(places) != 2 or len(outputs) > 1:
        raise UserError(f"compare needs two runs: {USE}")
    if outputs and (Path(outputs[0]).suffix != ".json" or not Path(outputs[0]).parent.is_dir()):
        raise UserError(f"output={outputs[0]}: write a file name that ends in .json, in a folder that exists")
    a, b = (read_scores(Path(place)) for place in places)
    found = comparison(a, b, places)
    # A run may be scored under other settings than its own; a score of folders does not say what made them.
    shown = [f"{place} ({label(of)})" if "prior" in of else place for place, of in zip(places, (a, b), strict=True)]
    print(f"\nA: {shown[0]}\nB: {shown[1]}\n{found['task']}, {found['n_images']} images\n")
    print(comparison_table(found["metrics"]))
    print("\nbetter, worse, equal: images of B against A; interval: bootstrap over the images; p: two-sided sign test")
    if outputs:
        write_json(Path(outputs[0]), found)
    return found


def read_scores(place: Path) -> dict[str, Any]:
    """The record in a run directory, in the folder of an evaluation, or in a JSON file.

    Raises:
        UserError: there is none, or it does not hold the scores of each image.
    """
    if place.is_file() and place.name != "result.json":
        try:
            record: Any = json.loads(place.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{place}: not a readable JSON file ({error}); write it anew by diffi2i score") from error
    else:
        record = read_result(place.parent if place.is_file() else place)
    if not isinstance(record, dict) or not {"task", "protocol", "metrics", "per_image"} <= record.keys():
        raise UserError(f"{place} holds no scores of each image: {USE}")
    return record


def comparison(a: Mapping[str, Any], b: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Compares two records; `names` are what to call them.

    Returns:
        `a`, `b` (their names), `task`, `n_images`, and `metrics`: for each score `a`, `b`, `difference` (b - a) and,
        where it is a mean over images, `interval`, `better`, `worse`, `equal` and `p` of `PairedDifference`.

    Raises:
        UserError: their tasks, protocols or images differ.
    """
    check_comparable(a, b, names)
    # How much a network uses its prior is no measure of its images.
    keys = [key for key in {**a["metrics"], **b["metrics"]} if key != "prior_dependence"]
    return {
        "a": names[0],
        "b": names[1],
        "task": a["task"],
        "n_images": len(a["per_image"]),
        "metrics": {key: of_metric(key, a, b, names) for key in keys},
    }


def check_comparable(a: Mapping[str, Any], b: Mapping[str, Any], names: Sequence[str]) -> None:
    """Raises `UserError` unless the records compare (see `results.why_not_comparable`) and name the same images."""
    both = f"{names[0]} and {names[1]} do not compare"
    if why := why_not_comparable(a, b):
        raise UserError(f"{both}: {why}")
    check_same_images(
        {record["name"] for record in a["per_image"]}, {record["name"] for record in b["per_image"]}, names
    )
    if not a["per_image"]:
        raise UserError(f"{both}: no image was scored")


def check_same_images(a: set[str], b: set[str], names: Sequence[str], what: str = "images") -> None:
    """The two sets of image names are equal; else a `UserError` that says which are missing where."""
    lacking = []
    for name, own, other in ((names[0], a, b), (names[1], b, a)):
        if missing := sorted(other - own):
            lacking.append(f"{name} lacks {len(missing)} ({', '.join(missing[:3])}{', ...' * (len(missing) > 3)})")
    if lacking:
        raise UserError(f"{what} must be the same on both sides: {'; '.join(lacking)}")


def of_metric(key: str, a: Mapping[str, Any], b: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """One score's entry in `comparison`."""
    means = [None if record["metrics"].get(key) is None else float(record["metrics"][key]) for record in (a, b)]
    entry: dict[str, Any] = {"a": means[0], "b": means[1], "difference": None}
    if means[0] is None or means[1] is None:
        return entry
    if METRICS[key].of_set:
        return entry | {"difference": means[1] - means[0]}
    one, other = ({record["name"]: float(record[key]) for record in r["per_image"] if key in record} for r in (a, b))
    check_same_images(set(one), set(other), names, f"images with {key}")
    paired = asdict(paired_difference(list(one.values()), [other[name] for name in one], METRICS[key].lower))
    return entry | {"difference": paired.pop("mean")} | paired


def comparison_table(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown, a row for each score that one side has."""
    rows = [["", "A", "B", "B − A", "95 % interval", "better", "worse", "equal", "p"]]
    for key, entry in metrics.items():
        if entry["a"] is None and entry["b"] is None:
            continue
        places = digits(key)
        difference = "n/a" if entry["difference"] is None else f"{entry['difference']:+.{places + 1}f}"
        counts = [str(entry.get(name, "")) for name in ("better", "worse", "equal")]
        p = f"{entry['p']:.3g}" if "p" in entry else ""
        interval = shown_interval(entry.get("interval"), places + 1)
        values = (number(entry["a"], places), number(entry["b"], places))
        rows.append([METRICS[key].titled, *values, difference, interval, *counts, p])
    return markdown(rows)


def shown_interval(interval: Sequence[float] | None, places: int) -> str:
    """`[low, high]`, or nothing."""
    return "" if interval is None else f"[{interval[0]:.{places}f}, {interval[1]:.{places}f}]"
