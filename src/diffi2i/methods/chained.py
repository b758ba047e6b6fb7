"""What methods share whose process leads from the target to its input: `diffusion.chain`."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffi2i.config.schema import Config, one_of
from diffi2i.data.resize import enlarge
from diffi2i.diffusion.chain import Chain
from diffi2i.errors import UserError
from diffi2i.methods.batch import Batch
from diffi2i.methods.codec import OF_PIXELS, channels_seen, codec_of, condition_of, decoded, on_grid
from diffi2i.methods.method import Method
from diffi2i.methods.noise import Noise
from diffi2i.methods.process import denoised
from diffi2i.models.diffi2i import build_denoiser


@dataclass
class ChainOptions:
    """T = `steps`, of which a prediction visits `visited`, evenly spaced; for `eta` see `Chain.sample`.

    `codec` is the space of the chain, `noise` how strong its noise is; a subclass makes its `chain()` of both.
    """

    codec: str = "unshuffled"
    steps: int = 1000
    noise: float = 1.0
    visited: int = 20
    eta: float = 1.0

    def __post_init__(self) -> None:
        one_of("method.codec", self.codec, OF_PIXELS)
        steps, visited, noise, eta = self.steps, self.visited, self.noise, self.eta
        if not 1 <= visited <= steps or steps < 2 or noise <= 0 or not 0 <= eta <= 1:
            raise UserError(
                f"method: steps={steps}, visited={visited}, noise={noise}, eta={eta}: write steps=2 or more, visited "
                "within 1..steps, noise above 0, and eta from 0 to 1"
            )


class Chained(Method):
    """Trains a network to predict x_0 from x_t and the input, at random t.

    Its options have a `codec`, the space of the chain, `chain()`, and what `Chain.sample` takes: `visited` and `eta`.
    The network sees x_t scaled to unit spread, the input on its grid, and t / T.
    """

    networks = ("DenoisingUNet",)
    scored_under: tuple[str, ...] = ("visited", "eta")

    def __init__(self, config: Config, init: "Chained | None" = None) -> None:
        super().__init__(config)
        self.chain: Chain = self.options.chain()
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

        def denoise(x_t: Tensor, t: int) -> Tensor:
            return self.x0(x_t, t, condition)

        def drawn(t: int) -> Tensor:
            return noise(y.shape[1:], f"step {t}")

        code = self.chain.sample(denoise, y, drawn, self.options.visited, self.options.eta)
        return (decoded(self.codec, code, height, width) + 1) / 2

    def parts(self) -> dict[str, nn.Module]:
        return {"denoiser": self.network}
