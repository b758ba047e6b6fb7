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


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Pads (B, C, H, W) at the bottom and right to multiples of `multiple`.

    `F.pad(mode="reflect")` refuses a padding as large as the image, which a 1-pixel side always needs.
    """
    height, width = image.shape[-2:]
    padded_height, padded_width = (-(-side // multiple) * multiple for side in (height, width))
    if padded_height != height:
        image = image.index_select(-2, reflect_index(height, padded_height, image.device))
    if padded_width != width:
        image = image.index_select(-1, reflect_index(width, padded_width, image.device))
    return image
