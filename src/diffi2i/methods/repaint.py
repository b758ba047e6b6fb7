"""RePaint (Lugmayr et al. 2022): a diffusion that has learnt images, not holes, fills them. Nothing is trained."""

from dataclasses import dataclass, field
from itertools import count
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffi2i.config.schema import Config, one_of
from diffi2i.data.degrade import has_holes
from diffi2i.diffusion.repainting import repainted, walk
from diffi2i.diffusion.samplers import visited
from diffi2i.errors import UserError
from diffi2i.methods.batch import Batch
from diffi2i.methods.codec import OF_PIXELS, codec_of, on_grid
from diffi2i.methods.method import Method
from diffi2i.methods.noise import Noise
from diffi2i.methods.pixel_diffusion import PixelDiffusion
from diffi2i.methods.process import Diffusion, schedule_of, x0_of
from diffi2i.models.diffi2i import build_denoiser, check_same_model
from diffi2i.models.precision import at_least_float32


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


class RePaint(Method):
    """Fills holes with the denoiser of an unconditional run of `method=pixel_diffusion`, which `init` is."""

    Options: ClassVar[type] = RePaintOptions
    options: RePaintOptions
    trains = False
    networks = ("DenoisingUNet",)
    scored_under = ("steps", "jump", "resamplings")

    def __init__(self, config: Config, init: "PixelDiffusion | RePaint | None" = None) -> None:
        super().__init__(config)
        self.schedule = schedule_of(self.options.diffusion)
        self.codec = codec_of(self.options.codec, config)
        self.network = build_denoiser(config.model, self.codec.channels, self.codec.channels)
        if init is not None:
            self.network.load_state_dict(init.network.state_dict())
        self.to(memory_format=torch.channels_last)

    @classmethod
    def check(cls, config: Config, options: RePaintOptions, init: Config | None) -> None:
        """It starts from an unconditional diffusion of the same codec and schedule, and fills holes."""
        name = config.method["name"]
        if not has_holes(config.task):
            raise UserError(f"method={name} fills holes, and task={config.task.name} has none: write task=inpainting")
        if init is None:
            raise UserError(f"method={name} needs a diffusion: write method.init=<run of method=pixel_diffusion>")
        theirs = init.method
        if theirs["name"] != name:
            if "conditional" not in theirs:
                raise UserError(f"method.init={config.init} is a run of {theirs['name']}: name one of pixel_diffusion")
            if theirs["conditional"]:
                raise UserError(
                    f"method.init={config.init} is a diffusion that sees the input: train one with "
                    "method.conditional=false"
                )
        for key in ("codec", "diffusion"):
            if theirs[key] != config.method[key]:
                raise UserError(f"method.init={config.init} has method.{key}={theirs[key]}: write the same")
        check_same_model(config, init)

    def predict(self, batch: Batch, noise: Noise) -> Tensor:
        options, factor = self.options, self.codec.factor
        height, width = batch["input"].shape[-2:]
        known = self.codec.encode(on_grid(2 * batch["input"] - 1, factor))
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
        return (at_least_float32(self.codec.decode(code))[..., :height, :width] + 1) / 2

    def parts(self) -> dict[str, nn.Module]:
        return {"denoiser": self.network}
