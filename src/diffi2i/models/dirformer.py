"""DIRformer, the network of DiffIR (Xia et al. 2023, Sec. 3.1): Restormer's (Zamir et al. 2022), guided by an IPR.

Symbols: C = `width`, the levels have widths C, 2C, 4C, 8C, the decoder's finest and the refinement 2C; Z (B, 4C') the
IPR. Without a prior it is Restormer itself.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffi2i.models.di2iformer import LEVELS, LayerNorm, UShaped
from diffi2i.models.padding import pad_to_multiple
from diffi2i.models.precision import at_least_float32


class ScaleNorm(nn.Module):
    """Division by the standard deviation over the channels of (B, C, H, W), whose mean stays: "bias-free" norm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        variance = x.var(dim=1, keepdim=True, unbiased=False)
        return x / (variance + 1e-5).sqrt() * self.weight[:, None, None]


class Modulation(nn.Module):
    """x * k1 + k2, where k1 and k2 are linear in Z; without a prior, x."""

    def __init__(self, channels: int, prior_dim: int | None) -> None:
        super().__init__()
        self.linear = None if prior_dim is None else nn.Linear(prior_dim, 2 * channels, bias=False)

    def forward(self, x: Tensor, z: Tensor | None) -> Tensor:
        """`x` (B, C, H, W), `z` (B, 4C') -> (B, C, H, W)."""
        if self.linear is None:
            return x
        k1, k2 = self.linear(z)[:, :, None, None].chunk(2, dim=1)
        return x * k1 + k2  # type: ignore[no-any-return]


def conv1x1(channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels, out_channels, 1, bias=False)


def depthwise(channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)


class ChannelAttention(nn.Module):
    """Multi-head attention between channels, its queries and keys normalised over all pixels (Restormer, Eq. 1)."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Sequential(conv1x1(channels, 3 * channels), depthwise(3 * channels))
        self.project = conv1x1(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, 3, self.heads, channels // self.heads, height * width).unbind(1)
        weights = (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1) * self.temperature).softmax(-1)
        out: Tensor = self.project((weights @ v).reshape(batch, channels, height, width))
        return out


class GatedFeedForward(nn.Module):
    """gelu(first half) * second half of a widened map, and back (Restormer, Eq. 2)."""

    def __init__(self, channels: int, expansion: float) -> None:
        super().__init__()
        hidden = int(channels * expansion)
        self.widen = nn.Sequential(conv1x1(channels, 2 * hidden), depthwise(2 * hidden))
        self.project = conv1x1(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.widen(x).chunk(2, dim=1)
        out: Tensor = self.project(F.gelu(first) * second)
        return out


class Block(nn.Module):
    """Attention, then feed-forward, each on its normalised and modulated input, each added to it."""

    def __init__(self, channels: int, heads: int, expansion: float, norm_bias: bool, prior_dim: int | None) -> None:
        super().__init__()

        def norm() -> nn.Module:
            return LayerNorm(channels) if norm_bias else ScaleNorm(channels)

        self.norm1, self.modulation1 = norm(), Modulation(channels, prior_dim)
        self.attention = ChannelAttention(channels, heads)
        self.norm2, self.modulation2 = norm(), Modulation(channels, prior_dim)
        self.feed_forward = GatedFeedForward(channels, expansion)

    def forward(self, x: Tensor, z: Tensor | None) -> Tensor:
        x = x + self.attention(self.modulation1(self.norm1(x), z))
        out: Tensor = x + self.feed_forward(self.modulation2(self.norm2(x), z))
        return out


class Stack(nn.ModuleList):
    """Blocks one after the other, all guided by the same Z."""

    def forward(self, x: Tensor, z: Tensor | None) -> Tensor:
        for block in self:
            x = block(x, z)
        return x


def tail(channels: int, scale: int) -> nn.Sequential:
    """To the picture: at once, or through enlargements by 2."""
    if scale == 1:
        return nn.Sequential(nn.Conv2d(channels, 3, 3, padding=1, bias=False))
    layers: list[nn.Module] = []
    for _ in range(scale.bit_length() - 1):
        layers += [nn.Conv2d(channels, 4 * channels, 3, padding=1), nn.PixelShuffle(2)]
    return nn.Sequential(*layers, nn.Conv2d(channels, 3, 3, padding=1))


class DIRformer(UShaped):
    """U-shaped transformer of four levels with a refinement at the finest.

    Args:
        in_channels: channels of the input, mask included.
        width: C.
        blocks: blocks per level, from the finest to the coarsest; the decoder mirrors the first three.
        refinement: blocks after the decoder.
        heads: of the attention, per level.
        expansion: width of the feed-forward's gate over the map's.
        norm_bias: layer norms remove the mean and add a bias; without, see `ScaleNorm`.
        scale: enlargement of the output over the input.
        enlargement: that of the tail, by default `scale`; where it is larger, the network sees the input unshuffled.
        prior_dim: 4C'; None makes the same network without a prior.
        depth: see `UShaped.keep`.

    The network predicts the difference from the input, enlarged by repeating pixels; with a mask the picture itself.

    Raises:
        ValueError: sizes that cannot be.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        blocks: Sequence[int],
        refinement: int,
        heads: Sequence[int],
        expansion: float,
        norm_bias: bool,
        scale: int,
        enlargement: int | None = None,
        prior_dim: int | None = None,
        depth: int | None = None,
    ) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(LEVELS)]
        if len(blocks) != LEVELS or len(heads) != LEVELS:
            raise ValueError(f"blocks and heads must name {LEVELS} levels, got {list(blocks)} and {list(heads)}")
        if width <= 0 or width % 2 or any(channels % n for channels, n in zip(widths, heads, strict=True)):
            raise ValueError(f"width={width} must be even, and its multiples {widths} be shared by heads={list(heads)}")
        enlargement = enlargement or scale
        if enlargement & (enlargement - 1) or enlargement % scale:
            raise ValueError(f"enlargement={enlargement} must be a power of 2 and a multiple of scale={scale}")

        def stack(count: int, level: int, channels: int) -> Stack:
            return Stack(Block(channels, heads[level], expansion, norm_bias, prior_dim) for _ in range(count))

        def conv3x3(channels: int, out_channels: int) -> nn.Conv2d:
            return nn.Conv2d(channels, out_channels, 3, padding=1, bias=False)

        self.scale, self.unshuffle, self.residual = scale, enlargement // scale, in_channels == 3
        self.embed = conv3x3(in_channels * self.unshuffle**2, width)
        self.encoder = nn.ModuleList(stack(blocks[i], i, widths[i]) for i in range(LEVELS - 1))
        self.down = nn.ModuleList(nn.Sequential(conv3x3(c, c // 2), nn.PixelUnshuffle(2)) for c in widths[:-1])
        self.bottom = stack(blocks[-1], LEVELS - 1, widths[-1])
        self.up = nn.ModuleList(nn.Sequential(conv3x3(c, 2 * c), nn.PixelShuffle(2)) for c in reversed(widths[1:]))
        # The finest level keeps both halves, and so is twice as wide as its encoder.
        self.join = nn.ModuleList([conv1x1(2 * c, c) for c in (widths[2], widths[1])] + [nn.Identity()])
        finest = (blocks[0], 0, 2 * width)
        self.decoder = nn.ModuleList(
            stack(*level) for level in ((blocks[2], 2, widths[2]), (blocks[1], 1, widths[1]), finest)
        )
        self.refine = stack(refinement, *finest[1:])
        self.tail = tail(2 * width, enlargement)
        if depth is not None:
            self.keep(depth)

    def forward(self, image: Tensor, z: Tensor | None = None) -> Tensor:
        """`image` (B, in_channels, H, W), `z` (B, 4C') -> (B, 3, scale H, scale W), float32."""
        height, width = image.shape[-2:]
        padded = pad_to_multiple(image, self.unshuffle * 2 ** (LEVELS - 1))
        x = self.embed(F.pixel_unshuffle(padded, self.unshuffle))  # (B, C, H', W')
        x = self.tail(self.refine(self.levels(x, z), z))  # (B, 3, scale H', scale W')
        x = at_least_float32(x[..., : height * self.scale, : width * self.scale])
        return x + F.interpolate(image.to(x.dtype), scale_factor=self.scale, mode="nearest") if self.residual else x
