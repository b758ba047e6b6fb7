"""Stage 2: the diffusion learns to estimate the IPR from the input alone, together with the DI2Iformer (Sec. 4.2)."""

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from diffi2i.losses.prior import prior_loss
from diffi2i.losses.task import TaskLoss
from diffi2i.models.diffi2i import build_cpen, build_diffi2i
from diffi2i.schema import Config
from diffi2i.stages.common import Batch, network_input, noise_for, step_generator
from diffi2i.stages.pretrain import PretrainStage
from diffi2i.stages.task import TaskStage


class JointStage(TaskStage):
    """Trains CPEN_S2, the denoiser and the DI2Iformer on L_all = L_task + L_diff (Alg. 1, Eq. 13).

    CPEN_S1 is frozen: it gives the target of L_diff and never reaches the optimiser. `prior` and `restore` are
    the two halves of inference (Alg. 2). `pretrained` is stage 1, or a stage 2 to go on with; None where finished
    weights will be loaded.
    """

    def __init__(
        self,
        config: Config,
        pretrained: "PretrainStage | JointStage | None",
        task_loss: TaskLoss | None = None,
    ) -> None:
        super().__init__(config, task_loss)
        stage = config.stage
        self.cpen_s1 = build_cpen(config.task, config.model, gt=True)
        self.cpen_s1.requires_grad_(False)
        self.model = build_diffi2i(config.task, config.model, stage.diffusion, stage.prior != "none")
        if isinstance(pretrained, JointStage):
            self.cpen_s1.load_state_dict(pretrained.cpen_s1.state_dict())
            self.model.load_state_dict(pretrained.model.state_dict())
        elif pretrained is not None:
            assert pretrained.cpen_s1 is not None, "a stage without a prior is refused before"
            self.cpen_s1.load_state_dict(pretrained.cpen_s1.state_dict())
            self.model.di2iformer.load_state_dict(pretrained.di2iformer.state_dict())
        if stage.prior == "traditional":
            self.model.di2iformer.requires_grad_(False)
        self.to(memory_format=torch.channels_last)

    def prior(self, batch: Batch) -> Tensor:
        """Z-hat (B, 4C') from the input alone, starting from noise by the evaluation's seed and the name (Alg. 2)."""
        image = network_input(batch, self.config.task.fill)
        seed, names = self.config.task.protocol.seed, batch["name"]
        z_T = noise_for(names, seed, 4 * self.config.model.cpen.channels, image.device)
        return self.model.estimate_prior(
            image, z_T, lambda t: noise_for(names, f"{seed}, step {t}", z_T.shape[1], image.device)
        )

    def restore(self, batch: Batch, z: Tensor) -> Tensor:
        output: Tensor = self.model.di2iformer(network_input(batch, self.config.task.fill), z)
        return output

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.cpen_s1.eval()  # frozen also in its running statistics
        return self

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        stage, image = self.config.stage, network_input(batch, self.config.task.fill)
        with torch.no_grad():
            z = self.cpen_s1(image, batch["target"]).float()  # (B, 4C')
        generator = step_generator(self.config.seed, *self.place(batch_idx))
        noise = torch.randn(z.shape, generator=generator).to(z.device)

        if stage.prior == "traditional":
            loss = self.random_step_loss(image, z, noise, generator)
            self.log("train/loss", loss, prog_bar=True)
            return loss

        z_T = self.model.schedule.noised(z, stage.diffusion.steps, noise)  # Eq. 10
        z_hat = self.model.estimate_prior(  # Alg. 1, lines 8-13
            image, z_T, lambda _: torch.randn(z.shape, generator=generator).to(z.device)
        )
        loss_diff = prior_loss(z_hat, z, stage.prior_loss)  # type: ignore[arg-type]
        self.log("train/loss_prior", loss_diff, prog_bar=True)
        if self.global_step < stage.prior_only * self.config.train.steps:
            return loss_diff
        return self.training_loss(self.restore(batch, z_hat), batch, batch_idx, more=loss_diff)

    def random_step_loss(self, image: Tensor, z: Tensor, noise: Tensor, generator: torch.Generator) -> Tensor:
        """The traditional objective (Eq. 4): the error of one prediction at one random t per image."""
        schedule, denoiser = self.model.schedule, self.model.denoiser
        assert denoiser is not None
        t = torch.randint(1, schedule.steps + 1, (z.shape[0],), generator=generator).to(z.device)
        condition = self.model.cpen_s2(image).float()
        with torch.autocast(image.device.type, enabled=False):
            prediction = denoiser(schedule.noised(z, t, noise), t / schedule.steps, condition)
            return F.mse_loss(prediction, schedule.target(z, noise, t))
