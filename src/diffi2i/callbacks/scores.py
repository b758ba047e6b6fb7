"""Scores the validation images, and by how much they are better than under a method's probes."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import lightning as L
import torch

from diffi2i.callbacks.panels import Pictures
from diffi2i.config.schema import TaskConfig
from diffi2i.data.manifest import combined_hash
from diffi2i.data.resize import to_uint8
from diffi2i.kinds.kind import Scores, kind_of
from diffi2i.kinds.spec import KINDS
from diffi2i.methods.batch import Batch
from diffi2i.metrics.intervals import ImageRecord, image_intervals, of_all_ranks
from diffi2i.metrics.spec import METRICS
from diffi2i.run.record import Score


def as_scores(
    sheet: Scores,
    values: Mapping[str, float | None],
    images: Sequence[ImageRecord],
    baseline: Mapping[str, float | None],
) -> dict[str, Score]:
    """What a record says of each score of a filled sheet.

    `values` are the sheet's own, `images` its records of all ranks, `baseline` the values of the naive output's sheet.
    Collective under DDP.
    """
    counts = sheet.counts()
    intervals, without = image_intervals(images, [key for key, count in counts.items() if count])
    reasons = sheet.reasons() | without
    scores = {}
    for key, value in values.items():
        low, high = intervals.get(key, (None, None))
        scores[key] = Score(value, counts[key], low, high, baseline.get(key), why_not=reasons.get(key))
    return scores


class ValidationScores(L.Callback):
    """Fills a score sheet from what a method's `validation_step` returns, and logs it as `val/<dataset>/<key>`.

    Args:
        task: the protocol, the scale and the main metric.
        dataset: its name, for the log.
        pictures: where to put the images of a final evaluation; with it the baseline is scored too. None in
            training.
        constant: see `Kind.naive`. Without one labels and depth have no baseline.
        statistics: see `DistributionScores`.

    Attributes:
        values: all scores, once an epoch has ended; None where one does not apply.
        gains: by how much the main one is better than under each of the method's probes.
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
        self.kind = kind_of(task)
        self.values: dict[str, float | None] = {}
        self.gains: dict[str, float] = {}
        # A network's score costs more than restoring the image: the final evaluation has it, unless it is what counts.
        kept = [metric for metric in task.protocol.metrics if METRICS[metric].cheap or metric == task.main_metric]
        during = replace(task.protocol, metrics=kept)
        self.own = self.kind.sheet(task, task.protocol if pictures else during, statistics)
        self.during, self.probes = during, dict[str, Scores]()
        known = constant is not None or not KINDS[task.kind].dense
        self.baseline = self.kind.sheet(task, task.protocol, statistics) if pictures and known else None
        self.pictures = Pictures(pictures) if pictures else None
        self.inputs: list[dict[str, str | float]] = []

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.inputs = []
        self.probes = {}
        for scores in (self.own, *([self.baseline] if self.baseline else [])):
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
        probes = [name for name in outputs if name != "output"]
        for name in probes:  # also on a rank without images: their scores, too, are collective
            if name not in self.probes:
                self.probes[name] = self.kind.sheet(self.task, self.during)
                self.probes[name].to(pl_module.device)
        if batch_idx >= len(trainer.datamodule.val_share):  # type: ignore[attr-defined]
            return
        target, names, mask = batch["target"], batch["name"], batch.get("mask", batch.get("valid"))
        output = self.kind.final(outputs["output"], batch)
        self.own.update(output, target, names=names, mask=mask)
        for name in probes:
            probe = self.kind.final(outputs[name], batch)
            self.probes[name].update(probe, target, names=names, mask=mask)
        if self.baseline:
            naive = self.kind.naive(batch, self.task, self.constant)
            self.baseline.update(naive, target, names=names, mask=mask)
        if self.pictures:
            self.inputs += [{"name": name, "sha256": input_hash(batch, i)} for i, name in enumerate(names)]
            if self.pictures.wanted:
                self.pictures.add(names[0], *self.kind.pictures(output, batch, self.task))

    def inputs_hash(self) -> str:
        """Sha256 (hex) of what the networks were given, masks included, over all ranks. Collective under DDP."""
        every = of_all_ranks(self.inputs)
        return combined_hash((str(entry["name"]), "input", str(entry["sha256"])) for entry in every)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.values = self.own.compute()
        self.gains = self.compute_gains()
        for key, value in {**self.values, **self.gains}.items():
            if value is not None:
                # All ranks have the same value, and ModelCheckpoint looks for it on each.
                pl_module.log(f"val/{self.dataset}/{key}", torch.tensor(value, dtype=torch.float32))
        if trainer.is_global_zero and self.pictures is None:
            main = self.task.main_metric
            scores = {main: self.values.get(main), **self.gains}
            words = ", ".join(f"{key} {shown(value)}" for key, value in scores.items())
            print(f"step {trainer.global_step}: {words}", flush=True)

    def compute_gains(self) -> dict[str, float]:
        """By how much the main metric is better than each probe's, where both have it. Collective under DDP."""
        main = self.task.main_metric
        own, sign = self.values.get(main), -1 if METRICS[main].lower else 1
        probes = {name: sheet.compute().get(main) for name, sheet in self.probes.items()}
        return {name: sign * (own - value) for name, value in probes.items() if own is not None and value is not None}


def input_hash(batch: Batch, index: int) -> str:
    """Sha256 (hex) of one input, rounded to 8 bits as its file would be, and of its mask where it has one."""
    digest = sha256()
    for key in ("input", "mask"):
        if key in batch:
            digest.update(to_uint8(batch[key][index].float()).cpu().numpy().tobytes())
    return digest.hexdigest()


def shown(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"
