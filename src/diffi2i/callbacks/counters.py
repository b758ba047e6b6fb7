"""Lightning's counters after a restart, and where the method itself accumulates gradients."""

from typing import Any

import lightning as L


class Counters(L.Callback):
    """Sets Lightning's counts of epochs, batches and logged steps to what the optimiser steps say.

    Its checkpoints are written while an epoch ends, before these counts are. After a restart they would be one ahead,
    so that curves shift and validation falls on other steps; and after an epoch without a validation the next one would
    end with its first batch, in the midst of what accumulates. With manual optimisation they would count batches, not
    steps, and each batch of a step would have a row of its own. An epoch is `epoch_steps` steps of `micro_batches`.
    """

    def __init__(self, epoch_steps: int, micro_batches: int) -> None:
        self.epoch_steps, self.micro_batches = epoch_steps, micro_batches

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        loops = checkpoint["loops"]["fit_loop"]
        epochs, steps = divmod(checkpoint["global_step"], self.epoch_steps)
        set_progress(loops["epoch_progress"], epochs)
        for name, batches in (("batch_progress", steps * self.micro_batches), ("val_loop.batch_progress", 0)):
            set_progress(loops[f"epoch_loop.{name}"], batches)
            loops[f"epoch_loop.{name}"]["is_last_batch"] = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.log_every = trainer.log_every_n_steps  # type: ignore[attr-defined]

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        trainer.fit_loop.epoch_progress.current.completed = trainer.global_step // self.epoch_steps
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step
        steps = pl_module.automatic_optimization or (batch_idx + 1) % self.micro_batches == 0
        trainer.log_every_n_steps = self.log_every if steps else 0  # type: ignore[attr-defined]  # 0: nothing is logged


def set_progress(progress: dict[str, Any], count: int) -> None:
    """As after so many epochs or batches, each of them finished."""
    for part in ("total", "current"):
        progress[part] = dict.fromkeys(progress[part], count)
