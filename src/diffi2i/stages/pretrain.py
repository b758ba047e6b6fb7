"""Stage 1: CPEN_S1 sees the ground truth and learns, with the DI2Iformer, an IPR that helps it (Sec. 4.1)."""

from typing import Any

import lightning as L
import torch
from torch import Tensor

from diffi2i.losses.task import TaskLoss
from diffi2i.models.diffi2i import build_cpen, build_di2iformer
from diffi2i.schema import Config
from diffi2i.stages.common import Batch, network_input, validation_outputs
from diffi2i.stages.step import optimisers, prepare, training_loss


class PretrainStage(L.LightningModule):
    """Trains CPEN_S1 and the DI2Iformer on L_task.

    `prior` and `restore` are the two halves of inference; validation calls them apart to exchange priors.
    `task_loss` is None where the stage is only used, not trained.
    """

    def __init__(self, config: Config, task_loss: TaskLoss | None = None) -> None:
        super().__init__()
        self.config = config
        self.cpen_s1 = build_cpen(config.task, config.model, gt=True)
        self.di2iformer = build_di2iformer(config.model)
        self.task_loss = task_loss
        self.to(memory_format=torch.channels_last)
        prepare(self)

    def prior(self, batch: Batch) -> Tensor:
        """Z (B, 4C') from the input and the ground truth (Eq. 5)."""
        z: Tensor = self.cpen_s1(network_input(batch), batch["target"])
        return z

    def restore(self, batch: Batch, z: Tensor) -> Tensor:
        """The prediction, float32: an image (B, 3, H, W), not clamped; logits (B, K, h, w); depth (B, 1, h, w)."""
        output: Tensor = self.di2iformer(network_input(batch), z)
        return output

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        output = self.restore(batch, self.prior(batch))
        return training_loss(self, output, batch, batch_idx)

    def validation_step(self, batch: Batch) -> dict[str, Tensor]:
        return validation_outputs(self, batch)

    def configure_optimizers(self) -> Any:
        return optimisers(self, self.config)
