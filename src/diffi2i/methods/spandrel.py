"""Other authors' networks with their weights, in the classes of the package spandrel.

No configuration names this method: `diffi2i import spandrel` makes its runs, see `methods.imports.spandrel`. The
network is `model.network`, spandrel's own class with the sizes that it found in the weights.
"""

import warnings
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from diffi2i.config.schema import Config
from diffi2i.methods.batch import Batch
from diffi2i.methods.method import Method
from diffi2i.methods.noise import Noise
from diffi2i.models.diffi2i import build_network
from diffi2i.models.padding import pad_to


@dataclass
class SpandrelOptions:
    """The name of the file that the weights come from, without its folder and ending, and what its network asks for.

    The sides of an image must be multiples of `multiple` pixels, and no shorter than `minimum`.
    """

    file: str
    minimum: int
    multiple: int


class Spandrel(Method):
    """Predicts with `model.network`, and does not train it."""

    Options: ClassVar[type] = SpandrelOptions
    options: SpandrelOptions
    trains = False

    def __init__(self, config: Config, init: Method | None = None) -> None:
        super().__init__(config)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of torch.jit, which some of spandrel's modules use
            self.network = build_network(config.model, prior=False)

    def predict(self, batch: Batch, noise: Noise) -> Tensor:
        height, width = batch["input"].shape[-2:]
        minimum, multiple, scale = self.options.minimum, self.options.multiple, self.config.task.scale
        sides = [-(-max(side, minimum) // multiple) * multiple for side in (height, width)]
        seen = [pad_to(batch[key], *sides) for key in ("input", "mask") if key in batch]
        kind = self.device.type
        # LaMa's Fourier transforms take no bfloat16 on a GPU.
        with torch.autocast(kind, enabled="mask" not in batch and torch.is_autocast_enabled(kind)):
            output = self.network(*seen)
        last: Tensor = output[0] if isinstance(output, tuple) else output  # MPRNet has an image of each stage
        return last.float()[..., : height * scale, : width * scale]

    def parts(self) -> dict[str, nn.Module]:
        return {"network": self.network}

    @property
    def label(self) -> str:
        """The architecture and the file: authors give many files to one architecture."""
        return f"{self.config.model.name.partition('-')[0]}, {self.options.file}"
