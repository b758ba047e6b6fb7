"""NAFNet (Chen et al. 2022): a U-shaped network without activation functions."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from diffi2i.data.resize import enlarge
from diffi2i.models.di2iformer import GlobalMean, LayerNorm, depthwise
from diffi2i.models.padding import pad_to_multiple
from diffi2i.models.precision import at_least_float32


def gate(x: Tensor) -> Tensor:
    """SimpleGate: one half of the channels times the other."""
    first, second = x.chunk(2, dim=1)
    return first * second


class NAFBlock(nn.Module):
    """Gated convolution with channel attention, then a gated feed-forward, each with a learnt weight from zero on."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = LayerNorm(channels, eps=1e-6), LayerNorm(channels, eps=1e-6)
        self.convolve = nn.Sequential(nn.Conv2d(channels, 2 * channels, 1), depthwise(2 * channels))
        self.attend = nn.Sequential(GlobalMean(), nn.Conv2d(channels, channels, 1))
        self.project1 = nn.Conv2d(channels, channels, 1)
        self.widen = nn.Conv2d(channels, 2 * channels, 1)
        self.project2 = nn.Conv2d(channels, channels, 1)
        self.beta, self.gamma = (nn.Parameter(torch.zeros(channels, 1, 1)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        gated = gate(self.convolve(self.norm1(x)))
        x = x + self.project1(gated * self.attend(gated)) * self.beta
        out: Tensor = x + self.project2(gate(self.widen(self.norm2(x)))) * self.gamma
        return out


class NAFNet(nn.Module):
    """Maps an image to one `scale` times as large, as the difference from the enlarged input.

    Args:
        in_channels: channels of the input, mask included.
        width: channels at the finest level, doubled at each further one.
        encoder, middle, decoder: blocks at each level from the finest, at the coarsest, and from it back.
        scale: enlargement of the tail, a sub-pixel convolution, as in NAFSSR.

    Raises:
        ValueError: another number of levels in the encoder than in the decoder.
    """

    def __init__(
        self, in_channels: int, width: int, encoder: Sequence[int], middle: int, decoder: Sequence[int], scale: int
    ) -> None:
        super().__init__()
        if len(encoder) != len(decoder):
            raise ValueError(f"encoder={list(encoder)} and decoder={list(decoder)} must name as many levels")
        widths = [width * 2**level for level in range(len(encoder))]

        def stack(count: int, channels: int) -> nn.Sequential:
            return nn.Sequential(*(NAFBlock(channels) for _ in range(count)))

        self.scale = scale
        self.embed = nn.Conv2d(in_channels, width, 3, padding=1)
        self.encoder = nn.ModuleList(stack(n, c) for n, c in zip(encoder, widths, strict=True))
        self.down = nn.ModuleList(nn.Conv2d(c, 2 * c, 2, stride=2) for c in widths)
        self.middle = stack(middle, 2 * widths[-1])
        self.up = nn.ModuleList(
            nn.Sequential(nn.Conv2d(2 * c, 4 * c, 1, bias=False), nn.PixelShuffle(2)) for c in reversed(widths)
        )
        self.decoder = nn.ModuleList(stack(n, c) for n, c in zip(decoder, reversed(widths), strict=True))
        self.tail = nn.Sequential(nn.Conv2d(width, 3 * scale**2, 3, padding=1), nn.PixelShuffle(scale))

    def forward(self, image: Tensor) -> Tensor:
        """`image` (B, in_channels, H, W) -> (B, 3, scale H, scale W)."""
        height, width = image.shape[-2:]
        x = self.embed(pad_to_multiple(image, 2 ** len(self.encoder)))
        skips = []
        for level, down in zip(self.encoder, self.down, strict=True):
            x = level(x)
            skips.append(x)
            x = down(x)
        x = self.middle(x)
        for up, level in zip(self.up, self.decoder, strict=True):
            x = level(up(x) + skips.pop())
        x = at_least_float32(self.tail(x)[..., : height * self.scale, : width * self.scale])
        return x + enlarge(image[:, :3].to(x.dtype), self.scale)
