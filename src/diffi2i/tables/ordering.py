"""Whether the paper's ordering of rows holds here, pair by pair."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from statistics import fmean, stdev

from diffi2i.metrics.intervals import PairedDifference, paired_difference
from diffi2i.metrics.spec import COLUMNS
from diffi2i.tables.compare import check_same_images
from diffi2i.tables.experiment import ALL_TASKS, Experiment
from diffi2i.tables.plan import scored_apart
from diffi2i.tables.records import Filled, Record
from diffi2i.tables.values import common_seeds, heading, of_images, records_of, value_of

FEWEST = 10  # images for a verdict: a bootstrap over three decides nothing
SIGNIFICANT = 0.05
HOLDS, NOT, OPEN, NOT_MEASURED = "holds", "does not hold", "undecided", "not measured"


@dataclass(frozen=True)
class Pair:
    """Two rows that the paper has in this order.

    `difference` is the better row's score minus the worse one's, with its paired 95 % `interval` over `images`; both in
    the units of `metrics.spec`. `sd` is its deviation over the seeds (n - 1; None for fewer than two). `p` is the sign
    test's. `steps` are those that the two networks have been trained.
    `verdict` begins with holds, does not hold, undecided or not measured.
    """

    better: str
    worse: str
    verdict: str
    difference: float | None = None
    interval: tuple[float, float] | None = None
    images: int = 0
    seeds: int = 0
    p: float | None = None
    steps: tuple[int, int] | None = None
    sd: float | None = None


@dataclass(frozen=True)
class Ordering:
    """The paper's ordering by one score. `why` says why by this score."""

    metric: str
    heading: str
    digits: int
    rows: list[str]
    pairs: list[Pair]
    why: str


def orderings(experiment: Experiment, filled: Filled, scale: str) -> list[Ordering]:
    """By the score of the paper's claim; below scale=paper also by the task's main metric.

    None where the paper's claim is over peers alone, and no other pairs are named: there is nothing to order.
    """
    if experiment.task == ALL_TASKS or (len(experiment.claim) < 2 and not experiment.pairs):
        return []
    column = experiment.columns[experiment.claim_column]
    dataset = column.dataset if scale == "paper" and scored_apart(column) else ""
    own = [state for state in filled.own.values() if isinstance(state, dict)]
    main = own[0]["main_metric"] if own and scale != "paper" else column.metric
    found = []
    if experiment.claim or main == column.metric:
        why = f"{'the paper orders by' if experiment.claim else 'the score of'} {column.heading}"
        found.append(ordering(experiment, filled, column.metric, dataset, why))
    if main != column.metric:
        found.append(ordering(experiment, filled, main, "", "the main metric of the task here, not the paper's"))
    return found


def ordering(experiment: Experiment, filled: Filled, metric: str, dataset: str, why: str) -> Ordering:
    labels = {row.name: row.label for row in experiment.rows}

    return Ordering(
        metric,
        heading(metric),
        COLUMNS[metric].digits,
        [labels[name] for name in experiment.claim],
        [
            pair(
                records_of(filled, better, dataset),
                records_of(filled, worse, dataset),
                metric,
                (labels[better], labels[worse]),
            )
            for better, worse in (*zip(experiment.claim, experiment.claim[1:], strict=False), *experiment.pairs)
        ],
        why,
    )


def pair(better: Mapping[int, Record], worse: Mapping[int, Record], metric: str, labels: tuple[str, str]) -> Pair:
    """Compares two rows over the seeds that both have.

    Raises:
        UserError: their images differ.
    """
    seeds = common_seeds(better, worse, metric)
    if not seeds:
        return Pair(*labels, verdict=NOT_MEASURED)
    steps = (better[seeds[0]]["network_steps"], worse[seeds[0]]["network_steps"])
    by_seed = [(value_of(better[seed], metric) or 0.0) - (value_of(worse[seed], metric) or 0.0) for seed in seeds]
    sd = stdev(by_seed) if len(seeds) > 1 and all(map(isfinite, by_seed)) else None
    unit = COLUMNS[metric].unit
    images = [of_images([side[seed] for seed in seeds], metric) for side in (better, worse)]
    if COLUMNS[metric].of_set or not all(images):
        difference = fmean(by_seed)
        verdict = f"{OPEN} (a score of the set: there are means, but no test)"
        return Pair(*labels, verdict, difference, seeds=len(seeds), steps=steps, sd=sd)
    check_same_images(set(images[0]), set(images[1]), labels, f"images with {metric}")
    names = list(images[0])
    paired = paired_difference([images[1][n] for n in names], [images[0][n] for n in names], COLUMNS[metric].lower)
    interval = None if paired.interval is None else (unit * paired.interval[0], unit * paired.interval[1])
    verdict = decided(paired, len(names), metric)
    if not verdict.startswith(OPEN) and sd is not None and sd >= abs(fmean(by_seed)):
        verdict = f"{OPEN} (the seeds differ by as much)"
    return Pair(*labels, verdict, unit * paired.mean, interval, len(names), len(seeds), paired.p, steps, sd)


def decided(paired: PairedDifference, images: int, metric: str) -> str:
    """What the images say; nothing if they are few, or if interval and sign test do not agree on a difference."""
    if images < FEWEST:
        return f"{OPEN} (fewer than {FEWEST} images)"
    if paired.interval is None:
        return f"{OPEN} (infinite scores)"
    low, high = paired.interval
    if low <= 0 <= high:
        return f"{OPEN} (interval contains 0)"
    if paired.p > SIGNIFICANT:
        return f"{OPEN} (sign test)"
    if (paired.better > paired.worse) != (direction(paired.mean, metric) == HOLDS):
        return f"{OPEN} (most images say otherwise than the mean)"
    return direction(paired.mean, metric)


def direction(difference: float, metric: str) -> str:
    """What the sign of (better row - worse row) says."""
    gain = -difference if COLUMNS[metric].lower else difference
    return HOLDS if gain > 0 else NOT if gain < 0 else f"{OPEN}: equal"


def summary(found: Ordering) -> str:
    """`holds 2, undecided 1`."""
    verdicts = [each.verdict for each in found.pairs]
    kinds = (HOLDS, NOT, OPEN, NOT_MEASURED)
    counts = [(kind, sum(verdict.startswith(kind) for verdict in verdicts)) for kind in kinds]
    return ", ".join(f"{kind} {count}" for kind, count in counts if count)
