"""What the study of the prior calculates: paired differences, where they vary, and how sure they are."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Name = TypeVar("Name", bound=Hashable)
Differences = NDArray[np.float64]
"""(seeds, images): of one training and one image, the score of a row less that of another, above 0 if it is better."""

RESAMPLES = 10_000
LEVEL = 0.95
POWER = 0.8


@dataclass(frozen=True)
class Effect:
    """A mean difference, its two-way bootstrap interval and p, and `seeds` and `images`, the numbers it rests on.

    `sd` is the deviation over the seeds of the mean over the images.
    """

    mean: float
    low: float
    high: float
    p: float
    sd: float
    seeds: int
    images: int


def two_way_bootstrap(differences: Differences, resamples: int = RESAMPLES) -> Effect:
    """The mean over seeds and images, both drawn anew with replacement, each by itself (Owen 2007, the pigeonhole).

    Of k seeds k - 1 are drawn, of n images n - 1: so the variance of the drawn means is that of the mean, which drawing
    as many as there are makes smaller by 1 / k (Rao and Wu 1988), a fifth with five seeds. p is twice the smaller share
    of draws on one side of 0, at least 1 / `resamples`.

    Raises:
        ValueError: fewer than two seeds or images, or a value that is not finite.
    """
    seeds, images = differences.shape
    if min(seeds, images) < 2 or not np.isfinite(differences).all():
        raise ValueError(f"{seeds} seeds and {images} images of finite differences: two of each are needed")
    rng = np.random.default_rng(0)
    of_seeds = rng.multinomial(seeds - 1, np.full(seeds, 1 / seeds), resamples) / (seeds - 1)
    of_images = rng.multinomial(images - 1, np.full(images, 1 / images), resamples) / (images - 1)
    means = np.einsum("rs,si,ri->r", of_seeds, differences, of_images, optimize=True)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    below, above = np.mean(means <= 0), np.mean(means >= 0)
    p = max(1 / resamples, min(1.0, 2 * min(below, above)))
    deviation = differences.mean(axis=1).std(ddof=1)
    return Effect(float(differences.mean()), float(low), float(high), float(p), float(deviation), seeds, images)


@dataclass(frozen=True)
class Variances:
    """Where differences vary: from seed to seed, from image to image, and in what neither tells."""

    seeds: float
    images: float
    rest: float

    def error(self, seeds: int, images: int) -> float:
        """The standard error of a mean over so many."""
        return float(np.sqrt(self.seeds / seeds + self.images / images + self.rest / (seeds * images)))


def variances(differences: Differences) -> Variances:
    """Two-way analysis of variance without replication, by its expected mean squares; a negative one counts as 0."""
    k, n = differences.shape
    over_images, over_seeds = differences.mean(axis=1), differences.mean(axis=0)
    rest = differences - over_images[:, None] - over_seeds[None, :] + differences.mean()
    mean_square = float((rest**2).sum() / ((k - 1) * (n - 1)))
    of_seeds = max(0.0, float(over_images.var(ddof=1)) - mean_square / n)
    of_images = max(0.0, float(over_seeds.var(ddof=1)) - mean_square / k)
    return Variances(of_seeds, of_images, mean_square)


def smallest_effect(found: Variances, seeds: int, images: int) -> float:
    """The true difference that a two-sided test at 5 % would see four times in five, by the normal approximation."""
    normal = NormalDist()
    return (normal.inv_cdf((1 + LEVEL) / 2) + normal.inv_cdf(POWER)) * found.error(seeds, images)


def holm(p_values: Mapping[Name, float]) -> dict[Name, float]:
    """Holm's (1979) adjusted p of each: below 5 % whatever else is tested beside it."""
    adjusted, largest = dict[Name, float](), 0.0
    for done, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, (len(p_values) - done) * p))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}
