"""mIoU and pixel accuracies of predicted label maps: one confusion matrix over the whole validation set.

Unlike restoration's scores, mIoU is not a mean over images: the pixels of all images are pooled first, so that
a class which is rare in each image still counts as one class. The matrix is torchmetrics', int64 (exact), and
torchmetrics adds it up over any shards. The ratios taken from it are mmsegmentation's (`IoUMetric`:
`mIoU`, `aAcc`, `mAcc`), as fractions instead of per cent.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.aggregation import SumMetric
from torchmetrics.classification import MulticlassConfusionMatrix

from diffi2i.errors import UserError
from diffi2i.kinds.spec import IGNORED
from diffi2i.metrics.spec import METRICS, of_kind

# What the records of images hold: of one image the mean accuracy says little.
_OF_IMAGES = ("miou", "pixel_accuracy")


class SegmentationScores:
    """Scores of a whole set, each in [0, 1], over the pixels whose label is not 255: the functions below.

    The interface is that of `ImageScores`. Not an `nn.Module`, for the same reasons. Under DDP `compute`,
    `per_class`, `counts` and `reasons` are collective: every rank calls them, also one without images.

    Attributes:
        per_image: one record per image seen by this rank, `{"name": ..., "miou": ..., "pixel_accuracy": ...}`.
            Here `miou` is that of the image alone, over the classes that occur in it: the mean of these is not
            the set's mIoU. An image without a single labelled pixel has only its name.
    """

    def __init__(self, classes: int) -> None:
        """`classes`: K, 2 to 255, since 255 is the label of ignored pixels; else `UserError`."""
        if not 2 <= classes <= IGNORED:
            raise UserError(f"segmentation scores: {classes} classes; give 2 to {IGNORED}, labels are 0 to classes - 1")
        self.classes = classes
        self._functions = {key: METRICS[key].make() for key in of_kind("labels")}
        self.per_image: list[dict[str, str | float]] = []
        # `_check` has looked at the values; torchmetrics' own check costs a sort of every label map.
        self._confusion = MulticlassConfusionMatrix(classes, ignore_index=IGNORED, validate_args=False)
        self._seen, self._scored = SumMetric(), SumMetric()
        self._device = torch.device("cpu")

    def to(self, device: torch.device | str) -> "SegmentationScores":
        """Move the sums to `device`; `update` moves images."""
        self._device = torch.device(device)
        for metric in (self._confusion, self._seen, self._scored):
            metric.to(self._device)
        return self

    @torch.no_grad()
    def update(self, pred: Tensor, target: Tensor, *, names: Sequence[str], mask: Tensor | None = None) -> None:
        """Count the pixels of a batch.

        Args:
            pred: (B, K, h, w) float logits; resized bilinearly to the target's size where that differs, before
                the arg max, as mmsegmentation does.
            target: (B, H, W) int64 labels, 0 to K - 1, or 255 = ignored.
            names: B names, for messages and records.
            mask: not used; ignored pixels are in the target.

        Raises `UserError`, before any image of the batch is counted, for shapes or types that do not fit, NaN
        or infinite logits, or another label.
        """
        self._check(pred, target, names)
        with torch.autocast(self._device.type, enabled=False):
            # One image at a time: 150 classes at full size are hundreds of megabytes each.
            for name, logits, labels in zip(names, pred, target, strict=True):
                predicted = self._labels(logits, (labels.shape[0], labels.shape[1]))
                # Calling the metric adds to its sum and returns this image's share, without any communication.
                confusion = self._confusion(predicted, labels.to(self._device))
                self._seen.update(1)
                record: dict[str, str | float] = {"name": name}
                if confusion.any():
                    self._scored.update(1)
                    record |= {key: float(self._functions[key](confusion)) for key in _OF_IMAGES}
                self.per_image.append(record)

    def compute(self) -> dict[str, float | None]:
        """The scores of all images of all ranks; None where no pixel was labelled (see `reasons`)."""
        confusion = self._total()
        labelled = bool(confusion.any())
        return {key: float(score(confusion)) if labelled else None for key, score in self._functions.items()}

    def per_class(self) -> list[float | None]:
        """K values of IoU over the set; None for a class that neither occurs nor is predicted."""
        return [None if iou != iou else iou for iou in _ious(self._total()).tolist()]

    def counts(self) -> dict[str, int]:
        """Number of images, over all ranks, behind each score: those with a labelled pixel."""
        return dict.fromkeys(self._functions, _total_of(self._scored))

    def reasons(self) -> dict[str, str]:
        """Why a key of `compute` is None, one line for each such key."""
        scored, seen = _total_of(self._scored), _total_of(self._seen)
        why = f"all pixels of all {seen} images are ignored (label {IGNORED})" if seen else "no image was scored"
        return {} if scored else dict.fromkeys(self._functions, why)

    def reset(self) -> None:
        """Forget all images."""
        self.per_image = []
        for metric in (self._confusion, self._seen, self._scored):
            metric.reset()

    def _labels(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """(K, h, w) logits -> (H, W) labels."""
        logits = logits[None].to(self._device).float()
        if logits.shape[-2:] != size:
            logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
        return logits[0].argmax(dim=0)

    def _total(self) -> Tensor:
        # The metric's own compute warns on a rank without images.
        with self._confusion.sync_context():
            return self._confusion.confmat.clone()

    def _check(self, pred: Tensor, target: Tensor, names: Sequence[str]) -> None:
        which = ", ".join(names)
        if pred.ndim != 4 or pred.shape[1] != self.classes or not pred.is_floating_point():
            raise UserError(
                f"scores of {which}: pred is {tuple(pred.shape)} {pred.dtype}; "
                f"it must be float logits of shape (B, {self.classes}, h, w)"
            )
        if target.ndim != 3 or target.dtype != torch.int64:
            raise UserError(
                f"scores of {which}: target is {tuple(target.shape)} {target.dtype}; it must be int64 (B, H, W)"
            )
        if not len(names) == len(pred) == len(target):
            raise UserError(
                f"scores of {which}: {len(names)} names for {len(pred)} predictions and {len(target)} targets"
            )
        for name, logits, labels in zip(names, pred, target, strict=True):
            if not logits.isfinite().all():
                raise UserError(f"scores of {name}: the prediction has NaN or infinite values")
            wrong = labels[(labels != IGNORED) & ((labels < 0) | (labels >= self.classes))]
            if wrong.numel():
                raise UserError(
                    f"scores of {name}: the target has label {int(wrong[0])}; "
                    f"labels are 0 to {self.classes - 1}, or {IGNORED} for ignored"
                )


# Each of a confusion matrix, (K, K) counts, rows = target, not all zero.


def miou(confusion: Tensor) -> Tensor:
    """Intersection over union, mean over the classes that occur in a target or a prediction anywhere in the set.

    A class absent from both has no IoU (0/0) and is left out, as in mmsegmentation; one that is only predicted has an
    IoU of 0 and counts.
    """
    return _ious(confusion).nanmean()


def pixel_accuracy(confusion: Tensor) -> Tensor:
    """Share of pixels with the right class."""
    return confusion.diagonal().double().sum() / confusion.sum()


def mean_accuracy(confusion: Tensor) -> Tensor:
    """Share of each class's own pixels that are right, mean over the classes in the targets."""
    return (confusion.diagonal().double() / confusion.sum(dim=1)).nanmean()


def _ious(confusion: Tensor) -> Tensor:
    """(K, K) counts, rows = target, columns = prediction -> (K,) float64 IoU, NaN for a class in neither."""
    right = confusion.diagonal()
    # Integers divide in float32 otherwise.
    return right.double() / (confusion.sum(dim=0) + confusion.sum(dim=1) - right)


def _total_of(metric: SumMetric) -> int:
    with metric.sync_context():
        return int(metric.sum_value)
