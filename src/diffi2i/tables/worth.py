"""What the prior is worth in a row: its score against that of its control, paired image by image.

The control is the same network on the same data with the same seed and as many steps, but Z = 0. How much a network
leans on its prior (`prior_dependence`) is another thing: one may lose 3 dB by a wrong Z and gain none by the right one.
"""

from math import isfinite
from statistics import fmean, stdev

from diffi2i.metrics.intervals import paired_difference
from diffi2i.metrics.spec import METRICS
from diffi2i.tables.experiment import Row
from diffi2i.tables.records import Filled
from diffi2i.tables.table import Cell, Head
from diffi2i.tables.values import common_seeds, of_images, records_of, value_of


def worth(row: Row, head: Head, filled: Filled) -> Cell:
    """The mean gain in the main metric, above zero where the prior helps.

    Each image is averaged over the seeds that both rows have; the interval is that of the paired differences over the
    images, which a score of the whole set has not. The deviation is that of the differences over the seeds.
    """
    if row.control is None or row.overrides is None:
        return Cell()
    own, control = (records_of(filled, name, "") for name in (row.name, row.control))
    metric = next((record["main_metric"] for record in own.values()), "")
    seeds = common_seeds(own, control, metric)
    if not seeds:
        return Cell(word="n/a")
    better = -1 if METRICS[metric].lower else 1
    gains = [better * ((value_of(own[seed], metric) or 0) - (value_of(control[seed], metric) or 0)) for seed in seeds]
    sd = stdev(gains) if len(gains) > 1 and all(map(isfinite, gains)) else None
    if METRICS[metric].of_set:
        return Cell(fmean(gains), head.digits, sd, own[seeds[0]]["n_images"].get(metric), len(seeds))
    ours, theirs = (of_images([side[seed] for seed in seeds], metric) for side in (own, control))
    if not ours or ours.keys() != theirs.keys():
        return Cell(word="n/a")
    paired = paired_difference(list(theirs.values()), [ours[name] for name in theirs], METRICS[metric].lower)
    unit = better * METRICS[metric].unit
    interval = None
    if paired.interval is not None:
        low, high = sorted(unit * end for end in paired.interval)
        interval = (low, high)
    return Cell(unit * paired.mean, head.digits, sd, len(ours), len(seeds), interval=interval)
