"""Real-ESRGAN's two-order degradation (Wang et al. 2021): blur, resize, noise and JPEG, twice over.

The figures are those of the published training of the x4 model (github.com/xinntao/Real-ESRGAN,
`options/train_realesrgan_x4plus.yml`, with the choices that its code fixes: kernel sizes, sinc cut-offs, resize modes).

Reading order: what is drawn (`Kernel`, `Noise`, `Step`, `Recipe`), from what it is drawn (`Order`), the four
operations, and `RealESRGAN`, which puts them together.
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diffi2i.data.blur import convolve
from diffi2i.data.resize import quantize

FAMILIES = ("iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso")
MODES = ("area", "bilinear", "bicubic")


class Kernel(NamedTuple):
    """A blur kernel's parameters."""

    family: str  # one of FAMILIES, or "sinc"
    size: int  # odd
    sigma: tuple[float, float] = (1.0, 1.0)  # along the kernel's two axes, in pixels
    angle: float = 0.0  # of the first axis
    beta: float = 1.0  # shape; 1 is the Gaussian
    cutoff: float = math.pi  # of a sinc, in radians per pixel


class Noise(NamedTuple):
    """Noise of one kind, its numbers fixed by the seed."""

    kind: str  # "gaussian" or "poisson"
    strength: float  # gaussian: standard deviation in 8-bit grey levels; poisson: factor of the shot noise
    grey: bool  # the same in all channels
    seed: int


class Step(NamedTuple):
    """One order of the degradation."""

    kernel: Kernel | None
    factor: float  # of the resize
    mode: str
    noise: Noise
    quality: float  # of the JPEG


class Recipe(NamedTuple):
    """All that is random in one degradation."""

    first: Step
    second: Step
    last_kernel: Kernel | None
    last_mode: str
    jpeg_last: bool


# Not a dataclass: inside a Hydra config, OmegaConf would turn a dataclass's instance into a dict.
class Order:
    """The distribution of one order's parameters; the defaults are the first order's, `second_order()` the second's."""

    def __init__(
        self,
        blur_prob: float = 1.0,
        sinc_prob: float = 0.1,
        family_probs: Sequence[float] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03),
        kernel_size: tuple[int, int] = (7, 21),
        sigma: tuple[float, float] = (0.2, 3.0),
        generalized_beta: tuple[float, float] = (0.5, 4.0),
        plateau_beta: tuple[float, float] = (1.0, 2.0),
        resize_probs: Sequence[float] = (0.2, 0.7, 0.1),
        resize: tuple[float, float] = (0.15, 1.5),
        gaussian_prob: float = 0.5,
        gaussian: tuple[float, float] = (1.0, 30.0),
        poisson: tuple[float, float] = (0.05, 3.0),
        grey_prob: float = 0.4,
        quality: tuple[float, float] = (30.0, 95.0),
    ) -> None:
        """Store the distribution; a range's values are equally probable.

        Args:
            blur_prob: chance that there is a blur.
            sinc_prob: chance that its kernel is a sinc.
            family_probs: chances of the six families, in the order of FAMILIES, where it is not.
            kernel_size: range of the kernel's side, both ends odd; only odd sides are drawn.
            sigma: range of the standard deviations in pixels.
            generalized_beta: range of the generalised Gaussians' shape, (low, high) with low <= 1 <= high; half of
                the draws lie below 1.
            plateau_beta: the same for the plateaus.
            resize_probs: chances of enlarging, shrinking and keeping the size.
            resize: smallest and largest factor.
            gaussian_prob: chance of Gaussian noise; otherwise it is Poisson noise.
            gaussian: range of its standard deviation in 8-bit grey levels.
            poisson: range of the factor of the shot noise.
            grey_prob: chance of the same noise in all channels.
            quality: range of the JPEG quality.
        """
        self.blur_prob, self.sinc_prob, self.family_probs = blur_prob, sinc_prob, tuple(family_probs)
        self.kernel_size, self.sigma = kernel_size, sigma
        self.generalized_beta, self.plateau_beta = generalized_beta, plateau_beta
        self.resize_probs, self.resize = tuple(resize_probs), resize
        self.gaussian_prob, self.gaussian, self.poisson = gaussian_prob, gaussian, poisson
        self.grey_prob, self.quality = grey_prob, quality

    def draw(self, rng: np.random.Generator) -> Step:
        """Draw one order's parameters."""
        kernel = self.draw_kernel(rng) if rng.random() < self.blur_prob else None
        low, high = self.resize
        direction = rng.choice(3, p=self.resize_probs)
        factor = (rng.uniform(1, high), rng.uniform(low, 1), 1.0)[direction]
        kind = "gaussian" if rng.random() < self.gaussian_prob else "poisson"
        strength = rng.uniform(*(self.gaussian if kind == "gaussian" else self.poisson))
        noise = Noise(kind, strength, bool(rng.random() < self.grey_prob), int(rng.integers(2**63)))
        return Step(kernel, factor, str(rng.choice(MODES)), noise, rng.uniform(*self.quality))

    def draw_kernel(self, rng: np.random.Generator) -> Kernel:
        """Draw a blur kernel's parameters."""
        size = _odd(self.kernel_size, rng)
        if rng.random() < self.sinc_prob:
            # A small kernel cannot hold the slow ripples of a low cut-off.
            return Kernel("sinc", size, cutoff=rng.uniform(math.pi / 3 if size < 13 else math.pi / 5, math.pi))
        family = FAMILIES[rng.choice(len(FAMILIES), p=self.family_probs)]
        first, second = rng.uniform(*self.sigma), rng.uniform(*self.sigma)
        angle = rng.uniform(-math.pi, math.pi)
        if not family.endswith("aniso"):
            second, angle = first, 0.0
        beta = 1.0
        if "_" in family:
            low, high = self.plateau_beta if family.startswith("plateau") else self.generalized_beta
            beta = rng.uniform(low, 1) if rng.random() < 0.5 else rng.uniform(1, high)
        return Kernel(family, size, (first, second), angle, beta)


def second_order() -> Order:
    """The published second order: blurred in four cases of five, and milder in everything."""
    return Order(
        blur_prob=0.8,
        sigma=(0.2, 1.5),
        resize_probs=(0.3, 0.4, 0.3),
        resize=(0.3, 1.2),
        gaussian=(1.0, 25.0),
        poisson=(0.05, 2.5),
    )


def _odd(ends: tuple[int, int], rng: np.random.Generator) -> int:
    return int(rng.choice(np.arange(ends[0], ends[1] + 1, 2)))


def kernel_pixels(kernel: Kernel) -> Tensor:
    """The kernel as (size, size) float64 with sum 1.

    With r^2 = x^T S^-1 x for the covariance S of `sigma` and `angle`, the (generalised) Gaussian is
    exp(-(r^2)^beta / 2) and the plateau 1 / (1 + (r^2)^beta). The sinc is the circular low-pass filter
    c J1(c |x|) / (2 pi |x|) with cut-off c.
    """
    axis = torch.arange(kernel.size, dtype=torch.float64) - kernel.size // 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    if kernel.family == "sinc":
        radius = torch.hypot(x, y)
        radius[kernel.size // 2, kernel.size // 2] = 1  # avoids 0 / 0; the limit there is put in below
        pixels = kernel.cutoff * torch.special.bessel_j1(kernel.cutoff * radius) / (2 * math.pi * radius)
        pixels[kernel.size // 2, kernel.size // 2] = kernel.cutoff**2 / (4 * math.pi)
    else:
        along = (math.cos(kernel.angle) * x + math.sin(kernel.angle) * y) / kernel.sigma[0]
        across = (math.cos(kernel.angle) * y - math.sin(kernel.angle) * x) / kernel.sigma[1]
        powered = (along**2 + across**2) ** kernel.beta
        pixels = 1 / (1 + powered) if kernel.family.startswith("plateau") else torch.exp(-powered / 2)
    normalized: Tensor = pixels / pixels.sum()
    return normalized


def resize(image: Tensor, height: int, width: int, mode: str) -> Tensor:
    """(C, H, W) -> (C, height, width), not antialiased; a side that comes out empty becomes one pixel."""
    size = (max(1, height), max(1, width))
    return F.interpolate(image.unsqueeze(0), size=size, mode=mode).squeeze(0)


def add_noise(image: Tensor, noise: Noise) -> Tensor:
    """(3, H, W) -> the same, noisy, clamped to [0, 1].

    The random numbers are drawn on the CPU, so the noise is the same on every device.
    """
    generator = torch.Generator().manual_seed(noise.seed)
    shape = (1 if noise.grey else 3, *image.shape[-2:])
    if noise.kind == "gaussian":
        added = torch.randn(shape, generator=generator).to(image.device) * (noise.strength / 255)
    else:
        uniform = torch.rand(shape, generator=generator, dtype=torch.float64).to(image.device)
        signal = (image * image.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0, True) if noise.grey else image
        added = noise.strength * shot_noise(signal, uniform)
    return (image + added).clamp(0, 1)


def shot_noise(signal: Tensor, uniform: Tensor) -> Tensor:
    """Poisson noise of mean 0: counts / peak - signal, where the counts' mean is signal * peak.

    `peak` photons make white: the number of grey levels in the signal, rounded up to a power of two, as in BasicSR.
    Each pixel's count is the Poisson distribution's quantile at its uniform number. (A sampler that rejects would
    spend a varying number of random numbers, and a last-bit difference of one pixel between devices would change the
    noise of all pixels after it.)

    Args:
        signal: (C, H, W) in [0, 1]; it is rounded to 8 bits first.
        uniform: (C, H, W) float64 in [0, 1).
    """
    level = (signal.clamp(0, 1) * 255).round().long()
    levels = int(torch.bincount(level.flatten(), minlength=256).count_nonzero())
    peak = 2 ** math.ceil(math.log2(levels))
    cdf = _poisson_cdf(peak).to(signal.device)
    # One search for all levels: row n holds n + CDF, so the rows one after another are sorted.
    found = torch.searchsorted(cdf.flatten(), level + uniform)
    count = (found - level * cdf.shape[1]).clamp(min=0)
    noise: Tensor = count / peak - level / 255
    return noise.to(signal.dtype)


@cache
def _poisson_cdf(peak: int) -> Tensor:
    """(256, K) float64: row n is n + P(count <= 0, 1, .. K-1) for the mean n / 255 * peak."""
    level = torch.arange(256, dtype=torch.float64).unsqueeze(1)
    # No count is more than ten standard deviations above the largest mean.
    count = torch.arange(peak + 10 * math.ceil(math.sqrt(peak)) + 10, dtype=torch.float64)
    rows: Tensor = level + torch.special.gammaincc(count + 1, level / 255 * peak)
    return rows


# ITU-T T.81, tables K.1 and K.2, for quality 50.
LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *4 * ((99,) * 8,),
)
# JFIF: RGB -> luma and the two colour differences.
YCBCR = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


def jpeg(image: Tensor, quality: float) -> Tensor:
    """What JPEG with 4:2:0 chroma makes of (C = 3, H, W) in [0, 1]: the same shape, in [0, 1].

    The tables are libjpeg's for `quality` in [1, 100], which need not be whole. kornia's codec is not used: it rounds
    the coefficients softly, to be differentiable, and so spares the image. On 256-pixel crops of three scikit-image
    photos at qualities 30 to 95, kornia's results are 0.3 to 0.9 dB closer to the original than libjpeg's, these 0 to
    0.3 dB; the PSNR against libjpeg's results is 40.5 to 47.3 dB with kornia, 45.0 to 49.1 dB here.
    """
    # In float64, so that matrix products are never rounded to TF32.
    height, width = image.shape[-2:]
    padded = F.pad(image.double() * 255, (0, -width % 16, 0, -height % 16), mode="replicate")
    to_ycbcr = padded.new_tensor(YCBCR)
    # Eight bits a plane, as an encoder has them.
    ycbcr = torch.einsum("oc,chw->ohw", to_ycbcr, padded).round()
    luma = _quantize_blocks(ycbcr[:1] - 128, LUMA, quality) + 128
    chroma = _quantize_blocks(F.avg_pool2d(ycbcr[1:], 2), CHROMA, quality)
    # libjpeg too enlarges the chroma linearly.
    chroma = F.interpolate(chroma.unsqueeze(0), scale_factor=2, mode="bilinear").squeeze(0)
    rgb = torch.einsum("oc,chw->ohw", torch.linalg.inv(to_ycbcr), torch.cat([luma, chroma]))
    return (rgb[:, :height, :width] / 255).clamp(0, 1).to(image.dtype)


def _quantize_blocks(planes: Tensor, table: Sequence[Sequence[int]], quality: float) -> Tensor:
    """Round the 8x8 blocks' cosine coefficients of (C, H, W) to multiples of the table at this quality."""
    percent = 5000 / quality if quality < 50 else 200 - 2 * quality
    steps = ((planes.new_tensor(table) * percent + 50) / 100).floor().clamp(1, 255)
    frequency, place = torch.meshgrid(*2 * [torch.arange(8).to(planes)], indexing="ij")
    dct = torch.cos(math.pi / 8 * frequency * (place + 0.5)) / 2
    dct[0] /= math.sqrt(2)
    channels, height, width = planes.shape
    blocks = planes.reshape(channels, height // 8, 8, width // 8, 8).transpose(2, 3)
    coefficients = ((dct @ blocks @ dct.T) / steps).round() * steps
    return (dct.T @ coefficients @ dct).transpose(2, 3).reshape(channels, height, width)


class RealESRGAN:
    """The two-order degradation: each order blurs, resizes, adds noise and compresses; then a sinc filter.

    The second order's JPEG comes before or after the last resize and sinc filter, with equal chances.

    Every sample of a batch draws all its parameters from its own generator. Real-ESRGAN's training draws its resize
    factors and its kind of noise once for a batch, and keeps a pool of earlier pairs to mix batches from; a batch here
    has that variety without a pool.

    Two things are the published training's own, and not done here. It sharpens the targets (unsharp masking) before it
    degrades them and for its L1 and perceptual losses. And it degrades crops of 400 pixels and keeps 256 of them, so
    the JPEG blocks start anywhere in a crop; here they start in its corner, as in a whole image.
    """

    on_device = True

    def __init__(
        self,
        scale: int = 4,
        first: Order | None = None,
        second: Order | None = None,
        last_sinc_prob: float = 0.8,
        last_kernel_size: tuple[int, int] = (7, 21),
        last_cutoff: tuple[float, float] = (math.pi / 3, math.pi),
        jpeg_last_prob: float = 0.5,
    ) -> None:
        """Store the distribution.

        Args:
            scale: how many times smaller the input is, per side.
            first: distribution of the first order; None is the published one.
            second: distribution of the second order; None is the published one. Its resize factors are relative
                to the input's size, not to what the first order left.
            last_sinc_prob: chance of the last sinc filter.
            last_kernel_size: range of its side, both ends odd.
            last_cutoff: range of its cut-off in radians per pixel.
            jpeg_last_prob: chance that the second JPEG comes after the last resize and filter.
        """
        self.scale = scale
        self.first, self.second = first or Order(), second or second_order()
        self.last_sinc_prob, self.last_kernel_size = last_sinc_prob, last_kernel_size
        self.last_cutoff, self.jpeg_last_prob = last_cutoff, jpeg_last_prob

    def draw(self, rng: np.random.Generator) -> Recipe:
        """Draw all that is random in one degradation."""
        first, second = self.first.draw(rng), self.second.draw(rng)
        last_kernel = None
        if rng.random() < self.last_sinc_prob:
            last_kernel = Kernel("sinc", _odd(self.last_kernel_size, rng), cutoff=rng.uniform(*self.last_cutoff))
        return Recipe(first, second, last_kernel, str(rng.choice(MODES)), bool(rng.random() < self.jpeg_last_prob))

    def apply(self, target: Tensor, recipe: Recipe) -> Tensor:
        """(3, H, W) in [0, 1] -> (3, H / scale, W / scale) at multiples of 1/255, on the target's device.

        Deterministic, and without gradients.
        """
        first, second = recipe.first, recipe.second
        height, width = target.shape[-2:]
        small = height // self.scale, width // self.scale
        with torch.no_grad(), torch.autocast(target.device.type, enabled=False):
            # Apple's GPUs lack the float64 that shot noise and JPEG compute in.
            image = target.float().cpu() if target.device.type == "mps" else target.float()
            image = _blurred(image, first.kernel)
            factor = first.factor
            image = resize(image, int(height * factor), int(width * factor), first.mode)
            image = jpeg(add_noise(image, first.noise), first.quality)

            image = _blurred(image, second.kernel)
            factor = second.factor / self.scale
            image = resize(image, int(height * factor), int(width * factor), second.mode)
            image = add_noise(image, second.noise)

            if not recipe.jpeg_last:
                image = jpeg(image, second.quality)
            image = _blurred(resize(image, *small, recipe.last_mode), recipe.last_kernel)
            if recipe.jpeg_last:
                image = jpeg(image.clamp(0, 1), second.quality)
            return quantize(image).to(target.device)

    def __call__(self, target: Tensor, rng: np.random.Generator) -> dict[str, Tensor]:
        """(3, H, W) in [0, 1] -> {"input": (3, H / scale, W / scale) in [0, 1] at multiples of 1/255}."""
        return {"input": self.apply(target, self.draw(rng))}

    def batch(self, target: Tensor, rngs: Sequence[np.random.Generator]) -> dict[str, Tensor]:
        """(B, 3, H, W) and a generator for each -> {"input": (B, 3, H / scale, W / scale)}, each as by `__call__`."""
        return {"input": torch.stack([self(x, rng)["input"] for x, rng in zip(target, rngs, strict=True)])}


def _blurred(image: Tensor, kernel: Kernel | None) -> Tensor:
    return image if kernel is None else convolve(image, kernel_pixels(kernel))
