"""A denoiser that has learnt images without a condition, and a second encoder that brings it one (CoDi, Sec. 4.1)."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from diffi2i.models.precision import at_least_float32
from diffi2i.models.unet import DenoisingUNet, at_the_end, embedding


class AdaptedUNet(nn.Module):
    """The denoiser with h' = (1 - mu) h + mu h_eta(c) in place of each of its encoder's features h (Eq. 12).

    h are the skips and what leaves the middle, each with a scalar mu of its own, 0 at first. h_eta is a copy of the
    encoder as it is when this is made, but for its first convolution, which reads the condition and so begins anew. It
    reads the denoiser's embedding of the time.

    Args:
        denoiser: without a condition; it becomes a part of this network.
        channels: of the condition.
    """

    def __init__(self, denoiser: DenoisingUNet, channels: int) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.encoder = encoder_of(denoiser.unet, channels)
        self.mu = nn.Parameter(torch.zeros(denoiser.skips + 1))

    @property
    def depth(self) -> int:
        """The denoiser's."""
        return self.denoiser.depth

    def keep(self, depth: int) -> None:
        """As `DenoisingUNet.keep`, in both encoders. Raises `ValueError` likewise."""
        before = self.depth
        self.denoiser.keep(depth)
        if depth < before:
            encoder = encoder_of(self.denoiser.unet, self.encoder.conv_in.in_channels)
            kept = encoder.state_dict().keys()
            encoder.load_state_dict({key: value for key, value in self.encoder.state_dict().items() if key in kept})
            self.encoder = encoder
            self.mu = nn.Parameter(torch.cat([self.mu[:depth], self.mu[-1:]]).detach())

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """As `DenoisingUNet`, of `x` (B, ..., H, W) the last `channels` are the condition."""
        (height, width), unet = x.shape[-2:], self.denoiser.unet
        padded, time = self.denoiser.prepared(x, time)
        noised, condition = padded.tensor_split([unet.conv_in.in_channels], dim=1)
        embedded = embedding(unet, time)
        pairs = zip(encoded(unet, noised, embedded), encoded(self.encoder, condition, embedded), strict=True)
        features = [(1 - mu) * h + mu * other for mu, (h, other) in zip(self.mu, pairs, strict=True)]
        return at_least_float32(decoded(unet, features, embedded)[..., :height, :width])


def encoder_of(unet: Any, channels: int) -> Any:
    """A copy of the encoder of diffusers' U-Net, for `channels`: with a first convolution of its own."""
    encoder = deepcopy(unet).requires_grad_()
    first = encoder.conv_in
    encoder.conv_in = nn.Conv2d(channels, first.out_channels, first.kernel_size, padding=first.padding)
    for name in ("time_embedding", "up_blocks", "conv_norm_out", "conv_out"):
        delattr(encoder, name)
    return encoder


def encoded(unet: Any, x: Tensor, embedded: Tensor) -> list[Tensor]:
    """What the decoder of diffusers' U-Net needs of `x`: the skips from the finest level on, at last the middle."""
    h = unet.conv_in(x)
    skips = [h]
    for block in unet.down_blocks:
        h, of_block = block(h, embedded)
        skips += of_block
    return [*skips, unet.mid_block(h, embedded)]


def decoded(unet: Any, features: Sequence[Tensor], embedded: Tensor) -> Tensor:
    """What the U-Net makes of `features`, see `encoded`."""
    *skips, h = features
    for block in unet.up_blocks:
        first = len(skips) - len(block.resnets)
        h = block(h, tuple(skips[first:]), embedded)
        skips = skips[:first]
    return at_the_end(unet, h)
