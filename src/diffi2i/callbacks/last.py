"""The checkpoint that an interrupted training goes on from."""

from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from diffi2i.callbacks.guard import FiniteSteps
from diffi2i.run.state import checkpoints_of


class LastCheckpoint(Checkpoint):
    """Writes it after each epoch, but for those that end in steps that were skipped: their weights may be to blame."""

    def __init__(self, run_dir: Path, finite: FiniteSteps) -> None:
        self.file, self.finite = checkpoints_of(run_dir)[0], finite

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.finite.since is None:
            trainer.save_checkpoint(self.file)
