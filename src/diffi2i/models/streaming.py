"""The DI2Iformer on an image of any size, strip by strip: what it computes of the whole image, in a part of the memory.

Convolutions look one row beyond a strip. The pooled mean of DA (Eq. 7), which looks at all of the image, is summed up
in a first walk over the strips and used in a second. A map of features is changed in place, so that at each level one
is kept, and one for the skip.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffi2i.data.resize import REACH, imresize
from diffi2i.memory import give_back
from diffi2i.models.depth import Zeros
from diffi2i.models.di2iformer import LEVELS, DI2Iformer, DynamicLayer, Stack
from diffi2i.models.padding import pad_to_multiple

MULTIPLE = 2 ** (LEVELS - 1)
MOST_REACH = 2
"""How many rows beyond a strip a layer looks: a depth-wise projection after W_d."""
Walk = Callable[[Tensor, bool, bool], Tensor]
"""From a strip with the rows around it, and whether it lies at the top or bottom, to what becomes of the strip."""


def streamed(network: DI2Iformer, image: Tensor, z: Tensor | None, rows: int, device: torch.device) -> Iterator[Tensor]:
    """The output of `network(image, z)`, (B, 3, ., scale W) float32 strips from the top down, on the CPU.

    `image` (B, in_channels, H, W) and all maps of features lie on the CPU, the strips are computed on `device`. `rows`
    of the image make a strip, rounded up to a multiple of 8; at the coarser levels it has as many pixels.

    Raises:
        ValueError: the network averages over windows (`use_tlc`), which are larger than a strip.
    """
    if any(isinstance(layer, DynamicLayer) and layer.window for layer in network.modules()):
        raise ValueError("a network that averages over windows is not streamed")
    strips = Strips(max(1, -(-rows // MULTIPLE)) * MULTIPLE, device)
    height, width = image.shape[-2:]
    x = strips.convolved(pad_to_multiple(image, MULTIPLE), network.embed)
    skips = []
    for level, down in zip(network.encoder, network.down, strict=True):
        strips.guided(x, level, z)  # type: ignore[arg-type]
        skips.append(x)
        x = strips.convolved(x, down)
    strips.guided(x, network.bottom, z)  # type: ignore[arg-type]
    for up, join, level in zip(network.up, network.join, network.decoder, strict=True):
        x = strips.joined(strips.convolved(x, up), skips.pop(), join)
        strips.guided(x, level, z)  # type: ignore[arg-type]
    strips.guided(x, network.refine, z)
    scale = network.scale
    for top, residual in strips.walk(
        x, 1, lambda strip, *ends: network.tail[1](conv3x3(strip, network.tail[0], *ends))
    ):
        first, last = top, min(top + residual.shape[-2] // scale, height)
        if last > first:
            base = enlarged(image[:, :3], first, last, scale)
            yield residual[..., : (last - first) * scale, : width * scale].float() + base


def enlarged(image: Tensor, first: int, last: int, scale: int) -> Tensor:
    """The rows from `first` to `last` of the image, `scale` times as large, as they are in the whole of it."""
    if scale == 1:
        return image[..., first:last, :].float()
    # Twice what the kernel reaches: `imresize` mirrors its piece where the image goes on.
    start, end = max(0, first - 2 * REACH), min(image.shape[-2], last + 2 * REACH)
    whole = imresize(image[..., start:end, :].float(), scale)
    return whole[..., (first - start) * scale : (last - start) * scale, :]


def conv3x3(strip: Tensor, conv: nn.Module, at_top: bool, at_bottom: bool) -> Tensor:
    """A convolution with padding 1 of a strip that has one more row on either side, but at the image's ends."""
    assert isinstance(conv, nn.Conv2d)
    if conv.kernel_size == (1, 1):
        raise ValueError("a 1x1 convolution looks at no other row")
    padded = F.pad(strip, (0, 0, int(at_top), int(at_bottom)))
    return F.conv2d(padded, conv.weight, conv.bias, padding=(0, 1), groups=conv.groups)


class Strips:
    """Walks over maps of features in strips of as many pixels as `rows` of the finest map have."""

    def __init__(self, rows: int, device: torch.device) -> None:
        self.rows, self.device = rows, device
        self.width: int | None = None

    def of(self, x: Tensor) -> Iterator[tuple[int, int]]:
        """First row, and the one after the last, of each strip."""
        height, width = x.shape[-2:]
        self.width = self.width or width
        rows = max(MOST_REACH, self.rows * self.width // width // 2 * 2)
        top = 0
        while top < height:
            # None is followed by fewer rows than a strip may look beyond its own.
            bottom = top + rows if height - top - rows >= MOST_REACH else height
            yield top, bottom
            top = bottom

    def walk(self, x: Tensor, reach: int, change: Walk) -> Iterator[tuple[int, Tensor]]:
        """The first row of each strip, and what `change` makes of it, which sees `reach` more rows on either side.

        A strip of `x` may be replaced as soon as it has been walked over.
        """
        give_back()  # what the strips of the walk before have taken
        height, above = x.shape[-2], x[..., :0, :]
        for top, bottom in self.of(x):
            strip = torch.cat([above, x[..., top : min(bottom + reach, height), :]], dim=-2)
            above = x[..., max(0, bottom - reach) : bottom, :].clone()
            yield top, change(strip.to(self.device), top == 0, bottom == height).cpu()

    def convolved(self, x: Tensor, module: nn.Module) -> Tensor:
        """The map that a 3x3 convolution makes, with what shuffles its pixels after it."""
        if isinstance(module, nn.Identity | Zeros):  # where levels have been pruned
            made: Tensor = module(x)
            return made
        conv, shuffle = (module, None) if isinstance(module, nn.Conv2d) else tuple(module.children())

        def change(strip: Tensor, at_top: bool, at_bottom: bool) -> Tensor:
            found = conv3x3(strip, conv, at_top, at_bottom)
            return found if shuffle is None else shuffle(found)

        out: Tensor | None = None
        for top, found in self.walk(x, 1, change):
            if out is None:
                ratio = found.shape[-1] / x.shape[-1]
                size = (*found.shape[:2], round(x.shape[-2] * ratio), found.shape[-1])
                out = torch.empty(size, dtype=found.dtype, memory_format=torch.channels_last)
            start = round(top * ratio)
            out[..., start : start + found.shape[-2], :] = found
        assert out is not None
        return out

    def joined(self, x: Tensor, skip: Tensor, join: nn.Module) -> Tensor:
        """The 1x1 convolution of both maps side by side, in the place of the skip's."""
        for top, bottom in self.of(x):
            both = torch.cat([x[..., top:bottom, :], skip[..., top:bottom, :]], dim=1).to(self.device)
            skip[..., top:bottom, :] = join(both).cpu()
        return skip

    def guided(self, x: Tensor, stack: Stack, z: Tensor | None) -> None:
        """Blocks guided by Z, `x` changed in place."""
        for block in stack:
            for layer in block.children():
                assert isinstance(layer, DynamicLayer)
                self.layer(x, layer, z)

    def layer(self, x: Tensor, layer: DynamicLayer, z: Tensor | None) -> None:
        """DA or DFFN (Eqs. 6-9), `x` changed in place."""
        pooled: Tensor | None = None
        if layer.attention:
            total = torch.zeros(1, dtype=torch.float64, device=self.device)
            for _, found in self.walk(x, 1, lambda *strip: gate(layer, *strip).sum((2, 3), dtype=torch.float64)):
                total = total + found.to(self.device)
            pooled = (total / x.shape[-2:].numel())[:, :, None, None]
        wide = layer.project.kernel_size != (1, 1)
        reach = 1 + wide

        def change(strip: Tensor, at_top: bool, at_bottom: bool) -> Tensor:
            gated = gate(layer, strip, at_top, at_bottom)
            if pooled is not None:
                gated = gated * pooled.to(gated.dtype)
            # The gate has used up a row on either side, but at the image's ends.
            found = conv3x3(gated, layer.project, at_top, at_bottom) if wide else layer.project(gated)
            own = strip[..., 0 if at_top else reach : strip.shape[-2] - (0 if at_bottom else reach), :]
            return layer.modulated(found, z) + own

        for top, found in self.walk(x, reach, change):
            x[..., top : top + found.shape[-2], :] = found


def gate(layer: DynamicLayer, strip: Tensor, at_top: bool, at_bottom: bool) -> Tensor:
    """SimpleGate (Eq. 6) of a strip's inner rows."""
    first, second = conv3x3(layer.W_c(layer.norm(strip)), layer.W_d, at_top, at_bottom).chunk(2, dim=1)
    return first * second
