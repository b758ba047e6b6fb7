"""An image (B, 3, H, W), RGB in [0, 1], `task.scale` times as large as the input: restoration."""

from collections.abc import Mapping, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from diffi2i.config.build import build
from diffi2i.config.commands import ScoreConfig
from diffi2i.config.schema import Config, ProtocolConfig, TaskConfig
from diffi2i.data.dataset import Augment, EvalImages, TrainImages, check_image, degrade_batch, degrades_on_device
from diffi2i.data.images import IMAGE_SUFFIXES, as_picture, read_image, require_equal_sizes
from diffi2i.data.photos import read_photo
from diffi2i.data.resize import enlarge
from diffi2i.data.skip import OnError
from diffi2i.data.sources import Item
from diffi2i.errors import UserError
from diffi2i.kinds.kind import Pairs, mean
from diffi2i.metrics.image import ImageScores

suffixes = IMAGE_SUFFIXES
average = mean
shown = read_photo


def samples(config: Config) -> dict[str, Any]:
    """Crops, degraded, or with their recorded input."""
    assert config.task.degrade is not None
    degrade = build(config.task.degrade, "task.degrade")
    train_degrade = build(config.train.degrade, "train.degrade") if config.train.degrade else degrade
    if train_degrade.scale != degrade.scale:
        raise UserError(
            f"train.degrade works at scale {train_degrade.scale}, task.degrade at {degrade.scale}: write the same"
        )
    seed, on_error = config.seed, cast(OnError, config.dataset.on_error)
    augment = cast(Augment, config.dataset.augment)
    on_device = partial(degrade_batch, degrade=train_degrade, seed=seed) if degrades_on_device(train_degrade) else None
    return {
        "train_samples": partial(
            TrainImages,
            degrade=train_degrade,
            seed=seed,
            augment=augment,
            on_error=on_error,
            context=config.train.context,
        ),
        "val_samples": partial(
            EvalImages,
            degrade=degrade,
            seed=config.task.protocol.seed,
            partner=True,
            crop=config.train.val_crop,
            crops=config.train.val_crops,
        ),
        "check_item": partial(check_image, degrade=degrade),
        "on_device": on_device,
    }


def check_targets(items: Sequence[Item], config: Config) -> None:
    """A photo can be nothing else."""


def constant(items: Sequence[Item], config: Config) -> None:
    """None: the input itself is the baseline."""


def naive(batch: Mapping[str, Any], task: TaskConfig, constant: float | None) -> Tensor:
    """The input itself, enlarged bicubically where the target is larger."""
    return enlarge(batch["input"], task.scale)


def final(output: Tensor, batch: Mapping[str, Any]) -> Tensor:
    """Where there is a mask, with the known pixels put back in place.

    Within [0, 1], which a network that has hardly trained may leave by far.
    """
    if "mask" in batch:
        output = torch.where(batch["mask"] > 0, output, batch["input"])
    return output.clamp(0, 1)


def sheet(task: TaskConfig, protocol: ProtocolConfig, statistics: Path | None = None) -> ImageScores:
    return ImageScores(protocol, statistics)


def pictures(output: Tensor, batch: Mapping[str, Any], task: TaskConfig) -> list[Tensor]:
    """The input enlarged; the error is 4 times the absolute difference."""
    target = batch["target"][0]
    return [naive(batch, task, None)[0], output[0], target, 4 * (output[0].float().clamp(0, 1) - target).abs()]


def values(output: Tensor, size: Sequence[int]) -> Tensor:
    """Colours in [0, 1], float32 (3, H, W), as large as the output."""
    return output.float().cpu()


def save(output: Tensor, size: Sequence[int], file: Path | BytesIO) -> None:
    """An 8-bit RGB picture, as large as the output."""
    as_picture(output).save(file, "PNG")


def pairs(config: ScoreConfig, targets: Sequence[Path]) -> Pairs:
    def read(pred_file: Path, target_file: Path) -> tuple[Tensor, dict[str, Tensor]]:
        pred, target = read_image(pred_file), read_image(target_file)
        require_equal_sizes(pred_file, pred, f"target {target_file}", target)
        return pred, {"target": target}

    return Pairs(read)


def random_target(task: TaskConfig, size: int) -> Tensor:
    return torch.rand(1, 3, size, size)
