"""The spaces in which images are diffused: their pixels, the pixels unshuffled, or an autoencoder's codes."""

from typing import Protocol

import torch.nn.functional as F
from torch import Tensor

from diffi2i.config.build import build
from diffi2i.config.schema import Config, TaskConfig
from diffi2i.errors import UserError
from diffi2i.models.padding import pad_to
from diffi2i.models.precision import at_least_float32

OF_PIXELS = ("pixels", "unshuffled")
CODECS = (*OF_PIXELS, "latent")


class Codec(Protocol):
    """`encode` maps (B, 3, H, W) in [-1, 1], sides multiples of `factor`, to (B, channels, H / factor, W / factor).

    `decode` maps it back, and `bounded` tells whether codes lie in [-1, 1].
    """

    channels: int
    factor: int
    bounded: bool

    def encode(self, image: Tensor) -> Tensor: ...
    def decode(self, code: Tensor) -> Tensor: ...


class Unshuffled:
    """A permutation: each block of `factor` x `factor` pixels is one position with as many more channels."""

    bounded = True

    def __init__(self, factor: int) -> None:
        self.factor, self.channels = factor, 3 * factor**2

    def encode(self, image: Tensor) -> Tensor:
        return F.pixel_unshuffle(image, self.factor)

    def decode(self, code: Tensor) -> Tensor:
        return F.pixel_shuffle(code, self.factor)


def codec_of(name: str, config: Config) -> Codec:
    """The codec of that name; `latent` is a new autoencoder of the model's sizes.

    Raises:
        UserError: the model has no autoencoder, or one that cannot be.
    """
    if name != "latent":
        return Unshuffled(4 if name == "unshuffled" else 1)
    return new_autoencoder(config)


def new_autoencoder(config: Config) -> Codec:
    """`model.autoencoder`. Raises `UserError`: there is none, or one that cannot be."""
    if config.model.autoencoder is None:
        raise UserError(f"model={config.model.name} has no autoencoder for method.codec=latent: name another model")
    autoencoder: Codec = build(config.model.autoencoder, "model.autoencoder")
    return autoencoder


def grid_of(height: int, width: int, factor: int) -> tuple[int, int]:
    """The codes' sides for a target of that size: at least 2, since the networks normalise over pixels."""
    return max(2, -(-height // factor)), max(2, -(-width // factor))


def on_grid(image: Tensor, factor: int) -> Tensor:
    """(B, C, H, W), padded at the bottom and right so that `factor` divides it into `grid_of`."""
    height, width = grid_of(image.shape[-2], image.shape[-1], factor)
    return pad_to(image, height * factor, width * factor)


def decoded(codec: Codec, code: Tensor, height: int, width: int) -> Tensor:
    """The image of a code without what `on_grid` has padded: (B, 3, height, width), float32 or more."""
    return at_least_float32(codec.decode(code))[..., :height, :width]


def channels_seen(task: TaskConfig, codec: Codec) -> int:
    """Those of `condition_of`."""
    return task.in_channels * max(1, codec.factor // task.scale) ** 2


def condition_of(image: Tensor, scale: int, factor: int, enlarged: Tensor) -> Tensor:
    """The input (B, C, h, w) in [0, 1] on the grid of the codes of the target, in [-1, 1].

    Where the grid is no finer than the input's pixels these are unshuffled; else the target's grid is that of
    `enlarged` (B, C, scale h, scale w).
    """
    if factor % scale == 0:
        times = factor // scale
        return 2 * F.pixel_unshuffle(on_grid(image, times), times) - 1
    return 2 * F.pixel_unshuffle(on_grid(enlarged, factor), factor) - 1
