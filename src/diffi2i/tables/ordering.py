"""Two rows against each other, image by image: does the paper's ordering hold here, and what is a prior worth."""

from dataclasses import dataclass
from math import nan

import pandas as pd

from diffi2i.metrics.intervals import PairedDifference, paired_difference
from diffi2i.metrics.spec import COLUMNS, METRICS
from diffi2i.tables.experiment import ALL_TASKS, Experiment
from diffi2i.tables.frame import Found

FEWEST = 10  # images for a verdict: a bootstrap over three decides nothing
SIGNIFICANT = 0.05
NUMBERS = ("value", "sd", "low", "high", "images", "seeds")
PAIR_NUMBERS = (*NUMBERS, "p", "steps", "worse_steps")
HOLDS, NOT, OPEN, NOT_MEASURED = "holds", "does not hold", "undecided", "not measured"


@dataclass(frozen=True)
class Difference:
    """One row's score minus another's, in the printed unit, over the `seeds` that both have.

    `paired` is over the images that both scored, each averaged over the seeds; None for a score of the whole set and
    for a cost. `mean` is its mean, or that over the seeds; `sd` the deviation over the seeds (n - 1; NaN for one seed).
    """

    mean: float
    sd: float
    seeds: list[int]
    images: int = 0
    paired: PairedDifference | None = None

    def numbers(self, sign: int = 1) -> dict[str, float]:
        """Its `value`, or with `sign` -1 that of the second row minus the first, and what it rests on."""
        interval = (self.paired and self.paired.interval) or (nan, nan)
        low, high = sorted(sign * end for end in interval)
        found = {"value": sign * self.mean, "sd": self.sd, "low": low, "high": high}
        return found | {"images": self.images, "seeds": len(self.seeds)}


def difference(found: Found, one: str, other: str, metric: str, dataset: str = "") -> Difference | None:
    """None where no seed has both scores."""
    by_seed = pivot(found.scores, "seed", [one, other], metric, dataset)
    if by_seed.empty:
        return None
    seeds, gains = list(by_seed.index), by_seed[one] - by_seed[other]
    images = found.images[found.images.seed.isin(seeds)]
    by_image = pivot(images, "image", [one, other], metric, dataset)
    if metric not in METRICS or METRICS[metric].of_set or by_image.empty:
        return Difference(gains.mean(), gains.std(), seeds)
    paired = paired_difference(list(by_image[other]), list(by_image[one]), METRICS[metric].lower)
    return Difference(paired.mean, gains.std(), seeds, len(by_image), paired)


def pivot(frame: pd.DataFrame, index: str, rows: list[str], metric: str, dataset: str) -> pd.DataFrame:
    """Means by `index`, a column for each of the rows, without what any of them lacks."""
    chosen = frame[(frame.metric == metric) & (frame.dataset == dataset)]
    return chosen.pivot_table("value", index, "row").reindex(columns=rows).dropna()


@dataclass(frozen=True)
class Ordering:
    """The paper's ordering by one score. `why` says why by this score; `rows` are labels, from best to worst.

    `pairs` has a line for each two rows that are compared: the labels `better` and `worse` as the paper has them, the
    `verdict`, which begins with holds, does not hold, undecided or not measured, and what it follows from.
    """

    metric: str
    why: str
    rows: list[str]
    pairs: pd.DataFrame


def orderings(experiment: Experiment, found: Found, budget: str) -> list[Ordering]:
    """By the score of the paper's claim; below budget=paper also by the task's main metric.

    None where the paper's claim is over peers alone, and no other pairs are named: there is nothing to order.
    """
    if experiment.task == ALL_TASKS or not experiment.orders():
        return []
    column = experiment.columns[experiment.claim_column]
    mains = [record.main_metric for record in found.records.values()] if budget != "paper" else []
    main = mains[0] if mains else column.metric
    by = []
    if experiment.claim or main == column.metric:
        dataset = column.dataset if budget == "paper" else ""
        why = f"{'the paper orders by' if experiment.claim else 'the score of'} {column.heading}"
        by.append((column.metric, dataset, why))
    if main != column.metric:
        by.append((main, "", "the main metric of the task here, not the paper's"))
    labels = experiment.labels
    return [
        Ordering(
            metric,
            why,
            [labels[row] for row in experiment.claim],
            pd.DataFrame(
                {"better": labels[better], "worse": labels[worse], **compared(found, better, worse, metric, dataset)}
                for better, worse in experiment.orders()
            ),
        )
        for metric, dataset, why in by
    ]


def compared(found: Found, better: str, worse: str, metric: str, dataset: str) -> dict[str, object]:
    """The verdict on one pair, its difference in numbers, and the steps of the two networks."""
    d = difference(found, better, worse, metric, dataset)
    if d is None:
        return {"verdict": NOT_MEASURED, **dict.fromkeys(PAIR_NUMBERS, nan)}
    trainings = [found.records[row, d.seeds[0], dataset].training for row in (better, worse)]
    steps = dict(zip(("steps", "worse_steps"), (each and each.network_steps for each in trainings), strict=True))
    return {"verdict": verdict(d, metric), **d.numbers(), "p": d.paired.p if d.paired else nan, **steps}


def verdict(d: Difference, metric: str) -> str:
    """What the images say; nothing if they are few, or if interval, sign test and seeds do not agree."""
    if d.paired is None:
        return f"{OPEN} (a score of the set: there are means, but no test)"
    if d.images < FEWEST:
        return f"{OPEN} (fewer than {FEWEST} images)"
    if d.paired.interval is None:
        return f"{OPEN} (infinite scores)"
    if d.paired.interval[0] <= 0 <= d.paired.interval[1]:
        return f"{OPEN} (interval contains 0)"
    if d.paired.p > SIGNIFICANT:
        return f"{OPEN} (sign test)"
    holds = d.mean < 0 if COLUMNS[metric].lower else d.mean > 0
    if holds != (d.paired.better > d.paired.worse):
        return f"{OPEN} (most images say otherwise than the mean)"
    if d.sd >= abs(d.mean):
        return f"{OPEN} (the seeds differ by as much)"
    return HOLDS if holds else NOT


def summary(pairs: pd.DataFrame) -> str:
    """`holds 2, undecided 1`."""
    kinds = (HOLDS, NOT, OPEN, NOT_MEASURED)
    counts = [(kind, int(pairs.verdict.str.startswith(kind).sum())) for kind in kinds]
    return ", ".join(f"{kind} {count}" for kind, count in counts if count)
