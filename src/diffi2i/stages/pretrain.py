"""Stage 1: CPEN_S1 sees the ground truth and learns, with the DI2Iformer, an IPR that helps it (Sec. 4.1)."""

from typing import Self

import torch
from torch import Tensor

from diffi2i.losses.task import TaskLoss
from diffi2i.models.diffi2i import build_cpen, build_di2iformer
from diffi2i.schema import Config
from diffi2i.stages.common import Batch, network_input
from diffi2i.stages.task import TaskStage


class PretrainStage(TaskStage):
    """Trains CPEN_S1 and the DI2Iformer on L_task.

    With `stage.prior` "zero" there is no CPEN and Z = 0: the same network without a prior. `pretrained` is a stage 1
    of the same kind whose training goes on; None for one that starts from nothing, or whose weights will be loaded.
    """

    def __init__(self, config: Config, pretrained: Self | None = None, task_loss: TaskLoss | None = None) -> None:
        super().__init__(config, task_loss)
        # First, so that the network without a prior starts from the same weights.
        self.di2iformer = build_di2iformer(config.model)
        self.cpen_s1 = None if config.stage.prior == "zero" else build_cpen(config.task, config.model, gt=True)
        if pretrained is not None:
            self.di2iformer.load_state_dict(pretrained.di2iformer.state_dict())
            if self.cpen_s1 is not None and pretrained.cpen_s1 is not None:
                self.cpen_s1.load_state_dict(pretrained.cpen_s1.state_dict())
        self.to(memory_format=torch.channels_last)

    @property
    def uses_prior(self) -> bool:
        return self.cpen_s1 is not None

    def prior(self, batch: Batch) -> Tensor:
        """Z (B, 4C') from the input and the ground truth (Eq. 5), or zeros."""
        image = network_input(batch, self.config.task.fill)
        if self.cpen_s1 is None:
            return image.new_zeros(len(image), 4 * self.config.model.cpen.channels)
        z: Tensor = self.cpen_s1(image, batch["target"])
        return z

    def restore(self, batch: Batch, z: Tensor) -> Tensor:
        output: Tensor = self.di2iformer(network_input(batch, self.config.task.fill), z)
        return output

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self.training_loss(self.restore(batch, self.prior(batch)), batch, batch_idx)
