"""DiffI2I as it runs at inference (Alg. 2), and the builders that size the networks from a configuration."""

from collections.abc import Callable

import torch
from hydra.utils import instantiate
from torch import Tensor, nn

from diffi2i.models.cpen import CPEN
from diffi2i.models.denoiser import Denoiser
from diffi2i.models.diffusion import PriorDiffusion
from diffi2i.schema import DiffusionConfig, ModelConfig, TaskConfig


class DiffI2I(nn.Module):
    """CPEN_S2, the denoiser and the DI2Iformer (for labels and depth, the network in its place).

    Without a denoiser, CPEN_S2's output is the IPR itself (Table 7, V1).
    """

    def __init__(
        self, cpen_s2: CPEN, denoiser: Denoiser | None, diffusion: PriorDiffusion, di2iformer: nn.Module
    ) -> None:
        super().__init__()
        self.cpen_s2 = cpen_s2
        self.denoiser = denoiser
        self.diffusion = diffusion
        self.di2iformer = di2iformer

    def estimate_prior(self, image: Tensor, z_T: Tensor, noise: Callable[[int], Tensor] | None = None) -> Tensor:
        """D from the input image (Eq. 12), then the whole reverse process, in float32.

        Args:
            image: (B, in_channels, H, W).
            z_T: (B, 4C'), noised IPR in training (Alg. 1), standard normal at inference (Alg. 2).
            noise: see `PriorDiffusion.denoise`.

        Returns:
            Z-hat (B, 4C').
        """
        condition: Tensor = self.cpen_s2(image).float()
        if self.denoiser is None:
            return condition
        with torch.autocast(image.device.type, enabled=False):
            return self.diffusion.denoise(z_T.float(), condition, self.denoiser, noise)

    def forward(self, image: Tensor, z_T: Tensor) -> Tensor:
        """`image` (B, in_channels, H, W), `z_T` (B, 4C') standard normal -> the prediction (see `TaskStage`)."""
        output: Tensor = self.di2iformer(image, self.estimate_prior(image, z_T))
        return output


def build_cpen(task: TaskConfig, model: ModelConfig, gt: bool) -> CPEN:
    """CPEN_S1 with `gt`, else CPEN_S2."""
    seen, in_channels = 0, task.in_channels
    if gt:
        seen = instantiate(task.gt) if task.gt else 3
        in_channels = task.in_channels if model.cpen.s1_sees_input else 0
    return CPEN(in_channels, seen, model.cpen.channels, model.cpen.blocks, task.scale)


def build_di2iformer(model: ModelConfig) -> nn.Module:
    """The network that Z guides, from its Hydra node: `forward(image, z)`."""
    network: nn.Module = instantiate(model.network, prior_dim=4 * model.cpen.channels)
    return network


def build_diffusion(diffusion: DiffusionConfig) -> PriorDiffusion:
    return PriorDiffusion(
        steps=diffusion.steps,
        beta_1=diffusion.beta_1,
        beta_T=diffusion.beta_T,
        prediction=diffusion.prediction,  # type: ignore[arg-type]
        variance_noise=diffusion.variance_noise,
        timesteps=diffusion.timesteps,
        schedule=diffusion.schedule,  # type: ignore[arg-type]
    )


def build_diffi2i(
    task: TaskConfig, model: ModelConfig, diffusion: DiffusionConfig, with_diffusion: bool = True
) -> DiffI2I:
    """The inference network; without diffusion it is V1 of Table 7."""
    denoiser = Denoiser(4 * model.cpen.channels, model.denoiser_layers) if with_diffusion else None
    cpen_s2 = build_cpen(task, model, gt=False)
    return DiffI2I(cpen_s2, denoiser, build_diffusion(diffusion), build_di2iformer(model))
