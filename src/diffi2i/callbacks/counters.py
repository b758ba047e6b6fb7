"""Lightning's counters after a restart."""

from typing import Any

import lightning as L


class Counters(L.Callback):
    """Sets Lightning's counts of epochs and of logged steps to what the optimiser steps say.

    Its checkpoints are written while an epoch ends, before these counts are; after each restart they would be one
    ahead, so that curves shift and validation falls on other steps. With manual optimisation they would count batches,
    not steps. An epoch is `epoch_steps` steps.
    """

    def __init__(self, epoch_steps: int) -> None:
        self.epoch_steps = epoch_steps

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.fit_loop.epoch_progress.current.completed = trainer.global_step // self.epoch_steps

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step
