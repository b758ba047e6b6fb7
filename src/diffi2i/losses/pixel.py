"""L1 on images: over all pixels, and LaMa's over the known ones."""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor


class L1:
    """Mean absolute difference of `output` and `batch["target"]`, both (B, C, H, W), in float32."""

    def __call__(self, output: Tensor, batch: Mapping[str, Any]) -> Tensor:
        return F.l1_loss(output.float(), batch["target"].float())


class KnownL1:
    """Absolute difference outside `batch["mask"]` (B, 1, H, W, 1 = hole), in float32.

    As LaMa's `masked_l1_loss` with `weight_missing` 0: the sum over the known pixels is divided by the number of
    all pixels, so an image with a large hole counts less. LaMa's `weight_known` is this term's weight, 10.
    """

    def __call__(self, output: Tensor, batch: Mapping[str, Any]) -> Tensor:
        mask: Tensor = batch["mask"]
        target: Tensor = batch["target"]
        return ((1 - mask.float()) * (output.float() - target.float()).abs()).mean()
