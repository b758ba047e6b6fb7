"""Reflect padding that works for every image size."""

import torch
from torch import Tensor


def reflect_index(size: int, padded: int, device: torch.device) -> Tensor:
    """Indices that extend `size` pixels to `padded` ones by mirroring about both ends as often as it takes.

    Returns int64 (padded,); a side of one pixel is repeated.
    """
    period = max(2 * (size - 1), 1)
    position = torch.arange(padded, device=device) % period
    return torch.minimum(position, period - position) if size > 1 else torch.zeros_like(position)


def pad_to(image: Tensor, height: int, width: int) -> Tensor:
    """Pads (B, C, H, W) at the bottom and right to a size at least as large.

    `F.pad(mode="reflect")` refuses a padding as large as the image, which a 1-pixel side always needs.
    """
    if height != image.shape[-2]:
        image = image.index_select(-2, reflect_index(image.shape[-2], height, image.device))
    if width != image.shape[-1]:
        image = image.index_select(-1, reflect_index(image.shape[-1], width, image.device))
    return image


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """As `pad_to`, to multiples of `multiple`."""
    return pad_to(image, *(-(-side // multiple) * multiple for side in image.shape[-2:]))
