"""CPEN, the compact I2I prior extraction network (paper: Fig. 2, Eqs. 5 and 12).

Symbols: C' = `channels` (64), the IPR has 4C' = 256 numbers.
"""

import torch
from torch import Tensor, nn

from diffi2i.models.di2iformer import GlobalMean
from diffi2i.models.gt import DepthEmbedding, LabelEmbedding
from diffi2i.models.padding import pad_to_multiple
from diffi2i.models.precision import at_least_float32

UNSHUFFLE = 4
LARGE = 2**20
"""Pixels of the unshuffled grid above which features are averaged strip by strip, where no gradient is asked for."""

SLOPE = 0.1  # of the LeakyReLUs


def keep_variance(module: nn.Module) -> None:
    """Initial weights by which Z differs between images as the images do.

    PyTorch's own shrink the variance at each layer; Z then differed by 1e-4 between images, and a network that reads it
    had nothing to learn from.
    """
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, a=SLOPE)
        nn.init.zeros_(module.bias)  # type: ignore[arg-type]


class ResidualBlock(nn.Module):
    """x + conv(LeakyReLU(conv(x))), all 3x3."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        last = nn.Conv2d(channels, channels, 3, padding=1)
        self.body = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.LeakyReLU(SLOPE), last)
        self.apply(keep_variance)
        # Each block starts as the identity: else Z doubles with every block, to a mean size of 76 in `sr`.
        nn.init.zeros_(last.weight)

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.body(x)
        return x + residual


def mean_of(features: nn.Module, x: Tensor, most: int = LARGE) -> Tensor:
    """The mean over all pixels of what the features make of (B, C, H, W): (B, C').

    Of a large map in strips of at most `most` pixels, each seen with as many rows around it as its 3x3 convolutions
    reach, which gives the same.
    """
    height, width = x.shape[-2:]
    if torch.is_grad_enabled() or height * width <= most:
        mean: Tensor = GlobalMean()(features(x)).flatten(1)
        return mean
    reach = sum(isinstance(layer, nn.Conv2d) for layer in features.modules())
    rows, total = max(1, most // width), torch.zeros((), dtype=torch.float64, device=x.device)
    for top in range(0, height, rows):
        above = min(reach, top)
        strip = features(x[..., top - above : top + rows + reach, :])[..., above : above + rows, :]
        total = total + strip.sum(dim=(2, 3), dtype=torch.float64)
    return (total / (height * width)).to(strip.dtype)


class CPEN(nn.Module):
    """Maps the input image, and where it may see it also the ground truth, to the IPR Z.

    Args:
        in_channels: channels of the input image (3, or 4 where a mask is joined); 0 makes a CPEN_S1 that sees the
            ground truth alone (Table 10).
        gt: what CPEN_S1 sees of the ground truth (Eq. 5): the channels of an image, or the module that embeds
            labels or depth (`models.gt`). 0 makes CPEN_S2 (Eq. 12), which differs in its first convolution alone.
        channels: C'.
        blocks: number of residual blocks.
        scale: how many times larger the ground truth is than the input (4 for x4 super-resolution). Both are
            unshuffled to the same grid: the ground truth by 4, the input by 4 / scale.
        leaky_ends: a LeakyReLU also after the first convolution and after the last linear layer, as in DiffIR.
        normalise: Z leaves with mean 0 and variance 1 over its 4C' numbers: a layer norm without learnt weights.
    """

    def __init__(
        self,
        in_channels: int,
        gt: int | LabelEmbedding | DepthEmbedding,
        channels: int,
        blocks: int,
        scale: int,
        leaky_ends: bool = False,
        normalise: bool = False,
    ) -> None:
        super().__init__()
        if UNSHUFFLE % scale:
            raise ValueError(f"scale must divide {UNSHUFFLE}, got {scale}")
        self.scale, self.in_channels, self.normalise = scale, in_channels, normalise
        self.embed = None if isinstance(gt, int) else gt
        self.gt_channels = gt_channels = gt if isinstance(gt, int) else gt.channels
        unshuffled = in_channels * (UNSHUFFLE // scale) ** 2 + gt_channels * UNSHUFFLE**2
        end = [nn.LeakyReLU(SLOPE)] if leaky_ends else []
        self.features = nn.Sequential(
            nn.Conv2d(unshuffled, channels, 3, padding=1),
            *end,
            *(ResidualBlock(channels) for _ in range(blocks)),
            nn.Conv2d(channels, 2 * channels, 3, padding=1),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(2 * channels, 2 * channels, 3, padding=1),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(2 * channels, 4 * channels, 3, padding=1),
            nn.LeakyReLU(SLOPE),
        )
        self.head = nn.Sequential(
            nn.Linear(4 * channels, 4 * channels),
            nn.LeakyReLU(SLOPE),
            nn.Linear(4 * channels, 4 * channels),
            *end,
        )
        for layer in (*self.features, *self.head):
            keep_variance(layer)

    def forward(self, image: Tensor, gt: Tensor | None = None) -> Tensor:
        """`image` (B, in_channels, H, W), `gt` (B, 3, scale H, scale W), labels or depth -> Z (B, 4C').

        Raises:
            ValueError: ground truth given to CPEN_S2, or missing for CPEN_S1.
        """
        if (gt is None) != (self.gt_channels == 0):
            raise ValueError("CPEN_S1 needs the ground truth and CPEN_S2 must not see it")
        seen = []
        if gt is not None:
            if self.embed is not None:
                gt = self.embed(gt, image.shape[-2:])
            seen.append(nn.functional.pixel_unshuffle(pad_to_multiple(gt, UNSHUFFLE), UNSHUFFLE))
        if self.in_channels:
            factor = UNSHUFFLE // self.scale
            seen.append(nn.functional.pixel_unshuffle(pad_to_multiple(image, factor), factor))
        # Unshuffling each and joining them equals unshuffling the joined images (Eq. 5) where scale is 1.
        z: Tensor = self.head(mean_of(self.features, torch.cat(seen, dim=1)))
        return nn.functional.layer_norm(at_least_float32(z), z.shape[-1:], eps=1e-6) if self.normalise else z
