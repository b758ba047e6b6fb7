"""CoDi (Mei et al. 2024): a diffusion without a condition is distilled into one with a condition and of few steps."""

from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from diffi2i.config.schema import Config, one_of
from diffi2i.diffusion.consistency import consistent, interval
from diffi2i.errors import UserError
from diffi2i.losses.task import TaskLoss
from diffi2i.methods.batch import Batch
from diffi2i.methods.codec import CODECS, channels_seen
from diffi2i.methods.from_diffusion import FromDiffusion
from diffi2i.methods.noise import Noise
from diffi2i.methods.pixel_diffusion import PixelDiffusion
from diffi2i.methods.process import Diffusion, denoised, sampler_of, schedule_of, x0_of
from diffi2i.models.adapter import AdaptedUNet

LABELS = {
    ("distillation", "all"): "CoDi",
    ("distillation", "adapter"): "PE-CoDi",
    ("denoising", "all"): "adapted diffusion",
    ("denoising", "adapter"): "adapted diffusion, the adapter alone",
    ("consistency", "all"): "consistency distillation",
    ("consistency", "adapter"): "consistency distillation, the adapter alone",
}


@dataclass
class CoDiOptions:
    """What `conf/method/codi.yaml` sets.

    `codec` and `diffusion` are those of the run that it starts from. `learns` is `distillation` (Eq. 15), `denoising`
    (the loss of diffusion, as one adapts without distilling: ControlNet) or `consistency` (consistency distillation of
    a run that learnt by `denoising`). `trained` is `all`, or the `adapter` alone (PE-CoDi). t and s are the ends of one
    of as many `intervals`; `target_decay` is that of the moving average theta^-.
    """

    codec: str = "pixels"
    diffusion: Diffusion = field(default_factory=Diffusion)
    learns: str = "distillation"
    trained: str = "all"
    intervals: int = 50
    target_decay: float = 0.95
    sampler: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        one_of("method.codec", self.codec, CODECS)
        one_of("method.learns", self.learns, ("distillation", "denoising", "consistency"))
        one_of("method.trained", self.trained, ("all", "adapter"))
        schedule = schedule_of(self.diffusion)
        if not 2 <= self.intervals <= schedule.steps:
            raise UserError(f"method.intervals={self.intervals}: write 2 to method.diffusion.steps={schedule.steps}")
        if not 0 <= self.target_decay < 1:
            raise UserError(f"method.target_decay={self.target_decay} lies in [0, 1): write 0.95")
        sampler_of(self.sampler, schedule)


class CoDi(FromDiffusion):
    """Trains an `AdaptedUNet` to predict the same noise all along a path, and the target, given the input.

    `init` is an unconditional run, or one of its own to go on with.

    Attributes:
        network: theta, with the encoder of the condition.
        target: theta^-, its moving average over steps, which gives what is to be met; in training alone.
        teacher: the network as it was at first, where `consistency` has it take the step from t to s; likewise.
    """

    Options: ClassVar[type] = CoDiOptions
    options: CoDiOptions
    scored_under = ("sampler",)
    in_training = (*FromDiffusion.in_training, "target", "teacher")

    def __init__(self, config: Config, init: "PixelDiffusion | CoDi | None" = None) -> None:
        super().__init__(config, init)
        self.sampler = sampler_of(self.options.sampler, self.schedule)
        self.follow = get_ema_multi_avg_fn(self.options.target_decay)  # type: ignore[no-untyped-call]
        self.network = AdaptedUNet(self.network, channels_seen(config.task, self.codec))
        if isinstance(init, CoDi):
            self.load_state_dict(init.state_dict())
        self.network.denoiser.requires_grad_(self.options.trained == "all")
        self.to(memory_format=torch.channels_last)

    @classmethod
    def judged(cls, options: Any) -> bool:
        return False

    @classmethod
    def check(cls, config: Config, options: CoDiOptions, init: Config | None) -> None:
        """As `FromDiffusion`, or goes on with one that learns alike; `consistency` starts from one of `denoising`."""
        name = config.method["name"]
        before = init.method["learns"] if init is not None and init.method["name"] == name else None
        if options.learns == "consistency" and before != "denoising":
            raise UserError(
                f"method.learns=consistency distils a conditional diffusion: write method.init=<run of method={name} "
                "method.learns=denoising>"
            )
        if options.learns != "consistency" and before not in (None, options.learns):
            raise UserError(
                f"method.init={config.init} is conditional already, by method.learns={before}: name the run of "
                "method=pixel_diffusion that it started from"
            )
        super().check(config, options, init)

    def learn_from(self, task_loss: TaskLoss | None) -> None:
        super().learn_from(task_loss)
        if self.options.learns != "denoising":
            self.target = deepcopy(self.network).requires_grad_(False)
        if self.options.learns == "consistency":
            self.teacher = deepcopy(self.target)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Steps, and lets theta^- follow."""
        super().optimizer_step(*args, **kwargs)
        if self.options.learns != "denoising":
            self.follow([*self.target.parameters()], [*self.network.parameters()], None)

    def x0(self, network: nn.Module, x_t: Tensor, t: Tensor | int, condition: Tensor) -> Tensor:
        """The signal that a network predicts."""
        return self.schedule.x0(x_t, t, denoised(network, x_t, t, self.schedule.steps, condition))

    def objective(self, batch: Batch, rng: torch.Generator) -> tuple[dict[str, Tensor], None]:
        x, condition = self.coded(batch["target"]), self.condition(batch, self.enlarged(batch))
        noise = torch.randn(x.shape, generator=rng).to(x.device)
        return getattr(self, self.options.learns)(x, noise, condition, rng), None

    def distillation(self, x: Tensor, noise: Tensor, condition: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """Both terms of Eq. 15, at one t for the whole batch. s is above 0, where there is no noise to predict."""
        t, s = self.times(2, rng)
        z_t = self.schedule.noised(x, t, noise)
        found = self.x0(self.network, z_t, t, condition)
        with torch.no_grad():
            z_s = self.schedule.noised(found, s, noise)  # Eq. 14
            aim = self.eps(z_s, s, self.x0(self.target, z_s, s, condition))
        return {"loss_noise": F.mse_loss(self.eps(z_t, t, found), aim), "loss_signal": F.mse_loss(found, x)}

    def consistency(self, x: Tensor, noise: Tensor, condition: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """Consistency distillation (Song et al. 2023, Alg. 2), by a step of DDIM of the teacher (CoDi's Eq. 7)."""
        t, s = self.times(1, rng)
        z_t, steps = self.schedule.noised(x, t, noise), self.schedule.steps
        with torch.no_grad():
            known = self.x0(self.teacher, z_t, t, condition)
            z_s = self.schedule.noised(known, s, self.schedule.eps(z_t, t, known))
            aim = consistent(z_s, s, steps, self.x0(self.target, z_s, s, condition))
        found = consistent(z_t, t, steps, self.x0(self.network, z_t, t, condition))
        return {"loss_consistency": F.mse_loss(found, aim)}

    def denoising(self, x: Tensor, noise: Tensor, condition: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """The loss of diffusion (Ho et al. 2020, Alg. 1), at a t for each image."""
        t = torch.randint(1, self.schedule.steps + 1, (len(x),), generator=rng).to(x.device)
        found = denoised(self.network, self.schedule.noised(x, t, noise), t, self.schedule.steps, condition)
        return {"loss_denoising": F.mse_loss(found, self.schedule.target(x, noise, t))}

    def times(self, first: int, rng: torch.Generator) -> tuple[int, int]:
        """t and s of one interval, from number `first` on."""
        intervals = self.options.intervals
        return interval(self.schedule, intervals, int(torch.randint(first, intervals + 1, (), generator=rng)))

    def eps(self, z_t: Tensor, t: int, x0: Tensor) -> Tensor:
        """The predicted noise as a consistency function (Eq. 11)."""
        return consistent(z_t, t, self.schedule.steps, self.schedule.eps(z_t, t, x0))

    def predict(self, batch: Batch, noise: Noise) -> Tensor:
        condition, shape = self.condition(batch, self.enlarged(batch)), self.code_shape(batch)

        def denoise(x: Tensor, t: int) -> Tensor:
            return x0_of(self.network, x, t, self.schedule, condition, self.codec.bounded)

        code = self.sampler(denoise, noise(shape), self.schedule, lambda t: noise(shape, f"step {t}"))
        return self.image(code, batch)

    @property
    def label(self) -> str:
        return LABELS[self.options.learns, self.options.trained]
