"""Optimal boundary conditions (Ma et al. 2024): of many starts the one whose outputs are best. Nothing is trained."""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from rich.progress import track
from torch import Tensor

from diffi2i.config.schema import Config, one_of
from diffi2i.errors import UserError, WeightsUnavailableError
from diffi2i.kinds.kind import kind_of
from diffi2i.methods.batch import Batch
from diffi2i.methods.codec import OF_PIXELS, grid_of
from diffi2i.methods.from_diffusion import LEARNT, check_diffusion
from diffi2i.methods.noise import Noise, step_generator
from diffi2i.methods.pixel_diffusion import PixelDiffusion, PixelDiffusionOptions
from diffi2i.methods.process import sampler_of, schedule_of
from diffi2i.metrics.image import lpips_alex
from diffi2i.metrics.spec import METRICS
from diffi2i.weights import lpips_trunk

DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mse": F.mse_loss, "lpips": lpips_alex}


@dataclass
class BoundaryOptions(PixelDiffusionOptions):
    """`draws` is K, the starts that are tried on as many `images`; `distance` is mse or lpips (AlexNet's, the paper's).

    All but the sampler are else those of the run that it starts from.
    """

    draws: int = 32
    images: int = 8
    distance: str = "mse"

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("draws", "images"):
            if (value := getattr(self, key)) < 1:
                raise UserError(f"method.{key}={value} must be at least 1")
        one_of("method.distance", self.distance, list(DISTANCES))
        schedule, drawn = schedule_of(self.diffusion), list[int]()

        def watched(t: int) -> Tensor:
            drawn.append(t)
            return torch.zeros(1)

        sampler_of(self.sampler, schedule)(lambda x, _: x, torch.zeros(1), schedule, watched)
        if drawn:
            raise UserError(
                "method.sampler draws noise at its steps, and a start is chosen for an ODE: write one without, as ddim "
                "with eta=0"
            )


class Boundary(PixelDiffusion):
    """Samples with the denoiser of a run of `method=pixel_diffusion`, which `init` is, from one start for all images.

    Attributes:
        start: x_T* (channels, h, w), the code of a training crop; zeros until `calibrate` has chosen it.
    """

    Options: ClassVar[type] = BoundaryOptions
    options: Any
    trains = False
    start: Tensor

    def __init__(self, config: Config, init: "PixelDiffusion | None" = None) -> None:
        super().__init__(config)
        side = config.train.patch
        self.register_buffer("start", torch.zeros(self.codec.channels, *grid_of(side, side, self.codec.factor)))
        if init is not None:
            self.load_state_dict(init.state_dict(), strict=False)  # which has no start, or one for other settings

    @classmethod
    def check(cls, config: Config, options: BoundaryOptions, init: Config | None) -> None:
        """It starts from a diffusion of the same codec, schedule and condition, and can measure the distance."""
        check_diffusion(config, init, LEARNT, OF_PIXELS)
        if options.distance != "lpips":
            return
        if config.train.patch < (smallest := METRICS["lpips_alex"].smallest):
            raise UserError(f"method.distance=lpips needs crops of {smallest} pixels: write train.patch={smallest + 1}")
        try:
            lpips_trunk("alex")
        except WeightsUnavailableError as error:
            raise UserError(f"{error}; or write method.distance=mse") from error

    def calibrate(self, batches: Iterator[Batch]) -> None:
        """x_T* = argmin over the draws x of the sum over the images of D(h(x, y), z), h the sampler."""
        pairs, best = list(islice(batches, self.options.images)), None
        random = step_generator(f"start, {self.config.seed}", 0, 0)
        draws = range(self.options.draws)
        chosen = self.start
        for _ in track(draws, "starts", transient=True, disable=not sys.stdout.isatty()):
            self.start = torch.randn(chosen.shape, generator=random).to(chosen)
            distance = float(torch.stack([self.distance(batch) for batch in pairs]).sum())
            if best is None or distance < best:
                best, chosen = distance, self.start
        self.start = chosen

    def distance(self, batch: Batch) -> Tensor:
        """Of what it makes of one image to the target, of images in [0, 1]."""
        output = kind_of(self.config.task).final(self.predict(batch, self.noise(batch)), batch)
        with torch.autocast(output.device.type, enabled=False):
            return DISTANCES[self.options.distance](output, batch["target"])

    def noise(self, batch: Batch) -> Noise:
        """x_T* for every image, side by side and below itself where the code is larger, and cut where it is smaller."""
        drawn = super().noise(batch)

        def draw(shape: Sequence[int], what: str = "") -> Tensor:
            if what:
                return drawn(shape, what)
            times = [-(-ours // own) for ours, own in zip(shape[1:], self.start.shape[1:], strict=True)]
            return self.start.repeat(1, *times)[:, : shape[1], : shape[2]].expand(len(batch["name"]), *shape)

        return draw
