"""Random numbers that a result may depend on: by seed, image and step, and by nothing else."""

import zlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Noise = Callable[..., Tensor]
"""`noise(shape, what="")`: standard normal (B, *shape) for a batch. `what` it is for, so that draws differ."""


def noise_for(names: Sequence[str], seed: int, device: torch.device) -> Noise:
    """The noise of a prediction: it depends on the seed, each image's name and what it is for.

    So a score depends neither on the order of the images nor on the batch or the number of processes.
    """

    def draw(shape: Sequence[int], what: str = "") -> Tensor:
        label = f"{seed}, {what}" if what else f"{seed}"
        seeds = [zlib.crc32(f"{label}:{name}".encode()) for name in names]
        rows = [torch.randn(*shape, generator=torch.Generator().manual_seed(each)) for each in seeds]
        return torch.stack(rows).to(device)

    return draw


def step_generator(seed: int | str, step: int, part: int) -> torch.Generator:
    """The random numbers of one batch, part of an optimiser step: a resumed run draws the same ones."""
    return torch.Generator().manual_seed(zlib.crc32(f"{seed}:{step}:{part}".encode()))
