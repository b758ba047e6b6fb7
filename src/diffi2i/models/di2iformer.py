"""DI2Iformer, the dynamic image-to-image transformer (paper: Fig. 2, Eqs. 6-9).

Symbols: C = `width`, the levels have widths C, 2C, 4C, 8C; Z (B, 4C') the IPR; W_c 1x1 convolution, W_d 3x3
depth-wise convolution, W_l and W_m linear.
"""

from collections.abc import Sequence
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from diffi2i.data.resize import imresize
from diffi2i.models.depth import Zeros, check_depth
from diffi2i.models.padding import pad_to_multiple

Projection = Literal["depthwise", "pointwise"]
Modulation = Literal["shift", "scale", "both"]
LEVELS = 4


class LayerNorm(nn.LayerNorm):
    """Layer normalisation over the channels of (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        # In channels_last memory both permutations are views, and normalising the last axis is the fast case.
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class GlobalMean(nn.Module):
    """The mean over all pixels: (B, C, H, W) -> (B, C, 1, 1)."""

    def forward(self, x: Tensor) -> Tensor:
        # A mean over the last two axes would have a gradient in PyTorch's own memory layout, which takes longer to add
        # to x's other gradient in channels_last memory than both take to compute.
        return x.permute(0, 2, 3, 1).mean(dim=(1, 2))[:, :, None, None]


def start_small(module: nn.Module) -> None:
    """A tenth of PyTorch's initial weights, so that training starts near the identity, not by unlearning noise."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(0.1)


def depthwise(channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, padding=1, groups=channels)


def convolution(in_channels: int, out_channels: int, kernel: int) -> nn.Conv2d:
    """Between the levels, with initial weights by which the output varies as much as the input.

    PyTorch's own shrink the variance threefold at each convolution. Down to the coarsest level and back that left
    gradients of 1e-9, below the 1e-8 that Adam adds to their size: the coarse levels did not learn.
    """
    conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="linear")
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


def local_mean(x: Tensor, side: int) -> Tensor:
    """Means over a window of `side` x `side` pixels around each pixel, shifted inwards at the borders.

    (B, C, H, W) -> (B, C, H, W); a window at least as large as the map gives its global mean everywhere.
    """
    height, width = (min(side, length) for length in x.shape[-2:])
    # Sums over whole photos lose digits in float32.
    total = nn.functional.pad(x.double().cumsum(2).cumsum(3), (1, 0, 1, 0))
    sums = (
        total[..., height:, width:]
        - total[..., :-height, width:]
        - total[..., height:, :-width]
        + total[..., :-height, :-width]
    )
    rows, columns = (
        (torch.arange(length, device=x.device) - (window - 1) // 2).clamp(0, length - window)
        for length, window in zip(x.shape[-2:], (height, width), strict=True)
    )
    return (sums / (height * width)).to(x.dtype)[..., rows[:, None], columns]


def prior_linear(prior_dim: int | None, channels: int) -> nn.Linear | None:
    """W_l of Eqs. 8 and 9, or W_m; None in a network without a prior."""
    if prior_dim is None:
        return None
    W_l = nn.Linear(prior_dim, channels, bias=False)
    start_small(W_l)
    return W_l


def shifted(x: Tensor, W_l: nn.Linear | None, z: Tensor | None) -> Tensor:
    """x + W_l Z at every pixel: `x` (B, C-hat, H, W), `z` (B, 4C'). Without W_l, x."""
    return x if W_l is None else x + W_l(z)[:, :, None, None]


class DynamicLayer(nn.Module):
    """DA (Eqs. 6-8) with `attention`, DFFN (Eq. 9) without: they differ in the pooling product alone.

    Args:
        channels: C-hat, width of the feature map.
        prior_dim: 4C'; None leaves W_l Z out.
        expansion: width after the gate over `channels`; the depth-wise projection needs 1.
        projection: the output projection. The paper writes W_d; NAFNet and DiffIR use a 1x1 convolution.
        attention: multiply by the global average pool (Eq. 7).
        modulation: what Z does to the projection's output F, which is then added to the layer's input: `shift`
            F + W_l Z (Eqs. 8, 9), `scale` (1 + W_m Z) F, `both` (1 + W_m Z) F + W_l Z.

    `window` replaces that pool by means over windows of so many pixels, for test time; see `DI2Iformer.use_tlc`.
    `drop_path` is what stochastic depth puts in place of the projection's output; as it is here, the output itself.
    """

    window: int | None = None

    def __init__(
        self,
        channels: int,
        prior_dim: int | None,
        expansion: float,
        projection: Projection,
        attention: bool,
        modulation: Modulation = "shift",
    ) -> None:
        super().__init__()
        hidden = round(channels * expansion)
        if projection == "depthwise" and expansion != 1:
            raise ValueError(
                f"a depth-wise projection keeps its width: expansion must be 1, got {expansion}; or write "
                "projection=pointwise"
            )
        self.attention, self.pool = attention, GlobalMean()
        self.norm = LayerNorm(channels)
        self.W_c = nn.Conv2d(channels, 2 * hidden, 1)
        self.W_d = depthwise(2 * hidden)
        self.project = depthwise(channels) if projection == "depthwise" else nn.Conv2d(hidden, channels, 1)
        start_small(self.project)
        self.W_l = prior_linear(None if modulation == "scale" else prior_dim, channels)
        self.W_m = prior_linear(None if modulation == "shift" else prior_dim, channels)
        self.drop_path: nn.Module = nn.Identity()

    def forward(self, x: Tensor, z: Tensor | None) -> Tensor:
        """`x` (B, C-hat, H, W), `z` (B, 4C') -> (B, C-hat, H, W)."""
        first, second = self.W_d(self.W_c(self.norm(x))).chunk(2, dim=1)
        gated = first * second  # SimpleGate, Eq. 6
        if self.attention:
            pooled = self.pool(gated) if self.window is None else local_mean(gated, self.window)
            gated = gated * pooled  # Eq. 7
        return self.modulated(self.drop_path(self.project(gated)), z) + x  # Eqs. 8, 9

    def modulated(self, projected: Tensor, z: Tensor | None) -> Tensor:
        """(1 + W_m Z) F + W_l Z at every pixel, F the projection's output; see `modulation`."""
        if self.W_m is not None:
            projected = projected * (1 + self.W_m(z)[:, :, None, None])
        return shifted(projected, self.W_l, z)


class DynamicBlock(nn.Module):
    """DA, then DFFN."""

    def __init__(
        self,
        channels: int,
        prior_dim: int | None,
        expansion: float,
        projection: Projection,
        modulation: Modulation = "shift",
    ) -> None:
        super().__init__()
        layer = partial(DynamicLayer, channels, prior_dim, expansion, projection, modulation=modulation)
        self.attention, self.feed_forward = layer(attention=True), layer(attention=False)

    def forward(self, x: Tensor, z: Tensor | None) -> Tensor:
        out: Tensor = self.feed_forward(self.attention(x, z), z)
        return out


class Stack(nn.ModuleList):
    """Blocks one after the other, all guided by the same Z."""

    def forward(self, x: Tensor, z: Tensor | None) -> Tensor:
        for block in self:
            x = block(x, z)
        return x


class UShaped(nn.Module):
    """Levels down to the coarsest and back, their skips joined by channel. A subclass makes the parts."""

    encoder: nn.ModuleList
    down: nn.ModuleList
    bottom: nn.ModuleList
    up: nn.ModuleList
    join: nn.ModuleList
    decoder: nn.ModuleList

    @property
    def depth(self) -> int:
        """How many levels there are, of which each but the coarsest has a skip."""
        return len(self.encoder) + (not isinstance(self.up[0], Zeros))

    def keep(self, depth: int) -> None:
        """Removes what lies below the first `depth` levels, and starts the decoder from zeros; all of them: nothing.

        Raises:
            ValueError: a depth that the network does not have.
        """
        check_depth(depth, self.depth)
        if depth == self.depth:
            return
        for finest_first in (self.encoder, self.down):
            del finest_first[depth:]
        for finest_last in (self.up, self.join, self.decoder):
            del finest_last[:-depth]
        del self.bottom[:]
        self.down[-1], self.up[0] = nn.Identity(), Zeros()

    def levels(self, x: Tensor, z: Tensor | None) -> Tensor:
        """`x` (B, C, H, W), sides multiples of 8, `z` (B, 4C') -> what leaves the decoder's finest level."""
        skips = []
        for level, down in zip(self.encoder, self.down, strict=True):
            x = level(x, z)
            skips.append(x)
            x = down(x)
        x = self.bottom(x, z)  # (B, 8C, H/8, W/8)
        for up, join, level in zip(self.up, self.join, self.decoder, strict=True):
            x = level(join(torch.cat([up(x), skips.pop()], dim=1)), z)
        return x


def downsample(channels: int) -> nn.Sequential:
    """(B, C, H, W) -> (B, 2C, H/2, W/2)."""
    return nn.Sequential(convolution(channels, channels // 2, 3), nn.PixelUnshuffle(2))


def upsample(channels: int) -> nn.Sequential:
    """(B, C, H, W) -> (B, C/2, 2H, 2W)."""
    return nn.Sequential(convolution(channels, 2 * channels, 3), nn.PixelShuffle(2))


class DI2Iformer(UShaped):
    """U-shaped network of dynamic blocks: an encoder of four levels, a mirrored decoder, a refinement.

    Args:
        in_channels: channels of the input, mask included.
        width: C.
        blocks: blocks per level, from the finest to the coarsest; the decoder mirrors the first three.
        refinement: blocks at the finest level after the decoder.
        expansion, projection: see `DynamicLayer`.
        scale: enlargement of the tail, a sub-pixel convolution (Shi et al. 2016).
        prior_dim: 4C'; None makes the same network without a prior.
        depth: see `UShaped.keep`.
        modulation: see `DynamicLayer`.

    The network predicts the difference from the input image, enlarged bicubically where `scale` > 1.

    Raises:
        ValueError: sizes that cannot be.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        blocks: Sequence[int],
        refinement: int,
        expansion: float,
        projection: Projection,
        scale: int,
        prior_dim: int | None = None,
        depth: int | None = None,
        modulation: Modulation = "shift",
    ) -> None:
        super().__init__()
        if not isinstance(width, int) or width <= 0 or width % 2:
            raise ValueError(f"width={width} must be an even number above 0: each level's down-sampling halves it")
        if len(blocks) != LEVELS or not all(isinstance(count, int) and count >= 0 for count in blocks):
            raise ValueError(f"blocks must name {LEVELS} levels, got {list(blocks)}: write four counts, [2,1,1,1]")
        if not isinstance(refinement, int) or refinement < 0:
            raise ValueError(f"refinement={refinement} must be a number of blocks, 0 or more")
        if not isinstance(expansion, (int, float)) or expansion <= 0:
            raise ValueError(f"expansion={expansion} must be a number above 0")
        if projection not in get_args(Projection):
            raise ValueError(f"projection={projection}: choose one of {', '.join(get_args(Projection))}")
        if modulation not in get_args(Modulation):
            raise ValueError(f"modulation={modulation}: choose one of {', '.join(get_args(Modulation))}")
        if modulation != "shift" and prior_dim is None:
            raise ValueError(f"modulation={modulation} is by a prior, of which this method has none: leave it out")
        widths = [width * 2**level for level in range(LEVELS)]

        def stack(count: int, channels: int) -> Stack:
            return Stack(DynamicBlock(channels, prior_dim, expansion, projection, modulation) for _ in range(count))

        self.scale = scale
        self.embed = convolution(in_channels, width, 3)
        self.encoder = nn.ModuleList(stack(n, c) for n, c in zip(blocks[:-1], widths[:-1], strict=True))
        self.down = nn.ModuleList(downsample(c) for c in widths[:-1])
        self.bottom = stack(blocks[-1], widths[-1])
        self.up = nn.ModuleList(upsample(c) for c in reversed(widths[1:]))
        self.join = nn.ModuleList(convolution(2 * c, c, 1) for c in reversed(widths[:-1]))
        self.decoder = nn.ModuleList(
            stack(n, c) for n, c in zip(reversed(blocks[:-1]), reversed(widths[:-1]), strict=True)
        )
        self.refine = stack(refinement, width)
        self.tail = nn.Sequential(nn.Conv2d(width, 3 * scale**2, 3, padding=1), nn.PixelShuffle(scale))
        start_small(self.tail)
        if depth is not None:
            self.keep(depth)

    def use_tlc(self, side: int) -> None:
        """Test-time local converter (Chu et al. 2022): Eq. 7 pools over windows, not over the whole image.

        `side` is that of the windows, in pixels of the input, at every level.
        """
        down = [*self.encoder, self.bottom]
        up = [*self.decoder, self.refine]
        skips = len(self.encoder)
        levels = (*range(skips + 1), *reversed(range(skips)), 0)
        for level, stack in zip(levels, (*down, *up), strict=True):
            for layer in stack.modules():
                if isinstance(layer, DynamicLayer):
                    layer.window = max(1, side // 2**level)

    def forward(self, image: Tensor, z: Tensor | None = None) -> Tensor:
        """`image` (B, in_channels, H, W), `z` (B, 4C') -> (B, 3, scale H, scale W), float32."""
        height, width = image.shape[-2:]
        x = self.embed(pad_to_multiple(image, 2 ** (LEVELS - 1)))  # (B, C, H', W')
        x = self.tail(self.refine(self.levels(x, z), z))  # (B, 3, scale H', scale W')
        residual: Tensor = x[..., : height * self.scale, : width * self.scale].float()
        # A masked input is zero inside the hole: there the residual is the whole output.
        base = image[:, :3].float()
        return residual + (base if self.scale == 1 else imresize(base, self.scale))
