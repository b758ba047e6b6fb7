"""Two records of scores image by image, which tells more than their two means."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from diffi2i.errors import UserError
from diffi2i.metrics import LOWER_IS_BETTER, SET_LEVEL
from diffi2i.metrics.intervals import paired_difference
from diffi2i.results import why_not_comparable
from diffi2i.tables.markdown import markdown
from diffi2i.tables.runs import SCORES, digits, number


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
    if key in SET_LEVEL:
        return entry | {"difference": means[1] - means[0]}
    one, other = ({record["name"]: float(record[key]) for record in r["per_image"] if key in record} for r in (a, b))
    check_same_images(set(one), set(other), names, f"images with {key}")
    paired = asdict(paired_difference(list(one.values()), [other[name] for name in one], key in LOWER_IS_BETTER))
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
        rows.append(
            [heading(key), number(entry["a"], places), number(entry["b"], places), difference, interval, *counts, p]
        )
    return markdown(rows)


def heading(key: str) -> str:
    """What tables call a score."""
    return SCORES.get(key, key)


def shown_interval(interval: Sequence[float] | None, places: int) -> str:
    """`[low, high]`, or nothing."""
    return "" if interval is None else f"[{interval[0]:.{places}f}, {interval[1]:.{places}f}]"
