"""RePaint (Lugmayr et al. 2022): a diffusion that has learnt images, not holes, fills them. Nothing is trained."""

from dataclasses import dataclass, field
from itertools import count
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from diffi2i.config.schema import Config, one_of
from diffi2i.data.degrade import has_holes
from diffi2i.diffusion.repainting import repainted, walk
from diffi2i.diffusion.samplers import visited
from diffi2i.errors import UserError
from diffi2i.methods.batch import Batch
from diffi2i.methods.codec import OF_PIXELS, on_grid
from diffi2i.methods.from_diffusion import FromDiffusion
from diffi2i.methods.noise import Noise
from diffi2i.methods.pixel_diffusion import PixelDiffusion
from diffi2i.methods.process import Diffusion, schedule_of, x0_of


@dataclass
class RePaintOptions:
    """`codec` and `diffusion` are those of the run that it starts from; the rest is for `diffusion.repainting`."""

    codec: str = "pixels"
    diffusion: Diffusion = field(default_factory=Diffusion)
    steps: int = 250
    jump: int = 10
    resamplings: int = 10

    def __post_init__(self) -> None:
        one_of("method.codec", self.codec, OF_PIXELS)
        try:
            visited(schedule_of(self.diffusion), self.steps)
            walk(self.steps, self.jump, self.resamplings)
        except ValueError as error:
            raise UserError(f"method: {error}") from error


class RePaint(FromDiffusion):
    """Fills holes with the denoiser of an unconditional run of `method=pixel_diffusion`, which `init` is."""

    Options: ClassVar[type] = RePaintOptions
    options: RePaintOptions
    trains = False
    scored_under = ("steps", "jump", "resamplings")

    def __init__(self, config: Config, init: "PixelDiffusion | RePaint | None" = None) -> None:
        super().__init__(config, init)
        if isinstance(init, RePaint):
            self.load_state_dict(init.state_dict())
        self.to(memory_format=torch.channels_last)

    @classmethod
    def check(cls, config: Config, options: RePaintOptions, init: Config | None) -> None:
        """As `FromDiffusion`, and the task has holes."""
        name = config.method["name"]
        if not has_holes(config.task):
            raise UserError(f"method={name} fills holes, and task={config.task.name} has none: write task=inpainting")
        super().check(config, options, init)

    def predict(self, batch: Batch, noise: Noise) -> Tensor:
        options, factor = self.options, self.codec.factor
        known = self.coded(batch["input"])
        hole = F.pixel_unshuffle(on_grid(batch["mask"].expand(-1, 3, -1, -1), factor), factor)
        draws = count()

        def denoise(x: Tensor, t: int) -> Tensor:
            return x0_of(self.network, x, t, self.schedule, None, self.codec.bounded)

        code = repainted(
            denoise,
            known,
            hole,
            self.schedule,
            lambda: noise(known.shape[1:], f"draw {next(draws)}"),
            options.steps,
            options.jump,
            options.resamplings,
        )
        return self.image(code, batch)
