"""Depth-skip pruning (Kim et al. 2024): a U-shaped network keeps its finest skips, what lies beyond them is gone."""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

DEPTH = "depth"
"""The argument of networks that can be pruned."""


@runtime_checkable
class OfDepth(Protocol):
    """A network that can be pruned: of so many skips, or levels, as `depth` says it keeps the first ones."""

    @property
    def depth(self) -> int: ...

    def keep(self, depth: int) -> None: ...


class Zeros(nn.Module):
    """In place of what came up from below: zeros of `channels`, by default as many as there are."""

    def __init__(self, channels: int | None = None) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor, *_: object) -> Tensor:
        """`x` (B, C, H, W) -> (B, channels, H, W)."""
        return torch.zeros_like(x) if self.channels is None else x.new_zeros(len(x), self.channels, *x.shape[2:])


def check_depth(depth: int, whole: int) -> None:
    """Raises `ValueError`: a network of depth `whole` cannot keep so many skips."""
    if not isinstance(depth, int) or not 1 <= depth <= whole:
        raise ValueError(f"depth={depth} does not fit a network of depth {whole}: write 1 to {whole - 1}")
