"""What all processes of a run must agree on before the first step."""

import json
from dataclasses import asdict
from pathlib import Path

import lightning as L

from diffi2i.config.schema import Config
from diffi2i.errors import UserError
from diffi2i.run.hardware import of_all_ranks


class SameRun(L.Callback):
    """Raises `UserError` where the processes have other settings, or would go on from other checkpoints."""

    def __init__(self, config: Config, last: Path | None) -> None:
        self.run = json.dumps([asdict(config), str(last)], sort_keys=True, default=str)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if len(set(of_all_ranks(self.run))) > 1:
            raise UserError(
                "the processes of this run have different settings or checkpoints: start each with the same command, "
                "on a disk that all of them see"
            )
