"""Depth errors over a validation set: one value per image, then the mean over images.

Formulas, valid pixels and crop are those of the evaluation code of BTS (cleinc/bts, `utils/eval_with_pngs.py`)
and AdaBins (shariqfarooq123/AdaBins, `evaluate.py`), so that numbers stand beside published ones. Pooling all
pixels of the set instead would weigh images by their valid pixels and change `rmse`. A `MeanMetric` per key
holds a sum and a count, which torchmetrics adds up over any shards.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.aggregation import MeanMetric, SumMetric

from diffi2i.errors import UserError
from diffi2i.metrics.spec import METRICS, of_kind

# Size of the image, and the window inside it: the part of a Kinect frame where NYU-Depth-v2 has depth after the
# projection onto the colour camera (Eigen et al. 2014).
_CROPS = {"eigen": ((480, 640), (slice(45, 471), slice(41, 601)))}


class DepthScores:
    """Means over the images of the functions below, each of an image's counted pixels.

    A pixel counts where it is valid, its target lies strictly between `min_depth` and `max_depth` (a sensor
    writes its limit for all that is farther), and the crop holds it. The prediction is clamped to
    [min_depth, max_depth], never left out. An image without any counted pixel is left out; `counts()` tells.

    The interface is that of `ImageScores`. Not an `nn.Module`, for the same reasons. Under DDP `compute`,
    `counts` and `reasons` are collective: every rank calls them, also one without images.

    Attributes:
        per_image: one record per image seen by this rank, `{"name": ..., "abs_rel": ..., ...}`; only the name
            where the image has no counted pixel.
    """

    def __init__(self, min_depth: float, max_depth: float, crop: str | None) -> None:
        """Raises `UserError` unless 0 < min_depth < max_depth and the crop is known.

        Args:
            min_depth, max_depth: metres. NYU-Depth-v2's evaluation has 1e-3 and 10.
            crop: None for the whole image, or `eigen`: rows 45 to 470 and columns 41 to 600 of 480 x 640.
        """
        if not 0 < min_depth < max_depth:
            raise UserError(f"depth scores: min_depth {min_depth} and max_depth {max_depth}; 0 < min < max is needed")
        if crop is not None and crop not in _CROPS:
            raise UserError(f"depth scores: unknown crop {crop!r}; write one of {', '.join(_CROPS)}, or null")
        self.min_depth, self.max_depth, self.crop = min_depth, max_depth, crop
        self.per_image: list[dict[str, str | float]] = []
        self._functions = {key: METRICS[key].make() for key in of_kind("depth")}
        self._means = {key: MeanMetric() for key in self._functions}
        self._seen = SumMetric()
        self.to("cpu")

    def to(self, device: torch.device | str) -> "DepthScores":
        """Move the sums to `device`, CPU or CUDA (they need float64); `update` moves images."""
        self._device = torch.device(device)
        self._seen.to(self._device)
        for mean in self._means.values():
            # float64: a sum of hundreds of errors must not depend on their order. Moving a metric sets the
            # dtype of its inputs back to float32.
            mean.to(self._device).set_dtype(torch.float64)
        return self

    @torch.no_grad()
    def update(self, pred: Tensor, target: Tensor, *, names: Sequence[str], mask: Tensor | None = None) -> None:
        """Score a batch.

        Args:
            pred: (B, 1, h, w) float metres; resized bilinearly to the target's size where that differs.
            target: (B, 1, H, W) float metres, 0 or more; anything where it is not valid.
            names: B names, for messages and records.
            mask: (B, 1, H, W), 1 = valid, 0 = no depth was measured; None where all is valid.

        Raises `UserError`, before any image of the batch is counted, for shapes that do not fit, NaN or
        infinite predictions, a valid target that is negative, NaN or infinite, a mask with other values than
        0 and 1, or an image of another size than the crop is defined for.
        """
        self._check(pred, target, names, mask)
        with torch.autocast(self._device.type, enabled=False):
            for i, name in enumerate(names):
                one = slice(i, i + 1)
                p, t = self._counted_pixels(pred[one], target[one], None if mask is None else mask[one])
                errors = {key: float(error(p, t)) for key, error in self._functions.items()} if t.numel() else {}
                for key, value in errors.items():
                    self._means[key].update(value)
                self._seen.update(1)
                self.per_image.append({"name": name, **errors})

    def compute(self) -> dict[str, float | None]:
        """Mean over the images of all ranks for each key; None where none has a counted pixel (see `reasons`)."""
        return {key: total / count if count else None for key, (total, count) in self._totals().items()}

    def counts(self) -> dict[str, int]:
        """Number of images, over all ranks, behind each mean."""
        return {key: count for key, (_, count) in self._totals().items()}

    def reasons(self) -> dict[str, str]:
        """Why a key of `compute` is None, one line for each such key."""
        with self._seen.sync_context():
            seen = int(self._seen.sum_value)
        why = "no image was scored"
        if seen:
            where = f" inside the {self.crop} crop" if self.crop else ""
            why = f"none of {seen} images has a valid depth between {self.min_depth} and {self.max_depth} m{where}"
        return {key: why for key, count in self.counts().items() if not count}

    def per_class(self) -> None:
        """None: there are no classes."""

    def reset(self) -> None:
        """Forget all images."""
        self.per_image = []
        self._seen.reset()
        for mean in self._means.values():
            mean.reset()

    def _totals(self) -> dict[str, tuple[float, int]]:
        totals = {}
        for key, mean in self._means.items():
            # MeanMetric.compute would give neither the count nor a quiet answer for no image at all.
            with mean.sync_context():
                totals[key] = (float(mean.mean_value), int(mean.weight))
        return totals

    def _counted_pixels(self, pred: Tensor, target: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Prediction and target of one image, (1, 1, ., .) -> both (number of counted pixels,) float64."""
        pred, target = pred.to(self._device).double(), target.to(self._device)
        if pred.shape[-2:] != target.shape[-2:]:
            pred = F.interpolate(pred, target.shape[-2:], mode="bilinear", align_corners=False)
        # In the target's own precision: 1e-3 stored as float32 is above 1e-3 in float64, and would count.
        counted = (target > self.min_depth) & (target < self.max_depth)
        if mask is not None:
            counted &= mask.to(self._device) > 0.5
        if self.crop is not None:
            rows, columns = _CROPS[self.crop][1]
            inside = torch.zeros_like(counted)
            inside[..., rows, columns] = True
            counted &= inside
        return pred.clamp(self.min_depth, self.max_depth)[counted], target.double()[counted]

    def _check(self, pred: Tensor, target: Tensor, names: Sequence[str], mask: Tensor | None) -> None:
        which = ", ".join(names)
        for what, depth in (("pred", pred), ("target", target)):
            if depth.ndim != 4 or depth.shape[1] != 1 or not depth.is_floating_point():
                raise UserError(
                    f"scores of {which}: {what} is {tuple(depth.shape)} {depth.dtype}; "
                    "it must be float metres of shape (B, 1, H, W)"
                )
        if not len(names) == len(pred) == len(target):
            raise UserError(
                f"scores of {which}: {len(names)} names for {len(pred)} predictions and {len(target)} targets"
            )
        if mask is not None and mask.shape != target.shape:
            raise UserError(f"scores of {which}: mask is {tuple(mask.shape)}; target is {tuple(target.shape)}")
        if self.crop is not None and target.shape[-2:] != _CROPS[self.crop][0]:
            height, width = _CROPS[self.crop][0]
            raise UserError(
                f"scores of {which}: the {self.crop} crop is for targets of {height} x {width} pixels, "
                f"this one has {target.shape[-2]} x {target.shape[-1]}; use crop=null"
            )
        for i, name in enumerate(names):
            if not pred[i].isfinite().all():
                raise UserError(f"scores of {name}: the prediction has NaN or infinite values")
            if mask is not None and not ((mask[i] == 0) | (mask[i] == 1)).all():
                raise UserError(f"scores of {name}: the mask has other values than 0 (no depth) and 1 (valid)")
            valid = target[i] if mask is None else target[i][mask[i].to(target.device) == 1]
            if not (valid.isfinite() & (valid >= 0)).all():
                raise UserError(f"scores of {name}: the target has negative, NaN or infinite depth where it is valid")


# Each of prediction p and target t over an image's counted pixels, (N,) float64 metres, N > 0.


def abs_rel(p: Tensor, t: Tensor) -> Tensor:
    """Mean of |p - t| / t."""
    return ((p - t).abs() / t).mean()


def rmse(p: Tensor, t: Tensor) -> Tensor:
    """Root of the mean of (p - t)^2, in metres."""
    return (p - t).square().mean().sqrt()


def log10(p: Tensor, t: Tensor) -> Tensor:
    """Mean of |log10 p - log10 t|."""
    return (p.log10() - t.log10()).abs().mean()


def delta1(p: Tensor, t: Tensor) -> Tensor:
    """Share of pixels with max(p/t, t/p) < 1.25."""
    return _share_within(1.25, p, t)


def delta2(p: Tensor, t: Tensor) -> Tensor:
    """As `delta1`, < 1.25^2."""
    return _share_within(1.25**2, p, t)


def delta3(p: Tensor, t: Tensor) -> Tensor:
    """As `delta1`, < 1.25^3."""
    return _share_within(1.25**3, p, t)


def silog(p: Tensor, t: Tensor) -> Tensor:
    """100 times the standard deviation of ln p - ln t: 0 for a prediction that is off by one factor."""
    # BTS writes mean(e^2) - mean(e)^2, which rounding can make negative.
    return 100 * (p.log() - t.log()).var(correction=0).sqrt()


def rmse_log(p: Tensor, t: Tensor) -> Tensor:
    """Root of the mean of (ln p - ln t)^2."""
    return (p.log() - t.log()).square().mean().sqrt()


def _share_within(factor: float, p: Tensor, t: Tensor) -> Tensor:
    return (torch.maximum(p / t, t / p) < factor).double().mean()
