"""The baselines of labels and depth: one constant for every pixel, learnt from the training set."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diffi2i.data.targets import IGNORED, Depth, Labels
from diffi2i.errors import UserError


def constant_depth(files: Sequence[Path], target: Depth, skip_broken: bool = False) -> float:
    """Mean of all valid depths in metres. Raises UserError where there is none."""
    total, count = 0.0, 0
    for depth in maps(files, target, skip_broken):
        total, count = total + float(depth.sum(dtype=np.float64)), count + int((depth > 0).sum())
    if not count:
        raise UserError("no training depth map has a valid pixel: check dataset.target")
    return total / count


def constant_label(files: Sequence[Path], target: Labels, skip_broken: bool = False) -> int:
    """The class of most pixels. Raises UserError where every label is ignored."""
    counts = np.zeros(IGNORED + 1, np.int64)
    for labels in maps(files, target, skip_broken):
        counts += np.bincount(labels.ravel(), minlength=IGNORED + 1)
    if not counts[:IGNORED].any():
        raise UserError("every training label is ignored: check dataset.target")
    return int(counts[:IGNORED].argmax())


def maps(files: Sequence[Path], target: Depth | Labels, skip_broken: bool) -> Iterator[npt.NDArray[Any]]:
    """The decoded files. Raises UserError where one cannot be read, unless such files are skipped."""
    for file in files:
        try:
            yield target.read(file)
        except UserError:
            if not skip_broken:
                raise
