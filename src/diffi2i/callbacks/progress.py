"""Lightning's progress bar with the time left of the whole run, not of the epoch alone."""

import time
from datetime import timedelta
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar


class Eta:
    """Estimates the time left from the steps made since `start`."""

    def start(self, step: int) -> None:
        self.first, self.since = step, time.monotonic()

    def left(self, step: int, steps: int) -> str:
        """h:mm:ss until `steps` optimiser steps, or `?` before the first step."""
        if step <= self.first:
            return "?"
        seconds = (time.monotonic() - self.since) / (step - self.first) * (steps - step)
        return str(timedelta(seconds=round(seconds)))


class Progress(RichProgressBar):
    """Adds `step` and `eta` of the run to the bar."""

    def __init__(self) -> None:
        super().__init__(leave=False)
        self.run_eta = Eta()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.run_eta.start(trainer.global_step)
        super().on_train_start(trainer, pl_module)

    def _get_train_description(self, current_epoch: int) -> str:
        # The run is bounded by steps, for which Lightning would show "Epoch 1/-2".
        return f"epoch {current_epoch + 1}"

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        metrics = {key: value for key, value in super().get_metrics(trainer, pl_module).items() if key != "v_num"}
        step, steps = trainer.global_step, trainer.max_steps
        return {"step": f"{step}/{steps}", "eta": self.run_eta.left(step, steps), **metrics}
