"""Image resizing that equals MATLAB's `imresize` (bicubic, antialiased), and 8-bit rounding."""

import torch
import torch.nn.functional as F
from torch import Tensor

# Half the support of the cubic kernel, in pixels of the coarser grid: no output pixel looks further.
REACH = 2


def imresize(image: Tensor, scale: float) -> Tensor:
    """Resize by an integer factor as MATLAB's `imresize(image, scale)` does.

    Keys' cubic kernel with a = -0.5, stretched by 1/scale when shrinking (antialiasing), and borders
    mirrored with the edge pixel repeated. Super-resolution papers make their x4 inputs this way.

    Args:
        image: (C, H, W) or (B, C, H, W), float. Any size from 1x1 up.
        scale: s or 1/s with integer s >= 1.

    Returns:
        (..., C, H * scale, W * scale), same dtype, not clamped: the kernel overshoots at edges.

    Raises:
        ValueError: scale is neither s nor 1/s, or shrinking and a side is not divisible by s.
    """
    factor = round(scale) if scale >= 1 else round(1 / scale)
    down = scale < 1
    if abs((1 / factor if down else factor) - scale) > 1e-6:
        raise ValueError(f"imresize: scale {scale} is neither an integer nor one over an integer")
    height, width = image.shape[-2:]
    if down and (height % factor or width % factor):
        raise ValueError(f"imresize: {height}x{width} is not divisible by {factor}; crop it first")

    # `F.interpolate` drops the taps that fall outside the image; MATLAB mirrors the image instead.
    # Mirroring first and cropping the mirror's image afterwards gives MATLAB's borders.
    pad = REACH * factor if down else REACH
    crop = REACH if down else REACH * factor
    padded = _mirror(_mirror(image, -1, pad), -2, pad)
    size = [n // factor if down else n * factor for n in padded.shape[-2:]]
    batch = padded if padded.ndim == 4 else padded.unsqueeze(0)
    resized = F.interpolate(batch, size=size, mode="bicubic", antialias=True, align_corners=False)
    resized = resized[..., crop:-crop, crop:-crop]
    return resized if image.ndim == 4 else resized.squeeze(0)


def enlarge(image: Tensor, scale: int) -> Tensor:
    """The baseline of a larger target: (B, C, h, w) in [0, 1] -> (B, C, h * scale, w * scale), bicubic, in [0, 1]."""
    return image if scale == 1 else imresize(image, scale).clamp(0, 1)


def _mirror(image: Tensor, dim: int, pad: int) -> Tensor:
    """Extend both ends of `dim` by `pad` pixels: .. 1 0 | 0 1 .. n-1 | n-1 n-2 .., however small n is."""
    n = image.shape[dim]
    if n >= pad:  # exported networks have this
        first, last = image.narrow(dim, 0, pad).flip(dim), image.narrow(dim, -pad, pad).flip(dim)
        return torch.cat([first, image, last], dim)
    index = torch.arange(-pad, n + pad, device=image.device) % (2 * n)
    return image.index_select(dim, torch.where(index < n, index, 2 * n - 1 - index))


def to_uint8(image: Tensor) -> Tensor:
    """Float image of any shape, nominally in [0, 1] -> uint8 in [0, 255], clamped and rounded."""
    return (image.clamp(0, 1) * 255).round().to(torch.uint8)


def quantize(image: Tensor) -> Tensor:
    """Float image of any shape -> float in [0, 1] at multiples of 1/255: what an 8-bit file would keep."""
    return (image.clamp(0, 1) * 255).round() / 255
