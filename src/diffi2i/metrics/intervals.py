"""How sure a mean over images is, and whether one method's images are better than another's.

Both treat the images as a random sample of those the method could have been given: an interval says nothing about
another seed of the training, nor about images of another kind.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, bootstrap

from diffi2i.metrics.spec import METRICS
from diffi2i.run import hardware

ImageRecord = dict[str, str | float]
"""The name of an image and its scores, as the score sheets' `per_image` has them."""

LEVEL = 0.95
RESAMPLES = 10_000
SEED = 0


def bootstrap_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % percentile bootstrap interval of the mean: 10,000 resamples of the images, the same ones each time.

    With fewer than about ten values it is too narrow, as percentile intervals are.

    Args:
        values: one score per image, of any range.

    Returns:
        (low, high), or None for fewer than two values or where one is infinite or NaN.
    """
    if len(values) < 2 or not np.isfinite(values).all():
        return None
    # In batches, since all resamples of thousands of images at once take gigabytes.
    found = bootstrap(
        (np.asarray(values, dtype=np.float64),),
        np.mean,
        n_resamples=RESAMPLES,
        batch=max(1, 1_000_000 // len(values)),
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(SEED),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def interval_reason(key: str, values: Sequence[float]) -> str:
    """Why `bootstrap_interval(values)` is None, or is not asked for a score of the whole set."""
    if METRICS[key].of_set:
        return "a score of the whole set, no mean over images"
    if len(values) < 2:
        return f"{len(values)} image(s) with this score; an interval needs 2"
    return "an image has an infinite score"


def of_all_ranks(per_image: list[ImageRecord]) -> list[ImageRecord]:
    """The records of this and all other ranks, sorted by name. Collective under DDP, also for a rank without images."""
    return sorted(
        (record for share in hardware.of_all_ranks(per_image) for record in share),
        key=lambda record: str(record["name"]),
    )


def image_intervals(
    per_image: Sequence[ImageRecord], keys: Sequence[str]
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Intervals of the means over images.

    Args:
        per_image: the images' records, of all ranks.
        keys: the scores that there is a mean of.

    Returns:
        `{key: [low, high]}`, and `{key: why there is none}` for the other keys.
    """
    intervals, reasons = {}, {}
    for key in keys:
        values = [float(record[key]) for record in per_image if key in record]
        interval = None if METRICS[key].of_set else bootstrap_interval(values)
        if interval is None:
            reasons[key] = interval_reason(key, values)
        else:
            intervals[key] = list(interval)
    return intervals, reasons


@dataclass(frozen=True)
class PairedDifference:
    """`b - a` over the same images.

    `mean` is the mean difference (NaN or infinite where scores are), `interval` its `bootstrap_interval`. `better`,
    `worse` and `equal` count the images by how b compares with a. `p` is the two-sided exact sign test's: how likely
    counts at least this uneven are if b is as often better as worse.
    """

    mean: float
    interval: tuple[float, float] | None
    better: int
    worse: int
    equal: int
    p: float


def paired_difference(a: Sequence[float], b: Sequence[float], lower_is_better: bool = False) -> PairedDifference:
    """Compares the scores of the same images, in the same order; at least one.

    Equal scores, also infinite ones, differ by 0. They are left out of the sign test, as is usual.

    Raises:
        ValueError: the two differ in length, or are empty.
    """
    if len(a) != len(b) or not a:
        raise ValueError(f"paired_difference: {len(a)} and {len(b)} values; give the same number, above 0")
    differences = [0.0 if x == y else y - x for x, y in zip(a, b, strict=True)]
    higher, lower = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    better, worse = (lower, higher) if lower_is_better else (higher, lower)
    p = float(binomtest(better, better + worse).pvalue) if better + worse else 1.0
    return PairedDifference(
        mean=sum(differences) / len(differences),
        interval=bootstrap_interval(differences),
        better=better,
        worse=worse,
        equal=len(differences) - higher - lower,
        p=p,
    )
