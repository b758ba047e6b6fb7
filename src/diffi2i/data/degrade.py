"""From a clean target to the network's input. Each degradation is one callable that Hydra builds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from diffi2i.config.build import build
from diffi2i.config.schema import TaskConfig
from diffi2i.data.masks import FreeFormMask, Mask
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
