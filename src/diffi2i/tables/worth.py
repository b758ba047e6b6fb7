"""What the prior is worth in a row: its score against that of its control, paired image by image.

The control is the same network on the same data with the same seed and as many steps, but Z = 0. How much a network
leans on its prior (`prior_dependence`) is another thing: one may lose 3 dB by a wrong Z and gain none by the right one.
"""

from diffi2i.metrics import LOWER_IS_BETTER, SET_LEVEL
from diffi2i.metrics.intervals import paired_difference
from diffi2i.tables.experiment import Row, paper_units
from diffi2i.tables.records import Filled
from diffi2i.tables.table import Cell, Head
from diffi2i.tables.values import common_seeds, of_images, records_of


def worth(row: Row, head: Head, filled: Filled) -> Cell:
    """The mean gain over the images, above zero where the prior helps, with its paired interval; each image averaged
    over the seeds that both rows have. Scores of a whole set have no interval, and none is given."""
    if row.control is None or row.overrides is None:
        return Cell()
    own, control = (records_of(filled, name, "") for name in (row.name, row.control))
    if not own or not control:
        return Cell(word="n/a")
    metric = next(iter(own.values()))["main_metric"]
    seeds = common_seeds(own, control, metric)
    if not seeds:
        return Cell(word="n/a")
    ours, theirs = (of_images([side[seed] for seed in seeds], metric) for side in (own, control))
    if metric in SET_LEVEL or ours.keys() != theirs.keys() or not ours:
        return Cell(word="n/a")
    paired = paired_difference(list(theirs.values()), [ours[name] for name in theirs], metric in LOWER_IS_BETTER)
    unit = paper_units(metric) * (-1 if metric in LOWER_IS_BETTER else 1)
    interval = None
    if paired.interval is not None:
        low, high = sorted(unit * end for end in paired.interval)
        interval = (low, high)
    return Cell(unit * paired.mean, head.digits, images=len(ours), seeds=len(seeds), interval=interval)
