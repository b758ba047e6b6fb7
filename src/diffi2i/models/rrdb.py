"""RRDB, the network of ESRGAN (Wang et al. 2018), BSRGAN and Real-ESRGAN: dense blocks within residuals."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffi2i.models.padding import pad_to_multiple
from diffi2i.models.precision import at_least_float32

SLOPE = 0.2  # of the LeakyReLUs
RESIDUAL = 0.2  # what a block's output is multiplied by before it is added
TIMES = 4  # how much larger the network's output is than what it works on


def conv3x3(channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels, out_channels, 3, padding=1)


class DenseBlock(nn.Module):
    """Five convolutions, each of which sees the block's input and all that the ones before made of it."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(conv3x3(channels + i * growth, growth if i < 4 else channels) for i in range(5))
        for conv in self.convs:
            nn.init.kaiming_normal_(conv.weight)  # type: ignore[arg-type]
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
            with torch.no_grad():
                conv.weight.mul_(0.1)  # type: ignore[operator]

    def forward(self, x: Tensor) -> Tensor:
        *growing, last = self.convs
        seen = x
        for conv in growing:
            seen = torch.cat([seen, F.leaky_relu(conv(seen), SLOPE)], dim=1)
        return x + RESIDUAL * last(seen)  # type: ignore[no-any-return]


class RRDB(nn.Module):
    """Three dense blocks within one more residual."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*(DenseBlock(channels, growth) for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        return x + RESIDUAL * self.body(x)  # type: ignore[no-any-return]


class RRDBNet(nn.Module):
    """Maps an image to one `scale` times as large; below x4 it works on the input unshuffled by 4 / scale.

    Args:
        in_channels: channels of the input, mask included.
        width, growth: channels of the blocks, and of what each convolution in them adds.
        blocks: how many RRDBs.
        scale: 1, 2 or 4.

    Raises:
        ValueError: another `scale`.
    """

    def __init__(self, in_channels: int, width: int, growth: int, blocks: int, scale: int) -> None:
        super().__init__()
        if TIMES % scale:
            raise ValueError(f"scale={scale} must be 1, 2 or 4")
        self.scale, self.unshuffle = scale, TIMES // scale
        self.embed = conv3x3(in_channels * self.unshuffle**2, width)
        self.body = nn.Sequential(*(RRDB(width, growth) for _ in range(blocks)), conv3x3(width, width))
        self.up = nn.ModuleList(conv3x3(width, width) for _ in range(2))
        self.tail = nn.Sequential(conv3x3(width, width), nn.LeakyReLU(SLOPE), conv3x3(width, 3))

    def forward(self, image: Tensor) -> Tensor:
        """`image` (B, in_channels, H, W) -> (B, 3, scale H, scale W)."""
        height, width = image.shape[-2:]
        x = self.embed(F.pixel_unshuffle(pad_to_multiple(image, self.unshuffle), self.unshuffle))
        x = x + self.body(x)
        for up in self.up:
            x = F.leaky_relu(up(F.interpolate(x, scale_factor=2, mode="nearest")), SLOPE)
        x = self.tail(x)
        return at_least_float32(x)[..., : height * self.scale, : width * self.scale]
