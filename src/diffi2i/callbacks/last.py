"""The checkpoint that an interrupted training goes on from."""

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from diffi2i.callbacks.guard import FiniteSteps
from diffi2i.run import signals
from diffi2i.run.state import checkpoints_of

REQUEUE, SAVE = signal.SIGUSR1, signal.SIGUSR2
"""What Slurm sends before it takes a machine away (`#SBATCH --signal=USR1@90`); submitit's own, which requeues."""


class LastCheckpoint(Checkpoint):
    """Writes it after each epoch, but for those that end in steps that were skipped: their weights may be to blame.

    Under Slurm also after the step in which the warning comes that the machine will be taken away. Then the job is put
    into the queue again, and this training stops.
    """

    def __init__(self, run_dir: Path, finite: FiniteSteps) -> None:
        self.file, self.finite = checkpoints_of(run_dir)[0], finite
        self.warned: int | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.made = trainer.global_step
        for number in (REQUEUE, SAVE) if "SLURM_JOB_ID" in os.environ else ():
            signal.signal(number, self.warn)

    def warn(self, number: int, *_: object) -> None:
        self.warned = number

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.finite.since is None:
            trainer.save_checkpoint(self.file)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if "SLURM_JOB_ID" not in os.environ or trainer.global_step == self.made:
            return
        self.made = trainer.global_step
        # The warning reaches the ranks in different steps.
        if trainer.strategy.reduce_boolean_decision(self.warned is not None, all=False):
            if self.finite.since is None:
                trainer.save_checkpoint(self.file)
            if trainer.is_global_zero and self.warned == REQUEUE:
                requeue()
            signals.received.append(self.warned or REQUEUE)
            raise KeyboardInterrupt


def requeue() -> None:
    """Asks Slurm to start this job again."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{task}" if array else os.environ["SLURM_JOB_ID"]
    try:
        subprocess.run(["scontrol", "requeue", job], check=True)
        print(f"job {job} is in the queue again", flush=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"job {job} could not be put into the queue again ({error}): submit it anew", flush=True)
