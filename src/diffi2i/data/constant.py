"""The baselines of labels and depth: one constant for every pixel, learnt from the training set."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diffi2i.data.targets import IGNORED, Depth, Labels
from diffi2i.errors import UserError


def constant_depth(files: Sequence[Path], target: Depth) -> float:
    """Mean of all valid depths in metres. Raises UserError where there is none."""
    total, count = 0.0, 0
    for file in files:
        depth = target.read(file)
        total, count = total + float(depth.sum(dtype=np.float64)), count + int((depth > 0).sum())
    if not count:
        raise UserError("no training depth map has a valid pixel: check dataset.target")
    return total / count


def constant_label(files: Sequence[Path], target: Labels) -> int:
    """The class of most pixels. Raises UserError where every label is ignored."""
    counts = np.zeros(IGNORED + 1, np.int64)
    for file in files:
        counts += np.bincount(target.read(file).ravel(), minlength=IGNORED + 1)
    if not counts[:IGNORED].any():
        raise UserError("every training label is ignored: check dataset.target")
    return int(counts[:IGNORED].argmax())
