"""What both stages share: the network's input, the seeded noise, the optimiser and its schedule."""

import math
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from hydra.utils import instantiate
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from diffi2i.models.fill import pull_push
from diffi2i.schema import Config, TrainConfig

Batch = dict[str, Any]


def network_input(batch: Batch, fill: str = "black") -> Tensor:
    """The input image with its mask, where there is one, as a fourth channel: (B, 3 or 4, H, W).

    With `fill` "smooth" the network starts from `pull_push` inside the hole, not from black.
    """
    image: Tensor = batch["input"]
    if "mask" in batch:
        known = pull_push(image, batch["mask"]) if fill == "smooth" else image
        image = torch.cat([known, batch["mask"]], dim=1)
    return image.contiguous(memory_format=torch.channels_last)


def with_known_pixels(output: Tensor, batch: Batch) -> Tensor:
    """The output, where there is a mask with the known pixels put back in place: what is shown and scored."""
    if "mask" not in batch:
        return output
    return torch.where(batch["mask"] > 0, output, batch["input"])


def noise_for(names: Sequence[str], seed: int | str, dim: int, device: torch.device) -> Tensor:
    """Standard normal (B, dim) that depends on the seed and each image's name alone.

    So a score depends neither on the order of the images nor on the batch or the number of processes.
    """
    rows = []
    for name in names:
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}:{name}".encode()))
        rows.append(torch.randn(dim, generator=generator))
    return torch.stack(rows).to(device)


def step_generator(seed: int | str, step: int, part: int) -> torch.Generator:
    """The random numbers of one batch, part of an optimiser step: a resumed run draws the same ones."""
    return torch.Generator().manual_seed(zlib.crc32(f"{seed}:{step}:{part}".encode()))


def rate_factor(step: int, train: TrainConfig) -> float:
    """Learning rate at optimiser step `step` over the peak rate: linear warm-up, then the schedule."""
    warmup = int(train.warmup * train.steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = min(1.0, (step - warmup) / max(1, train.steps - warmup))
    if train.schedule == "constant":
        return 1.0
    if train.schedule == "multistep":
        # Whole steps, as torch's MultiStepLR takes them: in floats a fraction of the steps may be a little off.
        return float(train.gamma ** sum(step >= round(milestone * train.steps) for milestone in train.milestones))
    falling = 1 - progress if train.schedule == "poly" else 0.5 * (1 + math.cos(math.pi * progress))
    return train.lr_end + (1 - train.lr_end) * falling


def optimisation(
    parameters: Iterable[nn.Parameter] | list[dict[str, Any]], config: Config, lr_factor: float = 1.0
) -> dict[str, Any]:
    """The task's optimiser (a Hydra partial) with the schedule, stepped once per optimiser step.

    `parameters` may come in groups, see `stages.groups`: the schedule acts on each group's own rate.
    """
    optimizer = instantiate(config.task.optimizer)(parameters)
    scheduler = LambdaLR(optimizer, lambda step: lr_factor * rate_factor(step, config.train))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
