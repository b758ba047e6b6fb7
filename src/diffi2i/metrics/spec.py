"""What each score is, said once: what it is called, which way it is better, what it needs, and what computes it.

A new score is one entry here and, where no library has it, one function. Everything else (what a task may list, the
score sheets, what validation during training leaves out, headings, marks, dashboards) follows from the entry. Nothing
heavy is imported: `Metric.make` does that when a score is computed.
"""

from collections import ChainMap
from collections.abc import Callable
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any, Literal

Pixels = Literal["whole", "cropped", "luma", "hole"]

FEW_IMAGES = 2048
"""Distances between sets of features are biased where the images are fewer than Inception's features."""


@dataclass(frozen=True)
class Metric:
    """One score, or one cost or gain.

    Attributes:
        key: its name in configurations and records.
        heading: what tables call it, without its direction.
        kind: what is scored, one of `kinds.spec`; or `cost` and `gain`, which have no arrow.
        function: `module:name` of what computes it (see `make`); empty for costs and gains.
        of: which pixels of an image its function sees: the `whole` image; `cropped` by the protocol's border; the
            `luma` of that; or the RGB values inside its `hole`, a vector.
        lower: lower is better.
        unit: what a record's value is multiplied by to be printed.
        digits: decimals that are printed, in that unit.
        of_set: of a set as a whole: the mean of its images' scores, where they have one, is another number.
        smallest: pixels that an image needs on each side; smaller ones are left out of the score.
        weights: the network that it needs: of an image `alex` or `vgg`, of a set of images `inception` or `lite0`.
        cheap: enough for every validation during training; others are for the final evaluation.
        overview: tables of runs show it.
    """

    key: str
    heading: str
    kind: str
    function: str = ""
    of: Pixels = "whole"
    lower: bool = False
    digits: int = 4
    unit: float = 1.0
    of_set: bool = False
    smallest: int = 1
    weights: str = ""
    cheap: bool = True
    overview: bool = True

    @property
    def arrow(self) -> str:
        """Which way it is better. Costs and gains have none."""
        return "" if self.kind in ("cost", "gain") else " ↓" if self.lower else " ↑"

    @property
    def titled(self) -> str:
        """`PSNR-Y ↑`."""
        return self.heading + self.arrow

    def few(self, images: int) -> bool:
        """Whether it is a distance between sets of images, and so many are too few for it."""
        return bool(self.weights) and self.of_set and images < FEW_IMAGES

    def make(self) -> Callable[..., Any]:
        """Imports its function, which returns one number.

        Images: of prediction and target, float64 in [0, 1] at multiples of 1/255 (luma: of those), (1, 3, H, W), of
        luma (1, 1, H, W), of the hole (N,). A set of images: of the features of predictions and of targets, (n, D)
        float64. Labels: of the confusion matrix, (K, K) int64, rows = target. Depth: of the counted pixels of
        prediction and target, (N,) float64 metres.
        """
        function: Callable[..., Any] = resolve_name(self.function)
        return function


def by_key(*metrics: Metric) -> dict[str, Metric]:
    return {metric.key: metric for metric in metrics}


IMAGE, SET = "diffi2i.metrics.image", "diffi2i.metrics.distribution"
LABELS, DEPTH = "diffi2i.metrics.segmentation", "diffi2i.metrics.depth"

METRICS = by_key(
    Metric("psnr", "PSNR", "image", f"{IMAGE}:psnr", "cropped", digits=2),
    Metric("psnr_y", "PSNR-Y", "image", f"{IMAGE}:psnr", "luma", digits=2),
    Metric("ssim", "SSIM", "image", f"{IMAGE}:ssim", "cropped", smallest=11),
    Metric("ssim_y", "SSIM-Y", "image", f"{IMAGE}:ssim", "luma", smallest=11),
    Metric("ssim_3d", "SSIM-3D", "image", f"{IMAGE}:ssim_3d", "cropped"),
    # AlexNet's second pooling and VGG-16's fourth have nothing left to pool below these sizes. DISTS pools with
    # padding, but compares a layer's spread over the image, and VGG-16's deepest then is a single value.
    Metric("lpips_alex", "LPIPS", "image", f"{IMAGE}:lpips_alex", lower=True, smallest=31, weights="alex", cheap=False),
    Metric(
        "lpips_vgg", "LPIPS-VGG", "image", f"{IMAGE}:lpips_vgg", lower=True, smallest=16, weights="vgg", cheap=False
    ),
    Metric("dists", "DISTS", "image", f"{IMAGE}:dists", lower=True, smallest=16, weights="vgg", cheap=False),
    Metric("psnr_hole", "PSNR in hole", "image", f"{IMAGE}:psnr", "hole", digits=2),
    Metric("fid", "FID", "image", f"{SET}:frechet_distance", lower=True, of_set=True, weights="inception", cheap=False),
    Metric("kid", "KID", "image", f"{SET}:kernel_distance", lower=True, of_set=True, weights="inception", cheap=False),
    Metric(
        "fd_lite0",
        "FD-Lite0",
        "image",
        f"{SET}:frechet_distance",
        lower=True,
        of_set=True,
        weights="lite0",
        cheap=False,
    ),
    Metric("miou", "mIoU", "labels", f"{LABELS}:miou", digits=2, unit=100, of_set=True),
    Metric("pixel_accuracy", "pixel accuracy", "labels", f"{LABELS}:pixel_accuracy", of_set=True),
    Metric("mean_accuracy", "class accuracy", "labels", f"{LABELS}:mean_accuracy", of_set=True),
    Metric("abs_rel", "Rel", "depth", f"{DEPTH}:abs_rel", lower=True),
    Metric("rmse", "RMSE", "depth", f"{DEPTH}:rmse", lower=True),
    Metric("log10", "log10", "depth", f"{DEPTH}:log10", lower=True),
    Metric("delta1", "δ1", "depth", f"{DEPTH}:delta1"),
    Metric("delta2", "δ2", "depth", f"{DEPTH}:delta2", overview=False),
    Metric("delta3", "δ3", "depth", f"{DEPTH}:delta3", overview=False),
    Metric("silog", "SIlog", "depth", f"{DEPTH}:silog", lower=True, overview=False),
    Metric("rmse_log", "RMSE log", "depth", f"{DEPTH}:rmse_log", lower=True, overview=False),
)
"""Every score by its key, in the order of records and tables."""

COSTS = by_key(
    Metric("parameters", "parameters (M)", "cost", lower=True, unit=1e-6, digits=2),
    Metric("macs", "MACs (G)", "cost", lower=True, unit=1e-9, digits=2),
    Metric("calls", "network calls", "cost", lower=True, digits=0),
    Metric("seconds_per_image", "time per image (ms)", "cost", lower=True, unit=1e3, digits=1),
)

GAINS = by_key(
    Metric("prior_dependence", "prior dependence", "gain"),
    Metric("prior_worth", "prior worth", "gain"),
)
"""In the main metric, and so in its unit and digits; above zero is better."""

COLUMNS = ChainMap(METRICS, COSTS, GAINS)
"""All that a table's column may show."""


def of_kind(kind: str) -> list[str]:
    """The keys of a kind's scores."""
    return [key for key, metric in METRICS.items() if metric.kind == kind]
