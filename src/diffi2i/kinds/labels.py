"""Labels, int64 (B, H, W), which a network predicts as logits (B, K, h, w): semantic segmentation."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from io import BytesIO
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from skimage.color import rgb2lab
from torch import Tensor

from diffi2i.config.build import build
from diffi2i.config.commands import ScoreConfig
from diffi2i.config.schema import Config, ProtocolConfig, TaskConfig
from diffi2i.data.images import IMAGE_SUFFIXES, require_equal_sizes
from diffi2i.data.photos import read_photo
from diffi2i.data.scenes import read_targets, scene_samples
from diffi2i.data.sources import Item
from diffi2i.data.targets import Labels
from diffi2i.errors import UserError
from diffi2i.kinds.kind import Pairs, mean
from diffi2i.kinds.spec import IGNORED
from diffi2i.metrics.segmentation import SegmentationScores

suffixes = IMAGE_SUFFIXES
samples = scene_samples
shown = read_photo  # its palette has the colours

# Files that hold class numbers as they are.
NUMBERS = Labels(IGNORED, ignore=(IGNORED,))


def check_targets(items: Sequence[Item], config: Config) -> None:
    """Reading a label refuses what is none."""


def constant(items: Sequence[Item], config: Config) -> int:
    """The class of most pixels."""
    counts = np.zeros(IGNORED + 1, np.int64)
    for labels in read_targets(items, config):
        counts += np.bincount(labels.ravel(), minlength=IGNORED + 1)
    if not counts[:IGNORED].any():
        raise UserError("every training label is ignored: check dataset.target")
    return int(counts[:IGNORED].argmax())


def naive(batch: Mapping[str, Any], task: TaskConfig, constant: float | None) -> Tensor:
    assert constant is not None
    assert task.classes is not None
    labels = torch.full_like(batch["target"], int(constant))
    return F.one_hot(labels, task.classes).movedim(-1, 1).float()


def final(output: Tensor, batch: Mapping[str, Any]) -> Tensor:
    return output


def average(outputs: Iterable[Tensor], count: int) -> Tensor:
    """The logits of the mean probabilities."""
    return mean((output.softmax(1) for output in outputs), count).log()


def sheet(task: TaskConfig, protocol: ProtocolConfig, statistics: Path | None = None) -> SegmentationScores:
    assert task.classes is not None
    return SegmentationScores(task.classes)


def pictures(output: Tensor, batch: Mapping[str, Any], task: TaskConfig) -> list[Tensor]:
    """At the target's size; the error is the wrong pixels."""
    target = batch["target"][0]
    image, logits = (
        F.interpolate(x[:1].float(), target.shape, mode="bilinear", align_corners=False)[0]
        for x in (batch["input"], output)
    )
    labels = logits.argmax(0)
    wrong = (labels != target) & (target != IGNORED)
    return [image, colour_labels(labels), colour_labels(target), wrong.float().expand(3, -1, -1)]


def values(output: Tensor, size: Sequence[int]) -> Tensor:
    """Class numbers, int64 (H, W)."""
    logits = F.interpolate(output[None].float(), tuple(size), mode="bilinear", align_corners=False)[0].cpu()
    return logits.argmax(0)


def save(output: Tensor, size: Sequence[int], file: Path | BytesIO) -> None:
    """Class numbers as a palette PNG."""
    labels = Image.fromarray(values(output, size).byte().numpy(), mode="P")
    palette = colour_labels(torch.arange(256)[None])[:, 0]  # (3, 256)
    labels.putpalette((palette.T * 255).round().byte().flatten().tolist())
    labels.save(file, "PNG")


def pairs(config: ScoreConfig, targets: Sequence[Path]) -> Pairs:
    """Predictions hold class numbers, targets these too or what the dataset's rule makes of their values."""
    assert config.task.classes is not None
    classes = config.task.classes
    own = build(config.dataset.target, "dataset.target") if config.dataset and config.dataset.target else None

    def read(pred_file: Path, target_file: Path) -> tuple[Tensor, dict[str, Tensor]]:
        pred, target = read_labels(pred_file, NUMBERS), read_labels(target_file, own or NUMBERS)
        advice = "a prediction must hold class numbers, one at each pixel"
        check_classes(pred_file, pred, pred >= classes, classes, advice)
        if own is None:
            advice = "write task.classes=<number>, or dataset=<name> for its encoding"
            check_classes(target_file, target, (target >= classes) & (target != IGNORED), classes, advice)
        require_equal_sizes(pred_file, pred, f"target {target_file}", target)
        return one_hot(pred, classes), {"target": target}

    return Pairs(read)


def read_labels(path: Path, reader: Labels) -> Tensor:
    return torch.from_numpy(reader.read(path))[None]


def check_classes(path: Path, labels: Tensor, wrong: Tensor, classes: int, advice: str) -> None:
    if wrong.any():
        raise UserError(
            f"{path}: value {int(labels[wrong][0])} is none of the {classes} classes 0 to {classes - 1}: {advice}"
        )


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """(1, H, W) classes -> (1, K, H, W) float logits whose arg max they are."""
    # `F.one_hot` makes int64 first, a gigabyte for 150 classes at a megapixel.
    return torch.zeros(1, classes, *labels.shape[-2:]).scatter_(1, labels[:, None], 1.0)


def random_target(task: TaskConfig, size: int) -> Tensor:
    return torch.randint(task.classes or 1, (1, size, size))


def colour_labels(labels: Tensor) -> Tensor:
    """(H, W) int64 labels, 0 to 254, or 255 = ignored -> (3, H, W) float RGB in [0, 1]; ignored is black.

    A label has the same colour in every picture, whatever the number of classes. Raises `UserError` for
    another shape, type or label.
    """
    if labels.ndim != 2 or labels.dtype != torch.int64:
        raise UserError(f"colours of labels: {tuple(labels.shape)} {labels.dtype}; they must be int64 (H, W)")
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) <= IGNORED:
        raise UserError(f"colours of labels: {int(labels.min())} to {int(labels.max())}; labels are 0 to {IGNORED}")
    palette = torch.tensor(_palette(), device=labels.device)
    return palette[labels].permute(2, 0, 1)


@cache
def _palette() -> list[list[float]]:
    """256 RGB colours in [0, 1], each as far as possible from all before it; the last is black.

    The farthest-first way of Glasbey et al. 2007 ("Colour displays for categorical images"), in CIELAB, on a
    grid of 9^3 colours: the first K are well apart for every K. Black comes first, so all differ from it.
    """
    levels = np.rint(np.linspace(0, 255, 9)) / 255  # whole 8-bit values: a PNG holds the very same colours
    colours = np.array(list(product(levels, repeat=3)))
    lab = rgb2lab(colours)
    chosen = [0]  # black
    nearest = np.full(len(colours), np.inf)
    for _ in range(IGNORED):
        nearest = np.minimum(nearest, ((lab - lab[chosen[-1]]) ** 2).sum(axis=1))
        chosen.append(int(nearest.argmax()))
    palette: list[list[float]] = colours[[*chosen[1:], chosen[0]]].tolist()
    return palette
