"""Discriminators: a patch critic (LaMa, after pix2pixHD) and a per-pixel one (Real-ESRGAN)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm


class PatchDiscriminator(nn.Module):
    """Judges overlapping patches: `layers` convolutions of stride 2, one of stride 1, then the logits.

    LaMa's `NLayerDiscriminator` (`pix2pixhd_nlayer`, ndf 64, 4 layers): 4x4 kernels, widths doubling up to 8 times
    `width`, batch norm after all but the first, LeakyReLU(0.2).
    """

    def __init__(self, width: int = 64, layers: int = 4) -> None:
        super().__init__()
        self.min_side = 2**layers
        widths = [min(width * 2**i, 8 * width) for i in range(layers + 1)]
        stages = [nn.Sequential(_conv4(3, width, stride=2), nn.LeakyReLU(0.2))]
        for i in range(1, layers + 1):
            conv = _conv4(widths[i - 1], widths[i], stride=2 if i < layers else 1)
            stages.append(nn.Sequential(conv, nn.BatchNorm2d(widths[i]), nn.LeakyReLU(0.2)))
        self.stages = nn.ModuleList(stages)
        self.logits = _conv4(widths[-1], 1, stride=1)

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """`image` (B, 3, H, W) -> logits (B, 1, h, w) of about a patch in 16 pixels, and each stage's features.

        Raises `ValueError` for an image under 2^layers pixels on a side.
        """
        _check_side(self, image, self.min_side)
        features = [image]
        for stage in self.stages:
            features.append(stage(features[-1]))
        return self.logits(features[-1]), features[1:]


class UNetDiscriminator(nn.Module):
    """Judges every pixel: three levels down, three up with added skips, spectral norm on all but both ends.

    Real-ESRGAN's `UNetDiscriminatorSN` (64 wide), LeakyReLU(0.2), bilinear upsampling. Where a side is no multiple of
    8, the way up resizes to the size of the skip.
    """

    min_side = 8

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, width, 3, padding=1)
        self.down = nn.ModuleList(
            spectral_norm(nn.Conv2d(width * 2**i, width * 2 ** (i + 1), 4, stride=2, padding=1, bias=False))
            for i in range(3)
        )
        self.up = nn.ModuleList(_normed3(width * 2 ** (i + 1), width * 2**i) for i in (2, 1, 0))
        self.refine = nn.ModuleList(_normed3(width, width) for _ in range(2))
        self.logits = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """`image` (B, 3, H, W) -> logits (B, 1, H, W), and an empty list: no features to match.

        In training mode every call takes one step of the power iteration. Raises `ValueError` for an image under
        8 pixels on a side.
        """
        _check_side(self, image, self.min_side)
        with parametrize.cached():
            # The power iteration's buffers are float32, and autocast would hand it bfloat16 products.
            with torch.autocast(image.device.type, enabled=False):
                for conv in (*self.down, *self.up, *self.refine):
                    _ = conv.weight
            x = _leaky(self.head(image))
            skips = []
            for conv in self.down:
                skips.append(x)
                x = _leaky(conv(x))
            for conv, skip in zip(self.up, reversed(skips), strict=True):
                x = F.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=False)
                x = _leaky(conv(x)) + skip
            for conv in self.refine:
                x = _leaky(conv(x))
            return self.logits(x), []


def _conv4(inputs: int, outputs: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 4, stride=stride, padding=2)


def _normed3(inputs: int, outputs: int) -> nn.Module:
    return spectral_norm(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False))


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2)


def _check_side(discriminator: nn.Module, image: Tensor, least: int) -> None:
    if min(image.shape[-2:]) < least:
        name, size = type(discriminator).__name__, "x".join(map(str, image.shape[-2:]))
        raise ValueError(f"{name} needs images of at least {least} pixels on each side, got {size}")
