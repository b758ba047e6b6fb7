"""Pixel losses on images: L1 and L2 over all pixels, LaMa's over the known ones, PSNR inside the hole."""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor


class L1:
    """Mean absolute difference of `output` and `batch["target"]`, both (B, C, H, W), in float32."""

    def __call__(self, output: Tensor, batch: Mapping[str, Any]) -> Tensor:
        return F.l1_loss(output.float(), batch["target"].float())


class L2:
    """Mean squared difference of `output` and `batch["target"]`, both (B, C, H, W), in float32."""

    def __call__(self, output: Tensor, batch: Mapping[str, Any]) -> Tensor:
        return F.mse_loss(output.float(), batch["target"].float())


class KnownL1:
    """Absolute difference outside `batch["mask"]` (B, 1, H, W, 1 = hole), in float32.

    As LaMa's `masked_l1_loss` with `weight_missing` 0: the sum over the known pixels is divided by the number of
    all pixels, so an image with a large hole counts less. LaMa's `weight_known` is this term's weight, 10.
    """

    def __call__(self, output: Tensor, batch: Mapping[str, Any]) -> Tensor:
        mask: Tensor = batch["mask"]
        target: Tensor = batch["target"]
        return ((1 - mask.float()) * (output.float() - target.float()).abs()).mean()


class HolePSNR:
    """ln(MSE + `floor`) inside `batch["mask"]` (B, 1, H, W, 1 = hole), a mean over the images, in float32.

    What PSNR inside the hole is but for its factor, -10 / ln 10, and for the floor: an image with a smaller squared
    error counts less and less. For holes filled without a discriminator; the known pixels are pasted back anyway. An
    image without a hole has an error of 0.
    """

    def __init__(self, floor: float = 2e-3) -> None:
        self.floor = floor

    def __call__(self, output: Tensor, batch: Mapping[str, Any]) -> Tensor:
        mask, target = batch["mask"].float(), batch["target"].float()
        squares = (mask * (output.float() - target).square()).sum(dim=(1, 2, 3))
        error = squares / (target.shape[1] * mask.sum(dim=(1, 2, 3))).clamp(min=1)
        loss: Tensor = (error + self.floor).log().mean()
        return loss
