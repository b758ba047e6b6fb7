"""Objectives of dense prediction: cross-entropy on labels, the scale-invariant logarithmic loss on depth."""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

# Keeps the root's slope finite where output and target agree; raises the loss there by 1e-5.
_EPS = 1e-12


class CrossEntropy:
    """Mean over the labelled pixels of -log softmax(output)[label], in float32.

    `output` is (B, K, h, w) logits, resized bilinearly to the labels where the sizes differ; `batch["target"]` is
    (B, H, W) int64, `ignore` where nobody labelled. A batch without any label gives 0.
    """

    def __init__(self, ignore: int = 255) -> None:
        self.ignore = ignore

    def __call__(self, output: Tensor, batch: Mapping[str, Any]) -> Tensor:
        labels: Tensor = batch["target"]
        logits = output.float()
        if logits.shape[-2:] != labels.shape[-2:]:
            logits = F.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False)
        total = F.cross_entropy(logits, labels, ignore_index=self.ignore, reduction="sum")
        return total / (labels != self.ignore).sum().clamp(min=1)


class SILog:
    """10 sqrt(mean(d^2) - variance_focus mean(d)^2), d = log output - log target over the valid pixels, in float32.

    Eigen et al.'s scale-invariant error, as BTS writes it (`silog_loss`, factor 10 and variance_focus 0.85 included);
    AdaBins takes the unbiased variance in its place, which differs by a part in the number of pixels. The mean runs
    over the pixels of the whole batch.

    `output` and `batch["target"]` are (B, 1, H, W) metres, `output` positive. A pixel is valid where the target is
    positive and `batch["valid"]` (B, 1, H, W), if there, is 1. A batch without a valid pixel gives 0.
    """

    def __init__(self, variance_focus: float = 0.85) -> None:
        self.variance_focus = variance_focus

    def __call__(self, output: Tensor, batch: Mapping[str, Any]) -> Tensor:
        target: Tensor = batch["target"].float()
        valid = target > 0
        if "valid" in batch:
            valid = valid & (batch["valid"] > 0.5)
        d = output.float()[valid].log() - target[valid].log()
        if d.numel() == 0:
            return d.sum()
        # The same number as in the formula, without the difference of two squares that rounding may turn negative.
        spread = (d - d.mean()).square().mean() + (1 - self.variance_focus) * d.mean().square()
        return 10 * (spread + _EPS).sqrt()
