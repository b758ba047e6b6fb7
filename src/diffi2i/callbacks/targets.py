"""Counts what the targets of a validation hold, such as the range of depths or the share of each class."""

from typing import Any

import lightning as L

from diffi2i.config.build import build
from diffi2i.config.schema import Config
from diffi2i.data.targets import Target
from diffi2i.methods.batch import Batch
from diffi2i.run.hardware import of_all_ranks


class TargetsSeen(L.Callback):
    """Leaves the lines to print in `lines` once a validation has ended; none for images.

    Collective under DDP: each rank counts its share.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.lines: list[str] = []
        target = config.dataset.target
        self.reader: Target | None = None if target is None else build(target, "dataset.target")
        self.seen = None if self.reader is None else self.reader.seen()

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
        if self.reader is None:
            return
        whole = self.reader.seen()
        for share in of_all_ranks(self.seen):
            whole.merge(share)
        self.lines = [f"targets of {self.config.dataset.name}, {line}" for line in whole.lines()]
        files = [item.target for item in trainer.datamodule.val_items]  # type: ignore[attr-defined]
        odd = self.reader.odd(whole, files, self.config.task.protocol)
        self.lines += [odd] if odd else []
