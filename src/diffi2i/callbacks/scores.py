"""Scores the validation images, and measures whether the network uses its prior."""

from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor

from diffi2i.callbacks.colours import colour_depth, colour_labels
from diffi2i.callbacks.panels import Pictures
from diffi2i.data.manifest import combined_hash
from diffi2i.data.resize import imresize, to_uint8
from diffi2i.methods.batch import Batch, with_known_pixels
from diffi2i.metrics.depth import DepthScores
from diffi2i.metrics.image import ImageScores
from diffi2i.metrics.intervals import of_all_ranks
from diffi2i.metrics.segmentation import SegmentationScores
from diffi2i.metrics.spec import METRICS
from diffi2i.schema import ProtocolConfig, TaskConfig

Scores = ImageScores | SegmentationScores | DepthScores


def new_scores(task: TaskConfig, protocol: ProtocolConfig, statistics: Path | None = None) -> Scores:
    """An empty score sheet for what the task predicts; `statistics` as for `DistributionScores`."""
    if task.kind == "labels":
        assert task.classes is not None
        return SegmentationScores(task.classes)
    if task.kind == "depth":
        return DepthScores(protocol.min_depth, protocol.max_depth, protocol.crop)
    return ImageScores(protocol, statistics)


def naive_output(batch: Batch, task: TaskConfig, constant: float | None) -> Tensor:
    """The baseline: for images the input itself, enlarged bicubically where the target is larger.

    For labels and depth it is a `constant`: the training set's most frequent class, as logits, or its mean depth.
    """
    if task.kind == "image":
        image: Tensor = batch["input"]
        return image if task.scale == 1 else imresize(image, task.scale).clamp(0, 1)
    assert constant is not None
    assert task.classes is not None or task.kind == "depth"
    if task.kind == "labels":
        labels = torch.full_like(batch["target"], int(constant))
        return F.one_hot(labels, task.classes or -1).movedim(-1, 1).float()
    return torch.full_like(batch["target"], constant)


class ValidationScores(L.Callback):
    """Fills a score sheet from what a method's `validation_step` returns, and logs it as `val/<dataset>/<key>`.

    `prior_dependence` is how much better the main metric is with each image's own Z than with another image's: zero
    means that the network ignores its prior. What the prior is worth is another thing; see `tables.worth`.

    Args:
        task: the protocol, the scale and the main metric.
        dataset: its name, for the log.
        pictures: where to put the images of a final evaluation; with it the baseline is scored too (see
            `naive_output`). None during training.
        constant: the baseline of labels and depth.
        statistics: see `DistributionScores`.

    Attributes:
        values: all scores and `prior_dependence`, once an epoch has ended; None where one does not apply.
    """

    def __init__(
        self,
        task: TaskConfig,
        dataset: str,
        pictures: Path | None = None,
        constant: float | None = None,
        statistics: Path | None = None,
    ) -> None:
        self.task, self.dataset, self.constant = task, dataset, constant
        self.values: dict[str, float | None] = {}
        # A network's score costs more than restoring the image: the final evaluation has it, unless it is what counts.
        kept = [metric for metric in task.protocol.metrics if METRICS[metric].cheap or metric == task.main_metric]
        during = replace(task.protocol, metrics=kept)
        self.own = new_scores(task, task.protocol if pictures else during, statistics)
        self.exchanged = new_scores(task, during)
        self.baseline = new_scores(task, task.protocol, statistics) if pictures else None
        self.pictures = Pictures(pictures) if pictures else None
        self.inputs: list[dict[str, str | float]] = []

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.inputs = []
        for scores in (self.own, self.exchanged, *([self.baseline] if self.baseline else [])):
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
        if batch_idx >= len(trainer.datamodule.val_share):  # type: ignore[attr-defined]
            return
        target, names, mask = batch["target"], batch["name"], batch.get("mask", batch.get("valid"))
        output = self.within_range(with_known_pixels(outputs["output"], batch))
        self.own.update(output, target, names=names, mask=mask)
        if "exchanged" in outputs:
            exchanged = self.within_range(with_known_pixels(outputs["exchanged"], batch))
            self.exchanged.update(exchanged, target, names=names, mask=mask)
        if self.baseline and self.pictures:
            self.inputs += [{"name": name, "sha256": input_hash(batch, i)} for i, name in enumerate(names)]
            naive = naive_output(batch, self.task, self.constant)
            self.baseline.update(naive, target, names=names, mask=mask)
            if self.pictures.wanted:
                self.pictures.add(names[0], *self.shown(batch, naive, output))

    def inputs_hash(self) -> str:
        """Sha256 (hex) of what the networks were given, masks included, over all ranks. Collective under DDP."""
        every = of_all_ranks(self.inputs)
        return combined_hash((str(entry["name"]), "input", str(entry["sha256"])) for entry in every)

    def within_range(self, output: Tensor) -> Tensor:
        """Images as they would be saved: a network that has hardly trained may leave [0, 1] by far."""
        return output.clamp(0, 1) if self.task.kind == "image" else output

    def shown(self, batch: Batch, naive: Tensor, output: Tensor) -> list[Tensor]:
        """Input, output, target and error of the batch's first image, each (3, H, W) in [0, 1]."""
        target = batch["target"][0]
        if self.task.kind == "image":
            return [naive[0], output[0], target, 4 * (output[0].float().clamp(0, 1) - target).abs()]
        size = target.shape[-2:]
        image, output = (
            F.interpolate(x[:1].float(), size, mode="bilinear", align_corners=False)[0]
            for x in (batch["input"], output)
        )
        if self.task.kind == "labels":
            labels = output.argmax(0)
            wrong = (labels != target) & (target != 255)
            return [image, colour_labels(labels), colour_labels(target), wrong.float().expand(3, -1, -1)]
        valid = batch["valid"][0]
        near, far = (float(target[target > 0].quantile(q)) if valid.any() else q for q in (0.0, 1.0))
        far = max(far, near + 1e-3)
        error = valid * (output - target).abs() / target.clamp(min=1e-3)
        colours = [colour_depth(depth, near, far) for depth in (output.clamp(min=1e-3), target)]
        return [image, *colours, (4 * error).expand(3, -1, -1)]

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.values = values = self.metrics()
        for key, value in values.items():
            if value is not None:
                # All ranks have the same value, and ModelCheckpoint looks for it on each.
                pl_module.log(f"val/{self.dataset}/{key}", torch.tensor(value, dtype=torch.float32))
        if trainer.is_global_zero and self.pictures is None:
            main, gain = (shown(values.get(key)) for key in (self.task.main_metric, "prior_dependence"))
            print(f"step {trainer.global_step}: {self.task.main_metric} {main}, prior_dependence {gain}", flush=True)

    def metrics(self) -> dict[str, float | None]:
        """All scores and `prior_dependence`; None where one does not apply. Collective under DDP."""
        main = self.task.main_metric
        values: dict[str, float | None] = self.own.compute()
        own, exchanged = values.get(main), self.exchanged.compute().get(main)
        gain = None
        if own is not None and exchanged is not None:
            gain = exchanged - own if METRICS[main].lower else own - exchanged
        return values | {"prior_dependence": gain}


def input_hash(batch: Batch, index: int) -> str:
    """Sha256 (hex) of one input, rounded to 8 bits as its file would be, and of its mask where it has one."""
    digest = sha256()
    for key in ("input", "mask"):
        if key in batch:
            digest.update(to_uint8(batch[key][index].float()).cpu().numpy().tobytes())
    return digest.hexdigest()


def shown(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"
