"""Scores the validation images, and measures whether the network uses its prior."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from diffi2i.callbacks.panels import Pictures
from diffi2i.data.resize import imresize
from diffi2i.metrics.image import ImageScores
from diffi2i.schema import TaskConfig
from diffi2i.stages.common import Batch, with_known_pixels


def naive_output(batch: Batch, scale: int) -> Tensor:
    """The baseline: the input itself, enlarged bicubically where the target is larger."""
    image: Tensor = batch["input"]
    return image if scale == 1 else imresize(image, scale).clamp(0, 1)


class ValidationScores(L.Callback):
    """Fills a score sheet from what the stages' `validation_step` returns, and logs it as `val/<key>`.

    `prior_gain` is the main metric with each image's own Z minus the same with another image's Z: zero means
    that the DI2Iformer ignores its prior.

    Args:
        task: the protocol, the scale and the main metric.
        pictures: where to put the images of a final evaluation; with it the input itself is scored too, as
            `baseline`. None during training.
    """

    def __init__(self, task: TaskConfig, pictures: Path | None = None) -> None:
        self.task = task
        # LPIPS costs more than restoring the image: only the final evaluation scores it.
        without_lpips = replace(task.protocol, lpips=False)
        self.own = ImageScores(task.protocol if pictures else without_lpips)
        self.exchanged = ImageScores(without_lpips)
        self.baseline = ImageScores(task.protocol) if pictures else None
        self.pictures = Pictures(pictures) if pictures else None

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for scores in filter(None, (self.own, self.exchanged, self.baseline)):
            scores.to(pl_module.device)
            scores.reset()

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        target, names, mask = batch["target"], batch["name"], batch.get("mask")
        output = with_known_pixels(outputs["output"], batch)
        self.own.update(output, target, names=names, mask=mask)
        if "exchanged" in outputs:
            exchanged = with_known_pixels(outputs["exchanged"], batch)
            self.exchanged.update(exchanged, target, names=names, mask=mask)
        if self.baseline and self.pictures:
            naive = naive_output(batch, self.task.scale)
            self.baseline.update(naive, target, names=names, mask=mask)
            self.pictures.add(names[0], naive[0], output[0], target[0])

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        values = self.metrics()
        for key, value in values.items():
            if value is not None:
                pl_module.log(f"val/{key}", torch.tensor(value, dtype=torch.float32), rank_zero_only=True)
        if trainer.is_global_zero and self.pictures is None:
            main, gain = (shown(values[key]) for key in (self.task.main_metric, "prior_gain"))
            print(f"step {trainer.global_step}: {self.task.main_metric} {main}, prior_gain {gain}", flush=True)

    def metrics(self) -> dict[str, float | None]:
        """All scores and `prior_gain`; None where one does not apply. Collective under DDP."""
        values: dict[str, float | None] = self.own.compute()
        own, exchanged = values[self.task.main_metric], self.exchanged.compute()[self.task.main_metric]
        return values | {"prior_gain": None if own is None or exchanged is None else own - exchanged}


def shown(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"
