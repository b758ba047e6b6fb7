"""From a clean target to the network's input. Each degradation is one callable that Hydra builds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from diffi2i.config.build import build
from diffi2i.config.schema import TaskConfig
from diffi2i.data.blur import convolve
from diffi2i.data.masks import FreeFormMask, Mask
from diffi2i.data.realesrgan import Kernel, kernel_pixels
from diffi2i.data.resize import imresize, quantize
from diffi2i.errors import UserError


class Degradation(Protocol):
    """`degrade(target, rng)` returns the sample's `input` and whatever else it made (`mask`).

    The target is (3, H, W) float in [0, 1] whose sides are multiples of `scale`.
    """

    @property
    def scale(self) -> int:
        """How many times larger the target is than the input, per side."""

    def __call__(self, target: Tensor, rng: np.random.Generator) -> dict[str, Tensor]: ...


def has_holes(task: TaskConfig) -> bool:
    """Whether the task's inputs come with a `mask`, as a degradation says whose `holes` is True."""
    return task.degrade is not None and bool(getattr(build(task.degrade, "task.degrade"), "holes", False))


@dataclass(frozen=True)
class Bicubic:
    """MATLAB's antialiased bicubic shrinking, rounded to 8 bits as the benchmarks' LR files are."""

    scale: int

    def __call__(self, target: Tensor, rng: np.random.Generator) -> dict[str, Tensor]:
        """(3, H, W) in [0, 1] -> {"input": (3, H / scale, W / scale) in [0, 1] at multiples of 1/255}.

        Raises:
            ValueError: a side is not a multiple of `scale`.
        """
        return {"input": quantize(imresize(target, 1 / self.scale))}


class BlurredBicubic:
    """An unknown isotropic Gaussian blur, then `Bicubic`: blind super-resolution.

    diffi2i train task=sisr task.degrade._target_=diffi2i.data.degrade.BlurredBicubic
    """

    def __init__(self, scale: int, sigma: tuple[float, float] = (0.2, 6.0)) -> None:
        """`sigma`: range of the blur's standard deviation in target pixels, drawn from uniformly.

        Raises:
            ValueError: it is no range above 0.
        """
        if not isinstance(sigma, Sequence) or len(sigma) != 2 or not 0 < sigma[0] <= sigma[1] <= 100:
            raise ValueError(f"sigma={sigma} is no range of blurs in pixels: write sigma=[0.2,6.0]")
        self.scale, self.sigma = scale, sigma

    def __call__(self, target: Tensor, rng: np.random.Generator) -> dict[str, Tensor]:
        """(3, H, W) in [0, 1] -> {"input": (3, H / scale, W / scale) in [0, 1] at multiples of 1/255}.

        The kernel reaches 4 sigma. Borders are mirrored ("reflect"), and mirrored again where the kernel is larger than
        the image.

        Raises:
            ValueError: a side is not a multiple of `scale`.
        """
        sigma = rng.uniform(*self.sigma)
        kernel = kernel_pixels(Kernel("iso", 2 * math.ceil(4 * sigma) + 1, (sigma, sigma)))
        return {"input": quantize(imresize(convolve(target, kernel), 1 / self.scale))}


@dataclass(frozen=True)
class Tone:
    """An unknown tone of the whole image: exposure, white balance and gamma, rounded to 8 bits.

    With light = pixel ** 2.2, the input is clip(2 ** s * light) ** (2 ** g / 2.2), where s is the exposure for green,
    exposure + red for red, exposure + blue for blue. Each of the four numbers is drawn uniformly from a range around 0:

        diffi2i train task=deblur ~task.degrade.length task.degrade._target_=diffi2i.data.degrade.Tone
        diffi2i train task=sisr task.scale=1 task.degrade._target_=diffi2i.data.degrade.Tone

    Any photos are its targets; `+task.degrade.exposure=2.0` widens a range. A row of
    `experiments/`, which can take no key away, sets `task.scale` to 1 as in the second.

    Args:
        exposure: in stops: of s from -exposure to exposure.
        balance: in stops: of red and of blue, each by itself.
        gamma: in powers of 2: of g.
        opposite: one of two tones with equal chances in place of the ranges: their ends at which the image is brighter
            (s up, g down) and warmer (red up, blue down), or the opposite ends. So an input has two likely targets.

    Raises:
        ValueError: a range beyond what photos survive, or another scale than 1.
    """

    scale: int = 1
    exposure: float = 1.0
    balance: float = 0.5
    gamma: float = 0.5
    opposite: bool = False

    def __post_init__(self) -> None:
        if self.scale != 1:
            raise ValueError(f"scale={self.scale}: a tone keeps the size, write task.scale=1")
        for key in ("exposure", "balance", "gamma"):
            value = getattr(self, key)
            if not isinstance(value, int | float) or not 0 <= value <= 4:
                raise ValueError(f"{key}={value} is a range's half in powers of 2, from 0 to 4: write {key}=0.5")
        if not isinstance(self.opposite, bool):
            raise ValueError(f"opposite={self.opposite}: write opposite=true or leave it out")

    def __call__(self, target: Tensor, rng: np.random.Generator) -> dict[str, Tensor]:
        """(3, H, W) in [0, 1] -> {"input": (3, H, W) in [0, 1] at multiples of 1/255}."""
        ranges = np.array([self.exposure, self.balance, self.balance, self.gamma])
        places = rng.choice([-1, 1]) * np.array([1, 1, -1, -1]) if self.opposite else rng.uniform(-1, 1, 4)
        exposure, red, blue, gamma = (places * ranges).tolist()
        gains = 2.0 ** torch.tensor([exposure + red, exposure, exposure + blue])[:, None, None]
        return {"input": quantize((gains * target**2.2).clamp(0, 1) ** (2**gamma / 2.2))}


class Inpaint:
    """Cut a random hole: the input is black inside it."""

    scale = 1
    holes = True

    def __init__(self, mask: FreeFormMask | Sequence[FreeFormMask]) -> None:
        """`mask`: the distribution of holes, or several, of which each call picks one at random."""
        self.masks = [mask] if isinstance(mask, FreeFormMask) else list(mask)

    def __call__(self, target: Tensor, rng: np.random.Generator) -> dict[str, Tensor]:
        """(3, H, W) in [0, 1] -> {"input": (3, H, W) in [0, 1], "mask": (1, H, W) of {0, 1}, 1 = hole}."""
        height, width = target.shape[-2:]
        return cut(target, self.hole(height, width, rng))

    def hole(self, height: int, width: int, rng: np.random.Generator) -> Mask:
        """A mask of this size: (height, width) uint8, 1 = hole."""
        return self.masks[int(rng.integers(len(self.masks)))](height, width, rng)


def cut(target: Tensor, hole: Mask) -> dict[str, Tensor]:
    """The sample of (3, H, W) with this hole, (H, W) of {0, 1}: see `Inpaint`."""
    mask = torch.from_numpy(hole).float().unsqueeze(0)
    return {"input": target * (1 - mask), "mask": mask}


@dataclass(frozen=True)
class Recorded:
    """No degradation: the input was recorded (motion blur, a real camera), so the data must be pairs."""

    scale: int = 1

    def __call__(self, target: Tensor, rng: np.random.Generator) -> dict[str, Tensor]:
        """Raises UserError: only unpaired data gets here."""
        raise UserError(
            "this task's input is recorded, not made from the target: write dataset=pairs with a root "
            "that holds input/ and target/"
        )
