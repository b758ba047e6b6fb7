"""Stops a run whose loss, or whose predictions, are no numbers any more."""

from typing import Any

import lightning as L
import torch

from diffi2i.errors import UserError

ADVICE = (
    "give the command again with a lower train.lr or train.clip, to go on from the last checkpoint, or where that is "
    "too late name another run_dir"
)


class StopOnNonFinite(L.Callback):
    """Raises `UserError` at the first loss or prediction that is NaN or infinite, before it can reach a checkpoint."""

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not torch.isfinite(outputs["loss"]):
            names = ", ".join(sorted(set(batch["name"])))
            raise UserError(
                f"the loss is {float(outputs['loss'])} at step {trainer.global_step} (images: {names}): check these; "
                f"or {ADVICE}"
            )

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not torch.isfinite(outputs["output"]).all():
            raise UserError(
                f"the prediction for {batch['name'][0]} has NaN or infinite values after step {trainer.global_step}: "
                f"{ADVICE}"
            )
