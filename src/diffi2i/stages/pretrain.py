"""Stage 1: CPEN_S1 sees the ground truth and learns, with the DI2Iformer, an IPR that helps it (Sec. 4.1)."""

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from diffi2i.models.diffi2i import build_cpen, build_di2iformer
from diffi2i.schema import Config
from diffi2i.stages.common import Batch, network_input, optimisation


class PretrainStage(L.LightningModule):
    """Trains CPEN_S1 and the DI2Iformer on L_task.

    `prior` and `restore` are the two halves of inference; validation calls them apart to exchange priors.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.cpen_s1 = build_cpen(config.task, config.model, gt=True)
        self.di2iformer = build_di2iformer(config.task, config.model)
        self.to(memory_format=torch.channels_last)

    def prior(self, batch: Batch) -> Tensor:
        """Z (B, 4C') from the input and the ground truth (Eq. 5)."""
        z: Tensor = self.cpen_s1(network_input(batch), batch["target"])
        return z

    def restore(self, batch: Batch, z: Tensor) -> Tensor:
        """The output image (B, 3, H, W), float32, not clamped."""
        output: Tensor = self.di2iformer(network_input(batch), z)
        return output

    def training_step(self, batch: Batch) -> Tensor:
        output = self.restore(batch, self.prior(batch))
        loss = F.l1_loss(output, batch["target"])
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch) -> dict[str, Tensor]:
        outputs = {"output": self.restore(batch, self.prior(batch))}
        if "other" in batch:
            outputs["exchanged"] = self.restore(batch, self.prior(batch["other"]))
        return outputs

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return optimisation(self.parameters(), self.config)
