"""Diffusion of the target beside the input, as SR3 and Palette have it, or of the residual, as SRDiff."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from diffi2i.config.schema import Config, one_of
from diffi2i.data.resize import enlarge
from diffi2i.errors import UserError
from diffi2i.methods.batch import Batch
from diffi2i.methods.codec import CODECS, Codec, channels_seen, codec_of, condition_of, decoded, grid_of, on_grid
from diffi2i.methods.method import Method
from diffi2i.methods.noise import Noise
from diffi2i.methods.process import Diffusion, denoised, sampler_of, schedule_of, x0_of
from diffi2i.models.diffi2i import build_denoiser


@dataclass
class PixelDiffusionOptions:
    """What `conf/method/pixel_diffusion.yaml` sets.

    `codec` is the space that is diffused, see `methods.codec`. With `residual` it is the difference from the enlarged
    input. Without `conditional` the network sees no input, and the method draws images alike the targets: what RePaint
    starts from. `validation_sampler` takes the place of `sampler` in training, where it shall cost little.
    """

    codec: str = "pixels"
    residual: bool = False
    conditional: bool = True
    diffusion: Diffusion = field(default_factory=Diffusion)
    sampler: dict[str, Any] = field(default_factory=dict)
    validation_sampler: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        one_of("method.codec", self.codec, CODECS)
        if self.residual and (self.codec == "latent" or not self.conditional):
            raise UserError(
                "method.residual needs pixels and their input: write codec=pixels or unshuffled, conditional=true"
            )
        schedule = schedule_of(self.diffusion)
        sampler_of(self.sampler, schedule)
        sampler_of(self.validation_sampler, schedule, "method.validation_sampler")


class PixelDiffusion(Method):
    """Trains one denoiser on the codes of targets at random times, given the input (Ho et al. 2020, Alg. 1)."""

    Options: ClassVar[type] = PixelDiffusionOptions
    options: PixelDiffusionOptions
    networks = ("DenoisingUNet",)
    scored_under: tuple[str, ...] = ("sampler",)

    def __init__(self, config: Config, init: "PixelDiffusion | None" = None) -> None:
        super().__init__(config)
        options = self.options
        self.schedule = schedule_of(options.diffusion)
        self.sampler = sampler_of(options.sampler, self.schedule)
        self.validation_sampler = sampler_of(options.validation_sampler, self.schedule)
        self.codec = self.new_codec()
        seen = channels_seen(config.task, self.codec) if options.conditional else 0
        self.network = build_denoiser(config.model, self.codec.channels + seen, self.codec.channels)
        if init is not None:
            self.load_state_dict(init.state_dict())
        self.to(memory_format=torch.channels_last)

    def new_codec(self) -> Codec:
        return codec_of(self.options.codec, self.config)

    @classmethod
    def judged(cls, options: Any) -> bool:
        return False

    def base(self, batch: Batch) -> Tensor:
        """What the residual is counted from: the input at the target's size (B, 3, H, W)."""
        return enlarge(batch["input"], self.config.task.scale)

    def condition(self, batch: Batch) -> Tensor | None:
        """The input on the codes' grid; None without `conditional`."""
        if not self.options.conditional:
            return None
        image, scale = self.seen(batch), self.config.task.scale
        return condition_of(image, scale, self.codec.factor, enlarge(image, scale))

    def coded(self, batch: Batch) -> Tensor:
        """x_0 (B, channels, h, w) of the target."""
        target = batch["target"]
        image = target - self.base(batch) if self.options.residual else 2 * target - 1
        return self.codec.encode(on_grid(image, self.codec.factor))

    def objective(self, batch: Batch, rng: torch.Generator) -> tuple[dict[str, Tensor], None]:
        x, condition = self.coded(batch), self.condition(batch)
        t = torch.randint(1, self.schedule.steps + 1, (len(x),), generator=rng).to(x.device)
        noise = torch.randn(x.shape, generator=rng).to(x.device)
        schedule = self.schedule
        found = denoised(self.network, schedule.noised(x, t, noise), t, schedule.steps, condition)
        return {"loss_denoising": F.mse_loss(found, schedule.target(x, noise, t))}, None

    def denoiser(self) -> Callable[..., Tensor]:
        """The network of one prediction, which calls it step after step."""
        return self.network

    def predict(self, batch: Batch, noise: Noise) -> Tensor:
        height, width = (side * self.config.task.scale for side in batch["input"].shape[-2:])
        condition = self.condition(batch)
        shape = (self.codec.channels, *grid_of(height, width, self.codec.factor))
        training = self._trainer is not None and self._trainer.state.fn == TrainerFn.FITTING
        sampler = self.validation_sampler if training else self.sampler
        network = self.denoiser()

        def denoise(x: Tensor, t: int) -> Tensor:
            return x0_of(network, x, t, self.schedule, condition, self.codec.bounded)

        code = sampler(denoise, noise(shape), self.schedule, lambda t: noise(shape, f"step {t}"))
        image = decoded(self.codec, code, height, width)
        return self.base(batch) + image if self.options.residual else (image + 1) / 2

    def parts(self) -> dict[str, nn.Module]:
        return {"denoiser": self.network}
