"""DeepCache (Ma et al. 2024): between whole runs of the U-Net only its finest level runs anew. Nothing is trained."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from diffi2i.config.schema import Config
from diffi2i.errors import UserError
from diffi2i.methods.codec import OF_PIXELS
from diffi2i.methods.from_diffusion import LEARNT, check_diffusion
from diffi2i.methods.pixel_diffusion import PixelDiffusion, PixelDiffusionOptions
from diffi2i.models.unet import OutermostLevel


@dataclass
class DeepCacheOptions(PixelDiffusionOptions):
    """The whole network runs at each `every`-th step; all but the sampler are those of the run that it starts from."""

    every: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.every < 1:
            raise UserError(f"method.every={self.every} must be at least 1, which keeps nothing")


class DeepCache(PixelDiffusion):
    """Samples with the denoiser of a run of `method=pixel_diffusion`, which `init` is, and keeps its deep features.

    Neighbouring steps have nearly the same ones: the coarse levels see little of what a step changes. A record counts
    the calls of the whole network; its multiply-accumulates are of all steps.
    """

    Options: ClassVar[type] = DeepCacheOptions
    options: Any
    trains = False
    scored_under = ("sampler", "every")

    @classmethod
    def check(cls, config: Config, options: PixelDiffusionOptions, init: Config | None) -> None:
        """It starts from a diffusion of the same codec, schedule and condition."""
        check_diffusion(config, init, LEARNT, OF_PIXELS)
        if len(config.model.network["widths"]) < 2:
            raise UserError("a U-Net of one level has no deeper ones to keep: write two model.network.widths or more")

    def denoiser(self) -> "Keeping":
        return Keeping(self.network, OutermostLevel(self.network), self.options.every)  # type: ignore[arg-type]


class Keeping:
    """A denoiser that at each `every`-th call runs whole, and at the others takes what its deeper levels gave then."""

    def __init__(self, network: nn.Module, outermost: OutermostLevel, every: int) -> None:
        self.network, self.outermost, self.every = network, outermost, every
        self.calls, self.deep = 0, list[Tensor]()

    def __call__(self, x: Tensor, time: Tensor) -> Tensor:
        whole = self.calls % self.every == 0
        self.calls += 1
        if not whole:
            found: Tensor = self.outermost(x, time, *self.deep)
            return found
        with self.outermost.watched() as deep:
            found = self.network(x, time)
        self.deep = deep or self.deep
        return found
