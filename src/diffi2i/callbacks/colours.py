"""Colours for dense predictions: label maps and depth maps as RGB pictures for the panels."""

from functools import cache
from itertools import product

import numpy as np
import torch
from skimage.color import rgb2lab
from torch import Tensor

from diffi2i.errors import UserError

IGNORED = 255

# Viridis, by Stéfan van der Walt, Nathaniel Smith and Eric Firing (CC0, github.com/BIDS/colormap, matplotlib's
# default): every 17th of its 256 colours. Equal steps look equal, and its darkest end is still far from black.
_VIRIDIS = (
    (0.267004, 0.004874, 0.329415),
    (0.282656, 0.100196, 0.422160),
    (0.277134, 0.185228, 0.489898),
    (0.253935, 0.265254, 0.529983),
    (0.221989, 0.339161, 0.548752),
    (0.190631, 0.407061, 0.556089),
    (0.163625, 0.471133, 0.558148),
    (0.139147, 0.533812, 0.555298),
    (0.120565, 0.596422, 0.543611),
    (0.134692, 0.658636, 0.517649),
    (0.208030, 0.718701, 0.472873),
    (0.327796, 0.773980, 0.406640),
    (0.477504, 0.821444, 0.318195),
    (0.647257, 0.858400, 0.209861),
    (0.824940, 0.884720, 0.106217),
    (0.993248, 0.906157, 0.143936),
)


def colour_labels(labels: Tensor) -> Tensor:
    """(H, W) int64 labels, 0 to 254, or 255 = ignored -> (3, H, W) float RGB in [0, 1]; ignored is black.

    A label has the same colour in every picture, whatever the number of classes. Raises `UserError` for
    another shape, type or label.
    """
    if labels.ndim != 2 or labels.dtype != torch.int64:
        raise UserError(f"colours of labels: {tuple(labels.shape)} {labels.dtype}; they must be int64 (H, W)")
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) <= IGNORED:
        raise UserError(f"colours of labels: {int(labels.min())} to {int(labels.max())}; labels are 0 to {IGNORED}")
    palette = torch.tensor(_palette(), device=labels.device)
    return palette[labels].permute(2, 0, 1)


def colour_depth(depth: Tensor, low: float, high: float) -> Tensor:
    """(1, H, W) float metres -> (3, H, W) float32 RGB in [0, 1]: viridis from `low` (violet) to `high` (yellow).

    Depths beyond the ends have the ends' colours; 0 or less, NaN and infinite are not depths and are black.
    Give prediction and target the same ends, or their colours cannot be compared. Raises `UserError` for
    another shape or type, or unless low < high.
    """
    if depth.ndim != 3 or depth.shape[0] != 1 or not depth.is_floating_point():
        raise UserError(f"colours of depth: {tuple(depth.shape)} {depth.dtype}; it must be float (1, H, W)")
    if not low < high:
        raise UserError(f"colours of depth: from {low} to {high}; low < high is needed")
    valid = depth.isfinite() & (depth > 0)
    anchors = torch.tensor(_VIRIDIS, device=depth.device)
    # Place on the scale of anchors, and linearly between the two nearest.
    place = ((depth[0].float().nan_to_num() - low) / (high - low)).clamp(0, 1) * (len(anchors) - 1)
    below = place.long().clamp(max=len(anchors) - 2)
    colours = torch.lerp(anchors[below], anchors[below + 1], (place - below)[..., None])
    return colours.permute(2, 0, 1) * valid


@cache
def _palette() -> list[list[float]]:
    """256 RGB colours in [0, 1], each as far as possible from all before it; the last is black.

    The farthest-first way of Glasbey et al. 2007 ("Colour displays for categorical images"), in CIELAB, on a
    grid of 9^3 colours: the first K are well apart for every K. Black comes first, so all differ from it.
    """
    levels = np.rint(np.linspace(0, 255, 9)) / 255  # whole 8-bit values: a PNG holds the very same colours
    colours = np.array(list(product(levels, repeat=3)))
    lab = rgb2lab(colours)
    chosen = [0]  # black
    nearest = np.full(len(colours), np.inf)
    for _ in range(IGNORED):
        nearest = np.minimum(nearest, ((lab - lab[chosen[-1]]) ** 2).sum(axis=1))
        chosen.append(int(nearest.argmax()))
    palette: list[list[float]] = colours[[*chosen[1:], chosen[0]]].tolist()
    return palette
