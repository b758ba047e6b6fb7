"""Stage 1: CPEN_S1 sees the ground truth and learns, with the DI2Iformer, an IPR that helps it (Sec. 4.1)."""

import torch
from torch import Tensor

from diffi2i.losses.task import TaskLoss
from diffi2i.models.diffi2i import build_cpen, build_di2iformer
from diffi2i.schema import Config
from diffi2i.stages.common import Batch, network_input
from diffi2i.stages.task import TaskStage


class PretrainStage(TaskStage):
    """Trains CPEN_S1 and the DI2Iformer on L_task."""

    def __init__(self, config: Config, task_loss: TaskLoss | None = None) -> None:
        super().__init__(config, task_loss)
        self.cpen_s1 = build_cpen(config.task, config.model, gt=True)
        self.di2iformer = build_di2iformer(config.model)
        self.to(memory_format=torch.channels_last)

    def prior(self, batch: Batch) -> Tensor:
        """Z (B, 4C') from the input and the ground truth (Eq. 5)."""
        z: Tensor = self.cpen_s1(network_input(batch, self.config.task.fill), batch["target"])
        return z

    def restore(self, batch: Batch, z: Tensor) -> Tensor:
        output: Tensor = self.di2iformer(network_input(batch, self.config.task.fill), z)
        return output

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self.training_loss(self.restore(batch, self.prior(batch)), batch, batch_idx)
