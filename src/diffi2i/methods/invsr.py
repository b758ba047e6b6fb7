"""InvSR (Yue et al. 2025): the noise under which a frozen diffusion leads from the input to its restoration."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from diffi2i.config.schema import Config, one_of
from diffi2i.diffusion.samplers import ddim
from diffi2i.diffusion.schedule import Schedule
from diffi2i.errors import UserError
from diffi2i.methods.batch import Batch
from diffi2i.methods.codec import CODECS, channels_seen
from diffi2i.methods.from_diffusion import FromDiffusion
from diffi2i.methods.noise import Noise
from diffi2i.methods.pixel_diffusion import PixelDiffusion
from diffi2i.methods.process import Diffusion, denoised, schedule_of, x0_of
from diffi2i.models.unet import DenoisingUNet


@dataclass
class Predictor:
    """Sizes of the network that predicts noise; see `models.unet.unet`."""

    widths: list[int] = field(default_factory=lambda: [32, 64])
    layers: int = 1
    attention: list[bool] = field(default_factory=lambda: [False, True])
    head_dim: int = 8


@dataclass
class InvSROptions:
    """What `conf/method/invsr.yaml` sets.

    `codec` and `diffusion` are those of the run that it starts from. `starts` are the time steps for which noise is
    learnt, `times` those that a prediction visits, of which the first is a start. `noise` is `predicted`, or `drawn`
    from the normal as if nothing had been learnt.
    """

    codec: str = "pixels"
    diffusion: Diffusion = field(default_factory=Diffusion)
    predictor: Predictor = field(default_factory=Predictor)
    starts: list[int] = field(default_factory=lambda: [250, 200, 150, 100])
    times: list[int] = field(default_factory=lambda: [250])
    noise: str = "predicted"

    def __post_init__(self) -> None:
        one_of("method.codec", self.codec, CODECS)
        one_of("method.noise", self.noise, ("predicted", "drawn"))
        T = schedule_of(self.diffusion).steps
        if not fall(self.starts, T):
            falling = sorted({t for t in self.starts if 1 <= t <= T}, reverse=True) or [T]
            raise UserError(
                f"method.starts={self.starts} must fall from at most {T} to at least 1: write for example "
                f"method.starts=[{','.join(map(str, falling))}]"
            )
        if not fall(self.times, T) or self.times[0] not in self.starts:
            raise UserError(
                f"method.times={self.times} must fall to at least 1 from one of method.starts={self.starts}: write for "
                f"example method.times=[{self.starts[0]}]"
            )


class InvSR(FromDiffusion):
    """Trains the n of x_t = sqrt(alpha_bar_t) y + sqrt(1 - alpha_bar_t) n, y the code of the enlarged input.

    L_task judges what a frozen diffusion makes of x_t in a single step. `init` is the unconditional run whose diffusion
    that is, or one of its own to go on with.
    """

    Options: ClassVar[type] = InvSROptions
    options: InvSROptions
    scored_under = ("times", "noise")

    def __init__(self, config: Config, init: "PixelDiffusion | InvSR | None" = None) -> None:
        super().__init__(config, init)
        self.network.requires_grad_(False)
        seen = channels_seen(config.task, self.codec)
        self.predictor = DenoisingUNet(seen, 2 * self.codec.channels, **asdict(self.options.predictor))
        # Before training the noise is the standard normal.
        nn.init.zeros_(self.predictor.unet.conv_out.weight)
        nn.init.zeros_(self.predictor.unet.conv_out.bias)
        if isinstance(init, InvSR):
            self.load_state_dict(init.state_dict())
        self.to(memory_format=torch.channels_last)

    @classmethod
    def check(cls, config: Config, options: InvSROptions, init: Config | None) -> None:
        """As `FromDiffusion`, and there is noise to learn."""
        if options.noise == "drawn":
            raise UserError(
                "method.noise=drawn learns nothing: train with method.noise=predicted, then score with "
                "set=[method.noise=drawn]"
            )
        super().check(config, options, init)

    def started(self, batch: Batch, t: int, drawn: Tensor) -> Tensor:
        """x_t, of noise that is normal with the predicted mean and log-variance, `drawn` from the standard normal."""
        enlarged = self.enlarged(batch)
        if self.options.noise == "predicted":
            predicted = denoised(self.predictor, self.condition(batch, enlarged), t, self.schedule.steps, None)
            mean, log_variance = predicted.chunk(2, dim=1)
            drawn = mean + (log_variance / 2).exp() * drawn
        return self.schedule.noised(self.coded(enlarged[:, :3]), t, drawn)

    def objective(self, batch: Batch, rng: torch.Generator) -> tuple[dict[str, Tensor], Tensor]:
        starts, schedule = self.options.starts, self.schedule
        t = starts[int(torch.randint(len(starts), (), generator=rng))]
        shape = (len(batch["input"]), *self.code_shape(batch))
        x_t = self.started(batch, t, torch.randn(shape, generator=rng).to(batch["input"].device))
        x0 = schedule.x0(x_t, t, denoised(self.network, x_t, t, schedule.steps, None))
        return {}, self.image(x0, batch)

    def predict(self, batch: Batch, noise: Noise) -> Tensor:
        times, shape = self.options.times, self.code_shape(batch)

        def denoise(x: Tensor, t: int) -> Tensor:
            return x0_of(self.network, x, t, self.schedule, None, self.codec.bounded)

        # From the start on there is noise as in the diffusion, which is cut off there.
        rest = Schedule(self.schedule.betas[: times[0]], self.schedule.prediction)
        x_t = self.started(batch, times[0], noise(shape))
        code = ddim(denoise, x_t, rest, lambda t: noise(shape, f"step {t}"), steps=times[::-1], eta=1.0)
        return self.image(code, batch)

    def parts(self) -> dict[str, nn.Module]:
        return super().parts() | {"predictor": self.predictor}


def fall(times: Sequence[int], highest: int) -> bool:
    """Whether each of the time steps is below the one before, all from `highest` to 1; False for none."""
    return bool(times) and list(times) == sorted(set(times), reverse=True) and highest >= times[0] and times[-1] >= 1
