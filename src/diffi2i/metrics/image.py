"""PSNR, SSIM, LPIPS and DISTS of restored images over a validation set, one score per image, then the mean.

The scores are torchmetrics' functions applied to one image at a time. Its PSNR, SSIM and LPIPS metrics are
not used to accumulate: PSNR pools the squared error over images unless told otherwise, SSIM averages over
reflected borders, and the list states of PSNR(dim=...) and LPIPS go wrong or hang under DDP when ranks have
different numbers of images. A `MeanMetric` per key holds a sum and a count, which torchmetrics adds up over
any shards.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Literal, cast

import kornia.metrics
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.aggregation import MeanMetric, SumMetric
from torchmetrics.functional.image import peak_signal_noise_ratio

# Private, and the least of the evils: the public classes download torchvision's weights when they are built.
from torchmetrics.functional.image.dists import _PATH_WEIGHT_DISTS, DISTSNetwork, L2pooling
from torchvision.models import vgg16

from diffi2i.config.schema import ProtocolConfig
from diffi2i.data.resize import to_uint8
from diffi2i.errors import UserError, WeightsUnavailableError
from diffi2i.losses.perceptual import lpips_network
from diffi2i.metrics.distribution import DistributionScores
from diffi2i.metrics.spec import METRICS, of_kind
from diffi2i.weights import Net, lpips_trunk

_SSIM_WINDOW = 11
# A network may overshoot [0, 1] (the clamp is for that); beyond this the image has another range, say 0-255.
_OVERSHOOT = 8.0


def rgb_to_y(image: Tensor) -> Tensor:
    """Luma of BT.601 limited range, as MATLAB's rgb2ycbcr on floats: (B, 3, H, W) in [0, 1] -> (B, 1, H, W).

    The result is in [16/255, 235/255], in the input's dtype, and not rounded to 8 bits.
    """
    weights = image.new_tensor([65.481, 128.553, 24.966]).view(1, 3, 1, 1) / 255
    return (image * weights).sum(dim=1, keepdim=True) + 16 / 255


class ImageScores:
    """Means of the per-image scores that the protocol's `metrics` name, in the order of `spec.METRICS`.

    Prediction and target are clamped to [0, 1] and rounded to 8 bits first, so the scores are those of the
    saved PNGs. `psnr_y` and `ssim_y` are on `rgb_to_y`, with a data range of 1 as for RGB. SSIM has Wang's
    11x11 Gaussian window of sigma 1.5, averaged over the valid region and the channels; it equals
    scikit-image's with `gaussian_weights=True, sigma=1.5, use_sample_covariance=False`, less 5 pixels of
    border; `ssim_3d` is MATLAB's of an RGB array (see the function). `psnr_hole` is over the RGB values inside
    the mask. PSNR is not capped: one image equal to its target makes the mean infinite. `lpips_alex` and
    `lpips_vgg` are LPIPS 0.1 (Zhang et al. 2018) on AlexNet and VGG-16; `dists` is DISTS (Ding et al. 2020) with
    its published alpha and beta. All three see the image at its own size, as the networks of the reference
    packages and of pyiqa do, and whole: PSNR and SSIM alone leave out the protocol's border, as in the scripts
    by which the paper's authors score DiffIR. The script beside DISTS' network shrinks images to a short side of
    256 pixels first (`prepare_image`; off in its package 0.1): its numbers are others.

    An image smaller than the score's `smallest` is left out of that score, as is one whose mask is empty or absent;
    `counts()` tells.

    Not an `nn.Module`, on purpose: as a child of the LightningModule its sums would follow the model to bf16.
    Call `to(device)` where the model moves. Under DDP `compute`, `counts` and `reasons` are collective: every
    rank calls them, also one without images.

    Attributes:
        per_image: one record per image seen by this rank, `{"name": ..., "psnr": ..., ...}`, without the keys
            that do not apply.
    """

    def __init__(self, protocol: ProtocolConfig, statistics: Path | None = None) -> None:
        """Fetches the weights of the networks asked for; where they cannot be had, the score is None.

        Args:
            protocol: `metrics` and `border`.
            statistics: see `DistributionScores`.
        """
        self.protocol = protocol
        self.per_image: list[dict[str, str | float]] = []
        asked = [key for key in of_kind("image") if key in protocol.metrics]
        self._whole_set = DistributionScores([key for key in asked if METRICS[key].of_set], statistics)
        self._metrics = {key: METRICS[key] for key in asked if not METRICS[key].of_set}
        self._functions = {key: metric.make() for key, metric in self._metrics.items()}
        self._means = {key: MeanMetric() for key in self._metrics}
        self._seen = SumMetric()
        self._missing: dict[str, str] = {}
        for key, metric in self._metrics.items():
            if metric.weights:
                try:
                    _trunk(cast(Net, metric.weights))
                except WeightsUnavailableError as error:
                    self._missing[key] = str(error)
        self.to("cpu")

    def to(self, device: torch.device | str) -> "ImageScores":
        """Move the sums to `device`, CPU or CUDA (they need float64), and score there; `update` moves images."""
        self._device = torch.device(device)
        self._seen.to(self._device)
        self._whole_set.to(self._device)
        for mean in self._means.values():
            # float64: a sum of thousands of scores must not depend on their order. Moving a metric sets the
            # dtype of its inputs back to float32.
            mean.to(self._device).set_dtype(torch.float64)
        return self

    @torch.no_grad()
    def update(self, pred: Tensor, target: Tensor, *, names: Sequence[str], mask: Tensor | None = None) -> None:
        """Score a batch.

        Args:
            pred: (B, 3, H, W) float RGB around [0, 1].
            target: (B, 3, H, W) float RGB in [0, 1].
            names: B names, for messages and records.
            mask: (B, 1, H, W), 1 = hole, 0 = known.

        Raises `UserError`, before any image of the batch is counted, for shapes that do not fit, NaN or
        infinite values, a target outside [0, 1], a prediction beyond [-8, 9] (it has another range), a mask
        with other values than 0 and 1, or a border that leaves nothing of the image.
        """
        _check(pred, target, names, mask, self.protocol.border)
        with torch.autocast(self._device.type, enabled=False):
            pred, target = (self._prepare(image) for image in (pred, target))
            hole = None if mask is None else mask.to(self._device) > 0.5
            self._whole_set.update(pred, target, names=names)
            for i, name in enumerate(names):
                one = slice(i, i + 1)
                scores = self._score(pred[one], target[one], None if hole is None else hole[one])
                for key, score in scores.items():
                    self._means[key].update(score)
                self._seen.update(1)
                self.per_image.append({"name": name, **scores})

    def compute(self) -> dict[str, float | None]:
        """The score over the images of all ranks for each key; None where none has it (see `reasons`)."""
        means = {key: total / count if count else None for key, (total, count) in self._totals().items()}
        return means | self._whole_set.compute()

    def counts(self) -> dict[str, int]:
        """Number of images, over all ranks, behind each score."""
        return {key: count for key, (_, count) in self._totals().items()} | self._whole_set.counts()

    def reasons(self) -> dict[str, str]:
        """Why a key of `compute` is None, one line for each such key."""
        with self._seen.sync_context():
            seen = bool(self._seen.sum_value)
        counts = {key: count for key, (_, count) in self._totals().items()}
        why = dict.fromkeys(counts, "no image was scored")
        if seen:
            for key, metric in self._metrics.items():
                why[key] = f"no image has {metric.smallest} pixels on each side"
                if metric.of == "hole":
                    why[key] = "no image came with a mask that has a hole"
        why |= self._missing
        return {key: why[key] for key, count in counts.items() if not count} | self._whole_set.reasons()

    def per_class(self) -> None:
        """None: there are no classes."""

    def reset(self) -> None:
        """Forget all images."""
        self.per_image = []
        self._seen.reset()
        self._whole_set.reset()
        for mean in self._means.values():
            mean.reset()

    def _totals(self) -> dict[str, tuple[float, int]]:
        totals = {}
        for key, mean in self._means.items():
            # MeanMetric.compute would give neither the count nor a quiet answer for no image at all.
            with mean.sync_context():
                totals[key] = (float(mean.mean_value), int(mean.weight))
        return totals

    def _crop(self, image: Tensor) -> Tensor:
        border = self.protocol.border
        return image[..., border : image.shape[-2] - border, border : image.shape[-1] - border]

    def _prepare(self, image: Tensor) -> Tensor:
        # The same rounding as the saved file's: ties at half a level fall differently in float32 and float64.
        return to_uint8(image.to(self._device)).double() / 255

    def _score(self, pred: Tensor, target: Tensor, hole: Tensor | None) -> dict[str, float]:
        """All scores that apply to one image, (1, 3, H, W) float64."""
        cropped = (self._crop(pred), self._crop(target))
        images = {"whole": (pred, target), "cropped": cropped, "luma": (rgb_to_y(cropped[0]), rgb_to_y(cropped[1]))}
        if hole is not None and self._crop(hole).any():
            inside = self._crop(hole).expand_as(cropped[0])
            images["hole"] = (cropped[0][inside], cropped[1][inside])
        return {
            key: float(self._functions[key](*images[metric.of]))
            for key, metric in self._metrics.items()
            if key not in self._missing
            and metric.of in images
            and min(images[metric.of][0].shape[-2:]) >= metric.smallest
        }


def psnr(pred: Tensor, target: Tensor) -> Tensor:
    """Of two equal shapes in [0, 1], in decibels; infinite where they are equal."""
    return peak_signal_noise_ratio(pred, target, data_range=1.0)


def ssim(pred: Tensor, target: Tensor) -> Tensor:
    """SSIM (Wang et al. 2004) of two (1, C, H, W) images in [0, 1], at least 11 pixels on each side."""
    # torchmetrics has a window of 11 x 11 weights where this has two lines of them, and takes four times as long.
    similarity: Tensor = kornia.metrics.ssim(
        _convolvable(pred), _convolvable(target), _SSIM_WINDOW, eps=0.0, padding="valid"
    )
    return similarity.double().mean()


def ssim_3d(pred: Tensor, target: Tensor) -> Tensor:
    """SSIM of two (1, 3, H, W) float images in [0, 1] of any size, as MATLAB's `ssim` of two RGB arrays.

    Without a `DataFormat` MATLAB takes height, width and colour for the three axes of a volume: its Gaussian of sigma
    1.5 has 11 x 11 x 11 weights, edge voxels are repeated beyond the edge (also beyond red and blue), and the mean is
    over all voxels. K1 is 0.01 and K2 0.03, as for images. GoPro and HIDE are scored so.
    """
    pred, target = _convolvable(pred), _convolvable(target)
    edge = _SSIM_WINDOW // 2
    stack = torch.cat([pred, target, pred * pred, target * target, pred * target])
    filtered = F.conv2d(F.pad(stack, [edge] * 4, mode="replicate"), _colour_gaussian().to(stack))
    p, t, pp, tt, pt = filtered.unbind()
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * p * t + c1) * (2 * (pt - p * t) + c2) / ((p * p + t * t + c1) * (pp - p * p + tt - t * t + c2))
    return similarity.double().mean()


def lpips_alex(pred: Tensor, target: Tensor) -> Tensor:
    """LPIPS 0.1 on AlexNet, of two (1, 3, H, W) images in [0, 1]; its trunk must be there."""
    return _lpips("alex", pred, target)


def lpips_vgg(pred: Tensor, target: Tensor) -> Tensor:
    """LPIPS 0.1 on VGG-16, as `lpips_alex`."""
    return _lpips("vgg", pred, target)


def dists(pred: Tensor, target: Tensor) -> Tensor:
    """DISTS of two (1, 3, H, W) images in [0, 1]; VGG-16's trunk must be there."""
    pred, target = _convolvable(pred), _convolvable(target)
    distance: Tensor = _network("dists", pred.device, pred.dtype)(pred, target)
    return distance


def _lpips(net: Net, pred: Tensor, target: Tensor) -> Tensor:
    pred, target = _convolvable(pred), _convolvable(target)
    distance: Tensor = _network(net, pred.device, pred.dtype)(pred, target, normalize=True)
    return distance


def _convolvable(image: Tensor) -> Tensor:
    """The image in the precision of convolutions: float64 stays on a GPU and is float32 on a CPU."""
    # On a CPU float64 convolution is six times slower and moves SSIM by 3e-6 on a photo, 3e-5 on flat colour. A GPU
    # has it cheaply, and may take TF32 for float32, which SSIM's differences do not survive.
    return image.float() if image.device.type == "cpu" else image


@cache
@torch.inference_mode(False)  # kept for calls outside of Lightning's validation too
def _colour_gaussian() -> Tensor:
    """The 3-D Gaussian as a convolution (3, 3, 11, 11) over the plane: repeated edges leave three colours to mix."""
    edge = _SSIM_WINDOW // 2
    weights = torch.exp(-(torch.arange(-edge, edge + 1, dtype=torch.float64) ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    mix = torch.zeros(3, 3, dtype=torch.float64)
    for colour in range(3):
        seen = torch.arange(colour - edge, colour + edge + 1).clamp(0, 2)
        mix[colour].index_add_(0, seen, weights)
    return torch.einsum("ij,y,x->ijyx", mix, weights, weights)


# Three sheets score a run's images, two scores have one trunk, and a network has no state: one of each is enough.
@cache
def _trunk(net: Net) -> dict[str, Tensor]:
    return lpips_trunk(net)


@cache
def _network(name: Literal["alex", "vgg", "dists"], device: torch.device, dtype: torch.dtype) -> nn.Module:
    """LPIPS on one of its networks, or DISTS; the trunk must be there."""
    # Lightning validates in inference mode, whose tensors could not be used outside of it.
    with torch.inference_mode(False):
        module = _Dists(_trunk("vgg")) if name == "dists" else lpips_network(name, _trunk(name))
        return module.to(device, dtype)


class _Dists(DISTSNetwork):
    """DISTS with torchmetrics' copy of the published alpha and beta and our trunk."""

    def __init__(self, trunk: Mapping[str, Tensor]) -> None:
        # Not the parent's, which downloads torchvision's VGG-16.
        nn.Module.__init__(self)
        # No memory and no random numbers for 138 million weights of which none stays.
        with torch.device("meta"):
            layers = vgg16(weights=None).features
        layers.load_state_dict(trunk, assign=True)
        self.stage1 = layers[:4]
        self.stage2 = nn.Sequential(L2pooling(channels=64), *layers[5:9])
        self.stage3 = nn.Sequential(L2pooling(channels=128), *layers[10:16])
        self.stage4 = nn.Sequential(L2pooling(channels=256), *layers[17:23])
        self.stage5 = nn.Sequential(L2pooling(channels=512), *layers[24:30])
        self.chns = [3, 64, 128, 256, 512, 512]
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, -1, 1, 1))
        for name, weights in torch.load(_PATH_WEIGHT_DISTS, weights_only=True).items():
            self.register_buffer(name, weights)


def _check(pred: Tensor, target: Tensor, names: Sequence[str], mask: Tensor | None, border: int) -> None:
    which = ", ".join(names)
    if pred.ndim != 4 or pred.shape[1] != 3 or not (pred.is_floating_point() and target.is_floating_point()):
        raise UserError(
            f"scores of {which}: pred is {tuple(pred.shape)} {pred.dtype} and target {target.dtype}; "
            "both must be float RGB of shape (B, 3, H, W)"
        )
    if len(names) != len(pred):
        raise UserError(f"scores of {which}: {len(names)} names for a batch of {len(pred)} images")
    if pred.shape != target.shape:
        raise UserError(
            f"scores of {which}: pred is {tuple(pred.shape)}, target {tuple(target.shape)}; they must agree"
        )
    if min(pred.shape[-2:]) <= 2 * border:
        raise UserError(f"scores of {which}: a border of {border} pixels leaves nothing of {tuple(pred.shape[-2:])}")
    if mask is not None and mask.shape != (len(pred), 1, *pred.shape[-2:]):
        raise UserError(f"scores of {which}: mask is {tuple(mask.shape)}; it must be (B, 1, H, W) with pred's sizes")
    for i, name in enumerate(names):
        _check_range(name, "prediction", pred[i], -_OVERSHOOT, 1 + _OVERSHOOT)
        _check_range(name, "target", target[i], 0, 1)
        if mask is not None and not ((mask[i] == 0) | (mask[i] == 1)).all():
            raise UserError(f"scores of {name}: the mask has other values than 0 (known) and 1 (hole)")


def _check_range(name: str, what: str, image: Tensor, low: float, high: float) -> None:
    if not image.isfinite().all():
        raise UserError(f"scores of {name}: the {what} has NaN or infinite values")
    smallest, largest = float(image.min()), float(image.max())
    # float32 resizing of an image at the limit may step over it by rounding.
    if smallest < low - 1e-6 or largest > high + 1e-6:
        raise UserError(f"scores of {name}: the {what} spans {smallest:.4g} to {largest:.4g}; images are in [0, 1]")
