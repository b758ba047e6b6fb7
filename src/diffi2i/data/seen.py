"""What the label and depth files of a set hold, in a line each, and which units of depth cannot be right.

A depth file does not say its unit, and a wrong one is a number like any other: the scores would be of another world.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from diffi2i.config.schema import ProtocolConfig
from diffi2i.data.member import Readable
from diffi2i.kinds.spec import IGNORED

KITTI = 1 / 256
UNITS = {"metres": 1.0, "centimetres": 0.01, "millimetres": 0.001, "KITTI's 1/256 m": KITTI, "TUM's 1/5000 m": 0.0002}
# Depths are counted in bins this much wider each: a median is right to a thousandth, and a set's bins stay few.
_STEP = 1.001
# The farthest depth below this share of the protocol's, or the middle one above this multiple of it, cannot be.
_TOO_NEAR, _TOO_FAR = 1 / 30, 3.0
# More of the measured pixels than this outside of the protocol's range is worth a line.
_OUTSIDE = 0.05
# Without a protocol: no set of photos ends before a hand's breadth, or has its middle beyond what lasers reach.
_HAND, _LASER = 0.1, 300.0
# A depth camera measures most pixels, a laser few, but up to 80 m and beyond.
_SPARSE, _LASER_END = 0.5, (40.0, 130.0)
SHOWN = 12  # classes of which the share is printed


@dataclass
class DepthSeen:
    """The depths of a set. `bins` counts measured pixels by the logarithm of their depth.

    Attributes:
        pixels: all pixels, measured or not.
        low, high: the least and the greatest measured depth in metres; inf and 0 while there is none.
        whole: every measured depth is a whole number of metres.
    """

    pixels: int = 0
    low: float = math.inf
    high: float = 0.0
    whole: bool = True
    bins: Counter[int] = field(default_factory=Counter)

    def add(self, target: npt.NDArray[Any]) -> "DepthSeen":
        """Counts a map of any shape in metres, 0 where not measured. Returns itself."""
        valid = target[target > 0].astype(np.float64)
        self.pixels += target.size
        if valid.size:
            self.low, self.high = min(self.low, float(valid.min())), max(self.high, float(valid.max()))
            self.whole = self.whole and bool((valid == np.rint(valid)).all())
            places = np.floor(np.log(valid) / math.log(_STEP)).astype(np.int64)
            least = int(places.min())
            counts = np.bincount(places - least)
            self.bins.update({least + int(place): int(counts[place]) for place in counts.nonzero()[0]})
        return self

    def merge(self, other: "DepthSeen") -> "DepthSeen":
        """Adds another's counts. Returns itself."""
        self.pixels += other.pixels
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.whole = self.whole and other.whole
        self.bins.update(other.bins)
        return self

    @property
    def valid(self) -> int:
        """The number of measured pixels."""
        return sum(self.bins.values())

    @property
    def middle(self) -> float:
        """The median of the measured depths in metres; there must be one."""
        places = sorted(self.bins)
        below = np.cumsum([self.bins[place] for place in places])
        place = places[int(np.searchsorted(below, self.valid / 2))]
        return min(max(math.pow(_STEP, place + 0.5), self.low), self.high)

    def beyond(self, depth: float) -> float:
        """The share of the measured pixels that are farther than `depth` metres."""
        limit = math.log(depth) / math.log(_STEP)
        return sum(count for place, count in self.bins.items() if place >= limit) / self.valid

    def lines(self) -> list[str]:
        """The range and the measured share, as printed."""
        if not self.valid:
            return [f"depth: none of {self.pixels} pixels is measured"]
        range_ = f"{shown(self.low)} / {shown(self.middle)} / {shown(self.high)} m (min / median / max)"
        return [f"depth: {range_}, {100 * self.valid / self.pixels:.1f} % of the pixels are measured"]


@dataclass
class LabelsSeen:
    """The labels of a set of `classes` classes: pixels by label, `IGNORED` among them."""

    classes: int
    counts: Counter[int] = field(default_factory=Counter)

    def add(self, target: npt.NDArray[Any]) -> "LabelsSeen":
        """Counts a map of any shape, int64 in [0, 255]. Returns itself."""
        counts = np.bincount(target.ravel())
        self.counts.update({int(label): int(counts[label]) for label in counts.nonzero()[0]})
        return self

    def merge(self, other: "LabelsSeen") -> "LabelsSeen":
        """Adds another's counts. Returns itself."""
        self.counts.update(other.counts)
        return self

    def lines(self) -> list[str]:
        """The share of all pixels that each class has, the most frequent of many; then the ignored and the absent."""
        total = self.counts.total()
        if not total:
            return ["classes: no pixel"]
        there = [label for label in range(self.classes) if self.counts[label]]
        most = sorted(sorted(there, key=lambda label: -self.counts[label])[:SHOWN])
        shares = ", ".join(f"{label}: {100 * self.counts[label] / total:.1f} %" for label in most)
        rest = f" and {len(there) - SHOWN} rarer" if len(there) > SHOWN else ""
        absent = [str(label) for label in range(self.classes) if not self.counts[label]]
        more = f" and {len(absent) - SHOWN} more" if len(absent) > SHOWN else ""
        named = (", ".join(absent[:SHOWN]) + more) or "none"
        ignored = 100 * self.counts[IGNORED] / total
        return [f"classes: {shares}{rest}; ignored: {ignored:.1f} % of the pixels; absent of {self.classes}: {named}"]


class Seen(Protocol):
    """What was counted of a set's targets."""

    def add(self, target: npt.NDArray[Any]) -> object:
        """Counts a decoded map."""

    def merge(self, other: Any) -> object:
        """Adds the counts of another of its class."""

    def lines(self) -> list[str]:
        """What there is, as printed."""


def unit_of(reader: object, files: Iterable[Readable]) -> float | None:
    """Metres per stored number, by the reader; None where all files are `.npy`, which hold metres whatever it says."""
    return None if all(file.suffix.lower() == ".npy" for file in files) else getattr(reader, "unit", None)


def impossible(seen: DepthSeen, protocol: ProtocolConfig, unit: float | None, key: str) -> str | None:
    """Why these depths cannot be scored between the protocol's, and what to write; None where they can.

    `unit` is the metres per stored number that they were read with, None for files that hold metres themselves; `key`
    the words of the command line that set it.
    """
    if not seen.valid or (why := _unfit(seen, protocol, 1.0)) is None:
        return None
    range_ = f"depths from {shown(seen.low)} to {shown(seen.high)} m, median {shown(seen.middle)}"
    return f"{range_}, {why}: {_advice(seen, protocol, unit, key)}, or other task.protocol.min_depth and max_depth"


def suspicious(seen: DepthSeen, protocol: ProtocolConfig | None, unit: float | None, key: str) -> str | None:
    """What is odd about these depths and may come from a wrong unit, in a line; see `impossible`.

    Without a protocol only what holds for any photo is judged.
    """
    if not seen.valid:
        return None
    what = _oddity(seen, protocol, unit)
    return f"check the unit of depth: {what}; if it is wrong, {_advice(seen, protocol, unit, key)}" if what else None


def _unfit(seen: DepthSeen, protocol: ProtocolConfig, factor: float) -> str | None:
    """What makes depths `factor` times the seen ones impossible."""
    low, high, middle = (factor * depth for depth in (seen.low, seen.high, seen.middle))
    limits = f"{protocol.min_depth:g} to {protocol.max_depth:g} m (task.protocol)"
    if low >= protocol.max_depth or high <= protocol.min_depth:
        return f"none inside {limits}"
    if high <= protocol.max_depth * _TOO_NEAR:
        return f"all nearer than a thirtieth of task.protocol.max_depth={protocol.max_depth:g}"
    if middle >= protocol.max_depth * _TOO_FAR:
        return f"which is far beyond {limits}"
    return None


def _oddity(seen: DepthSeen, protocol: ProtocolConfig | None, unit: float | None) -> str | None:
    measured = seen.valid / seen.pixels
    if unit is not None and math.isclose(unit, 0.001) and measured < _SPARSE:
        far = seen.high / unit * KITTI
        if _LASER_END[0] <= far <= _LASER_END[1]:
            return (
                f"only {100 * measured:.0f} % of the pixels are measured, as by a laser, yet none beyond "
                f"{shown(seen.high)} m, which would be {shown(far)} m in KITTI's unit"
            )
    if seen.whole and seen.low < seen.high and unit != 1:
        return f"every depth from {shown(seen.low)} to {shown(seen.high)} is a whole number of metres"
    if protocol is None:
        if seen.high <= _HAND:
            return f"no depth is beyond {shown(seen.high)} m"
        return f"half of the depths are beyond {shown(seen.middle)} m" if seen.middle >= _LASER else None
    outside = seen.beyond(protocol.max_depth)
    if outside > _OUTSIDE:
        return (
            f"{100 * outside:.0f} % of the measured pixels lie beyond task.protocol.max_depth={protocol.max_depth:g} "
            "and do not count"
        )
    if seen.high < protocol.max_depth / 3:
        return f"no depth is beyond {shown(seen.high)} m, with task.protocol.max_depth={protocol.max_depth:g}"
    return None


def _advice(seen: DepthSeen, protocol: ProtocolConfig | None, unit: float | None, key: str) -> str:
    """What to write, with the median that each usual unit would give."""
    if unit is None:
        return "save the .npy files anew, in metres"
    gives = [
        f"{value:.8g} ({name}) gives a median of {shown(seen.middle * value / unit)} m"
        for name, value in UNITS.items()
        if not math.isclose(value, unit) and _fits(seen, protocol, value / unit)
    ]
    return f"write {key}=<metres per stored number>, {unit:.8g} now" + (f"; {', '.join(gives)}" if gives else "")


def _fits(seen: DepthSeen, protocol: ProtocolConfig | None, factor: float) -> bool:
    if protocol is not None:
        return _unfit(seen, protocol, factor) is None
    return factor * seen.high > 10 * _HAND and factor * seen.middle < _LASER


def unit_of_predictions(ratios: Sequence[float]) -> str | None:
    """A line where the predictions seem to be in another unit than their targets.

    `ratios` are, image by image, the median prediction over the median target. Networks are off by a fraction, so a
    factor above 2.5 is no error of theirs, unless they predict depth up to a factor.
    """
    if not ratios or 0.4 <= (ratio := median(ratios)) <= 2.5:
        return None
    usual: Mapping[str, float] = {
        "1000": 1000.0,
        "1/1000": 0.001,
        "256": 256.0,
        "1/256": KITTI,
        "1000/256": 1000 * KITTI,
        "256/1000": 0.256,
    }
    near = [name for name, value in usual.items() if 0.8 < ratio / value < 1.25]
    guess = f", near {near[0]}: another unit" if near else ""
    return (
        f"predictions are {shown(ratio)} times their targets (median of the images){guess}: a prediction is read as "
        "millimetres from a PNG and as metres from a .npy, a target by dataset.target.unit; write them so"
    )


def shown(value: float) -> str:
    """Three significant digits, without an exponent."""
    return np.format_float_positional(float(f"{value:.3g}"), trim="-")
