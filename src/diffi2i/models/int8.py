"""Weights in 8 bits: whole numbers from -127 to 127, and for each output channel what one of them is worth."""

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

LARGEST = 127


class Int8(nn.Module):
    """A weight (C, ...) as int8 of its shape and a scale (C, 1, ...), of which it is the product wherever it is used.

    The scale is a channel's largest absolute value over 127; a channel of zeros has 1.
    """

    def forward(self, whole: Tensor, scale: Tensor) -> Tensor:
        return whole * scale

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        scale = weight.abs().amax(tuple(range(1, weight.ndim)), keepdim=True) / LARGEST
        scale = scale.where(scale > 0, 1)
        return (weight / scale).round().to(torch.int8), scale


def in_int8(module: nn.Module) -> None:
    """Rounds the weights of all linear layers and convolutions in it, whose biases and whose other weights stay."""
    for layer in [*module.modules()]:
        if isinstance(layer, nn.Linear | nn.Conv2d):
            layer.weight.requires_grad_(False)
            register_parametrization(layer, "weight", Int8())
