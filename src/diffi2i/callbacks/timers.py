"""How long a training keeps the processor busy."""

import time
from typing import Any

import lightning as L


class ProcessorTimer(L.Callback):
    """Processor seconds of this process and its threads in training: what Lightning's `Timer` is for wall time.

    They go into checkpoints, so that they add up over interruptions. Data workers are processes of their own and do not
    count.
    """

    def __init__(self) -> None:
        self.before = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.start = time.process_time()

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.before + time.process_time() - self.start}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.before = state_dict["seconds"]
