"""Two records of scores image by image, which tells more than their two means."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from diffi2i.errors import UserError
from diffi2i.metrics.intervals import paired_difference
from diffi2i.metrics.spec import METRICS
from diffi2i.run.record import Record
from diffi2i.tables.markdown import markdown
from diffi2i.tables.runs import digits, number


def comparison(a: Record, b: Record, names: Sequence[str]) -> dict[str, Any]:
    """Compares two records; `names` are what to call them.

    Returns:
        `a`, `b` (their names), `task`, `n_images`, and `metrics`: for each score `a`, `b`, `difference` (b - a) and,
        where it is a mean over images, `interval`, `better`, `worse`, `equal` and `p` of `PairedDifference`.

    Raises:
        UserError: their tasks, protocols or images differ.
    """
    check_comparable(a, b, names)
    return {
        "a": names[0],
        "b": names[1],
        "task": a.task,
        "n_images": len(a.images),
        "metrics": {key: of_metric(key, a, b, names) for key in a.scores | b.scores},
    }


def check_comparable(a: Record, b: Record, names: Sequence[str]) -> None:
    """Raises `UserError` unless the records compare (see `Record.comparable`) and name the same images."""
    both = f"{names[0]} and {names[1]} do not compare"
    if why := a.comparable(b):
        raise UserError(f"{both}: {why}")
    check_same_images({str(image["name"]) for image in a.images}, {str(image["name"]) for image in b.images}, names)
    if not a.images:
        raise UserError(f"{both}: no image was scored")


def check_same_images(a: set[str], b: set[str], names: Sequence[str], what: str = "images") -> None:
    """The two sets of image names are equal; else a `UserError` that says which are missing where."""
    lacking = []
    for name, own, other in ((names[0], a, b), (names[1], b, a)):
        if missing := sorted(other - own):
            lacking.append(f"{name} lacks {len(missing)} ({', '.join(missing[:3])}{', ...' * (len(missing) > 3)})")
    if lacking:
        raise UserError(f"{what} must be the same on both sides: {'; '.join(lacking)}")


def of_metric(key: str, a: Record, b: Record, names: Sequence[str]) -> dict[str, Any]:
    """One score's entry in `comparison`."""
    one, other = (record.scores[key].value if key in record.scores else None for record in (a, b))
    entry: dict[str, Any] = {"a": one, "b": other, "difference": None}
    if one is None or other is None:
        return entry
    if METRICS[key].of_set:
        return entry | {"difference": other - one}
    ours, theirs = ({str(image["name"]): float(image[key]) for image in r.images if key in image} for r in (a, b))
    check_same_images(set(ours), set(theirs), names, f"images with {key}")
    paired = asdict(paired_difference(list(ours.values()), [theirs[name] for name in ours], METRICS[key].lower))
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
