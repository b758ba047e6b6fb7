"""DiffI2I as it runs at inference (Alg. 2), and the builders that size the networks from a configuration."""

from functools import partial
from typing import Any

import torch
from hydra.utils import instantiate
from torch import Tensor, nn

from diffi2i.diffusion.samplers import Noise, Sampler, ancestral
from diffi2i.diffusion.schedule import Schedule, linear, sqrt_linear
from diffi2i.models.cpen import CPEN
from diffi2i.models.denoiser import Denoiser
from diffi2i.schema import DiffusionConfig, ModelConfig, TaskConfig


class DiffI2I(nn.Module):
    """CPEN_S2, the denoiser and the DI2Iformer (for labels and depth, the network in its place).

    Without a denoiser, CPEN_S2's output is the IPR itself (Table 7, V1).
    """

    def __init__(
        self,
        cpen_s2: CPEN,
        denoiser: Denoiser | None,
        schedule: Schedule,
        sampler: Sampler,
        di2iformer: nn.Module,
    ) -> None:
        super().__init__()
        self.cpen_s2 = cpen_s2
        self.denoiser = denoiser
        self.schedule = schedule
        self.sampler = sampler
        self.di2iformer = di2iformer

    def estimate_prior(self, image: Tensor, z_T: Tensor, noise: Noise | None = None) -> Tensor:
        """D from the input (Eq. 12), then the reverse process in float32 (Alg. 1, lines 8-13; Alg. 2, lines 5-8).

        Args:
            image: (B, in_channels, H, W).
            z_T: (B, 4C'), noised IPR in training (Alg. 1), standard normal at inference (Alg. 2).
            noise: what the sampler inserts, see `diffusion.samplers`.

        Returns:
            Z-hat (B, 4C').
        """
        condition: Tensor = self.cpen_s2(image).float()
        denoiser = self.denoiser
        if denoiser is None:
            return condition

        def denoise(z_t: Tensor, t: int) -> Tensor:
            time = z_t.new_full((len(z_t),), t / self.schedule.steps)
            return self.schedule.x0(z_t, t, denoiser(z_t, time, condition))

        with torch.autocast(image.device.type, enabled=False):
            return self.sampler(denoise, z_T.float(), self.schedule, noise)

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


def build_schedule(diffusion: DiffusionConfig) -> Schedule:
    betas = {"linear": linear, "sqrt_linear": sqrt_linear}[diffusion.schedule]
    prediction: Any = diffusion.prediction
    return Schedule(betas(diffusion.steps, diffusion.beta_1, diffusion.beta_T), prediction)


def build_sampler(diffusion: DiffusionConfig) -> Sampler:
    return partial(ancestral, steps=diffusion.timesteps, variance_noise=diffusion.variance_noise)


def build_diffi2i(
    task: TaskConfig, model: ModelConfig, diffusion: DiffusionConfig, with_diffusion: bool = True
) -> DiffI2I:
    """The inference network; without diffusion it is V1 of Table 7."""
    denoiser = Denoiser(4 * model.cpen.channels, model.denoiser_layers) if with_diffusion else None
    cpen_s2 = build_cpen(task, model, gt=False)
    schedule, sampler = build_schedule(diffusion), build_sampler(diffusion)
    return DiffI2I(cpen_s2, denoiser, schedule, sampler, build_di2iformer(model))
