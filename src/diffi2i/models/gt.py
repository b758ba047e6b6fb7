"""What CPEN_S1 sees of a ground truth that is no image: labels or depth as a few channels (before Eq. 5).

Both modules name their `channels`, which is CPEN's `gt_channels`.
"""

import math

import torch
from torch import Tensor, nn

from diffi2i.kinds.spec import IGNORED


def resize_nearest(target: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, H, W) -> (B, C, *size): the value at the nearest pixel centre, so that no value is invented."""
    return target if target.shape[-2:] == size else nn.functional.interpolate(target, size, mode="nearest-exact")


class LabelEmbedding(nn.Module):
    """A learned vector for each class, zero where the label is ignored.

    Args:
        classes: number of classes.
        channels: length of the vectors.
    """

    def __init__(self, classes: int, channels: int = 8) -> None:
        super().__init__()
        self.channels = channels
        self.vectors = nn.Embedding(classes, channels)

    def forward(self, labels: Tensor, size: tuple[int, int]) -> Tensor:
        """`labels` int64 (B, H, W) in [0, classes) or 255 -> float32 (B, channels, *size).

        Args:
            labels: the ground truth, on any grid.
            size: height and width of the input image, whose grid CPEN works on.

        Raises:
            IndexError: a label that is neither a class nor 255 (on the CPU; CUDA asserts on the device).
        """
        # Class numbers are far below 2^24, so float32 holds them exactly.
        labels = resize_nearest(labels[:, None].float(), size)[:, 0].long()
        ignored = labels == IGNORED
        vectors: Tensor = self.vectors(labels.masked_fill(ignored, 0)).masked_fill(ignored[..., None], 0)
        return vectors.permute(0, 3, 1, 2)


class DepthEmbedding(nn.Module):
    """Two channels without weights: the logarithm of the depth, which spreads near and far alike, and its validity.

    Args:
        max_depth: metres that the first channel shows as 1, > 0.
    """

    channels = 2

    def __init__(self, max_depth: float) -> None:
        super().__init__()
        if not max_depth > 0:
            raise ValueError(f"max_depth must be positive, got {max_depth}")
        self.max_depth = max_depth

    def forward(self, depth: Tensor, size: tuple[int, int]) -> Tensor:
        """`depth` float32 (B, 1, H, W) in metres, 0 where invalid -> (B, 2, *size).

        The first channel is log(1 + depth) / log(1 + max_depth), in [0, 1] up to `max_depth`; the second is 1
        where the depth was measured, else 0.
        """
        depth = resize_nearest(depth, size)
        return torch.cat([depth.log1p() / math.log1p(self.max_depth), (depth > 0).to(depth.dtype)], dim=1)
