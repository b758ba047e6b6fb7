"""Counts what the targets of a validation hold: the range of depths, or the share of each class."""

from typing import Any

import lightning as L

from diffi2i.build import build
from diffi2i.data.seen import DepthSeen, LabelsSeen, new_seen, suspicious, unit_of
from diffi2i.methods.batch import Batch
from diffi2i.runtime import of_all_ranks
from diffi2i.schema import Config


class TargetsSeen(L.Callback):
    """Leaves the lines to print in `lines` once a validation has ended; none for images.

    Collective under DDP: each rank counts its share.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.lines: list[str] = []
        self.seen = new_seen(config.task.kind, config.task.classes)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        # A rank with fewer images than the others goes through one more that does not count.
        if self.seen is not None and batch_idx < len(trainer.datamodule.val_share):  # type: ignore[attr-defined]
            self.seen.add(batch["target"].cpu().numpy())

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.seen is None:
            return
        whole = new_seen(self.config.task.kind, self.config.task.classes)
        assert isinstance(whole, DepthSeen | LabelsSeen)
        share: Any
        for share in of_all_ranks(self.seen):
            whole.merge(share)
        self.lines = [f"targets of {self.config.dataset.name}, {line}" for line in whole.lines()]
        if isinstance(whole, DepthSeen):
            reader = build(self.config.dataset.target or {}, "dataset.target")
            unit = unit_of(reader, [item.target for item in trainer.datamodule.val_items])  # type: ignore[attr-defined]
            odd = suspicious(whole, self.config.task.protocol, unit, "dataset.target.unit")
            self.lines += [odd] if odd else []
