"""ResShift (Yue et al. 2023): a short chain from the target to its noised input."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffi2i.config.schema import Config, one_of
from diffi2i.data.resize import enlarge
from diffi2i.diffusion.residual_shift import ResidualShift
from diffi2i.errors import UserError
from diffi2i.methods.batch import Batch
from diffi2i.methods.codec import OF_PIXELS, channels_seen, codec_of, condition_of, on_grid
from diffi2i.methods.method import Method
from diffi2i.methods.noise import Noise
from diffi2i.methods.process import denoised
from diffi2i.models.diffi2i import build_denoiser
from diffi2i.models.precision import at_least_float32


@dataclass
class ResShiftOptions:
    """`codec` is the space of the chain; the rest as in `diffusion.residual_shift`.

    The authors have steps=4 with min_noise=0.2, and steps=15 with min_noise=0.04.
    """

    codec: str = "unshuffled"
    steps: int = 4
    kappa: float = 2.0
    min_noise: float = 0.2
    power: float = 0.3

    def __post_init__(self) -> None:
        one_of("method.codec", self.codec, OF_PIXELS)
        chain_of(self)


class ResShift(Method):
    """Trains a network to predict x_0 from x_t and the input (Eq. 8)."""

    Options: ClassVar[type] = ResShiftOptions
    options: ResShiftOptions
    networks = ("DenoisingUNet",)
    scored_under = ()

    def __init__(self, config: Config, init: "ResShift | None" = None) -> None:
        super().__init__(config)
        self.chain = chain_of(self.options)
        self.codec = codec_of(self.options.codec, config)
        seen = channels_seen(config.task, self.codec)
        self.network = build_denoiser(config.model, self.codec.channels + seen, self.codec.channels)
        if init is not None:
            self.load_state_dict(init.state_dict())
        self.to(memory_format=torch.channels_last)

    @classmethod
    def judged(cls, options: Any) -> bool:
        return False

    def inputs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """y, the code of the input at the target's size, and what the network sees of the input beside x_t."""
        image, scale, factor = self.seen(batch), self.config.task.scale, self.codec.factor
        enlarged = enlarge(image, scale)
        y = self.codec.encode(on_grid(2 * enlarged[:, :3] - 1, factor))
        return y, condition_of(image, scale, factor, enlarged)

    def x0(self, x_t: Tensor, t: Tensor | int, condition: Tensor) -> Tensor:
        """The predicted x_0, float32. `x_t` (B, ...), `t` int or int64 (B,)."""
        return denoised(self.network, self.chain.scaled(x_t, t), t, self.chain.steps, condition)

    def objective(self, batch: Batch, rng: torch.Generator) -> tuple[dict[str, Tensor], None]:
        y, condition = self.inputs(batch)
        x = self.codec.encode(on_grid(2 * batch["target"] - 1, self.codec.factor))
        t = torch.randint(1, self.chain.steps + 1, (len(x),), generator=rng).to(x.device)
        noise = torch.randn(x.shape, generator=rng).to(x.device)
        return {"loss_x0": F.mse_loss(self.x0(self.chain.noised(x, y, t, noise), t, condition), x)}, None

    def predict(self, batch: Batch, noise: Noise) -> Tensor:
        y, condition = self.inputs(batch)
        height, width = (side * self.config.task.scale for side in batch["input"].shape[-2:])
        code = self.chain.sample(lambda x, t: self.x0(x, t, condition), y, lambda t: noise(y.shape[1:], f"step {t}"))
        return (at_least_float32(self.codec.decode(code))[..., :height, :width] + 1) / 2

    def parts(self) -> dict[str, nn.Module]:
        return {"denoiser": self.network}


def chain_of(options: ResShiftOptions) -> ResidualShift:
    """Raises `UserError` for a chain that cannot be."""
    try:
        return ResidualShift(options.steps, options.kappa, options.min_noise, options.power)
    except ValueError as error:
        raise UserError(f"method: {error}") from error
