"""Depth in metres, (B, 1, H, W), 0 where it was not measured, which `valid` says too."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from diffi2i.config.build import build
from diffi2i.config.commands import ScoreConfig
from diffi2i.config.schema import Config, ProtocolConfig, TaskConfig
from diffi2i.data.images import IMAGE_SUFFIXES, as_picture, require_equal_sizes
from diffi2i.data.photos import Photo, of_picture
from diffi2i.data.scenes import read_targets, scene_samples
from diffi2i.data.seen import DepthSeen, impossible, suspicious, unit_of, unit_of_predictions
from diffi2i.data.sources import Item
from diffi2i.data.targets import Depth, read_npy
from diffi2i.errors import UserError
from diffi2i.kinds.kind import Pairs, mean
from diffi2i.metrics.depth import DepthScores

suffixes = IMAGE_SUFFIXES | {".npy"}
samples = scene_samples
average = mean

# Viridis, by Stéfan van der Walt, Nathaniel Smith and Eric Firing (CC0, github.com/BIDS/colormap, matplotlib's
# default): every 17th of its 256 colours. Equal steps look equal, and its darkest end is still far from black.
_VIRIDIS = (
    (0.267004, 0.004874, 0.329415),
    (0.282656, 0.100196, 0.422160),
    (0.277134, 0.185228, 0.489898),
    (0.253935, 0.265254, 0.529983),
    (0.221989, 0.339161, 0.548752),
    (0.190631, 0.407061, 0.556089),
    (0.163625, 0.471133, 0.558148),
    (0.139147, 0.533812, 0.555298),
    (0.120565, 0.596422, 0.543611),
    (0.134692, 0.658636, 0.517649),
    (0.208030, 0.718701, 0.472873),
    (0.327796, 0.773980, 0.406640),
    (0.477504, 0.821444, 0.318195),
    (0.647257, 0.858400, 0.209861),
    (0.824940, 0.884720, 0.106217),
    (0.993248, 0.906157, 0.143936),
)


def check_targets(items: Sequence[Item], config: Config) -> None:
    """Up to 16 files, evenly spaced: depths so far from the protocol's that their unit must be another are refused."""
    assert config.dataset.target is not None
    target, seen = build(config.dataset.target, "dataset.target"), DepthSeen()
    files = [item.target for item in items[:: -(-len(items) // 16)]]
    for file in files:
        seen.add(target.read(file))
    if why := impossible(seen, config.task.protocol, unit_of(target, files), "dataset.target.unit"):
        raise UserError(f"dataset={config.dataset.name}: {why}")


def constant(items: Sequence[Item], config: Config) -> float:
    """The mean of all valid depths in metres."""
    total, count = 0.0, 0
    for depth in read_targets(items, config):
        total, count = total + float(depth.sum(dtype=np.float64)), count + int((depth > 0).sum())
    if not count:
        raise UserError("no training depth map has a valid pixel: check dataset.target")
    return total / count


def naive(batch: Mapping[str, Any], task: TaskConfig, constant: float | None) -> Tensor:
    assert constant is not None
    return torch.full_like(batch["target"], constant)


def final(output: Tensor, batch: Mapping[str, Any]) -> Tensor:
    return output


def sheet(task: TaskConfig, protocol: ProtocolConfig, statistics: Path | None = None) -> DepthScores:
    return DepthScores(protocol.min_depth, protocol.max_depth, protocol.crop)


def pictures(output: Tensor, batch: Mapping[str, Any], task: TaskConfig) -> list[Tensor]:
    """At the target's size, both depths in its colours; the error is 4 times the relative one."""
    target, valid = batch["target"][0], batch["valid"][0]
    image, depth = (
        F.interpolate(x[:1].float(), target.shape[-2:], mode="bilinear", align_corners=False)[0]
        for x in (batch["input"], output)
    )
    near, far = (float(target[target > 0].quantile(q)) if valid.any() else q for q in (0.0, 1.0))
    far = max(far, near + 1e-3)
    error = valid * (depth - target).abs() / target.clamp(min=1e-3)
    colours = [colour_depth(metres, near, far) for metres in (depth.clamp(min=1e-3), target)]
    return [image, *colours, (4 * error).expand(3, -1, -1)]


def values(output: Tensor, size: Sequence[int]) -> Tensor:
    """Metres, float32 (H, W)."""
    return F.interpolate(output[None].float(), tuple(size), mode="bilinear", align_corners=False)[0, 0].cpu()


def save(output: Tensor, size: Sequence[int], file: Path | BytesIO) -> None:
    """16-bit millimetres."""
    Image.fromarray((1000 * values(output, size)).round().clamp(0, 65534).numpy().astype(np.uint16)).save(file, "PNG")


def shown(path: Path) -> Photo:
    """From its nearest pixel (violet) to its farthest (yellow)."""
    metres = torch.from_numpy(Depth().read(path))[None]
    near = float(metres.min())
    return of_picture(as_picture(colour_depth(metres, near, max(float(metres.max()), near + 1e-3))))


def pairs(config: ScoreConfig, targets: Sequence[Path]) -> Pairs:
    files = DepthFiles(config, targets)
    return Pairs(files.read, files.remarks)


class DepthFiles:
    """Reads predictions, millimetres or a `.npy` of metres, and targets, and counts them to tell a wrong unit.

    A target is read as the dataset says, else as a prediction.
    """

    def __init__(self, config: ScoreConfig, targets: Sequence[Path]) -> None:
        self.config, self.reader, key = config, Depth(), "dataset=nyu dataset.target.unit"
        if config.dataset and config.dataset.target:
            self.reader, key = build(config.dataset.target, "dataset.target"), "dataset.target.unit"
        # The unit that targets are read with, and the words that set it.
        self.unit = unit_of(self.reader, targets), key
        self.seen, self.ratios = DepthSeen(), list[float]()

    def read(self, pred_file: Path, target_file: Path) -> tuple[Tensor, dict[str, Tensor]]:
        pred, target = read_predicted(pred_file), read_measured(target_file, self.reader)
        require_equal_sizes(pred_file, pred, f"target {target_file}", target)
        self.seen.add(target.numpy())
        valid = target > 0
        self.ratios.append(float(pred[valid].median() / target[valid].median()))
        return pred, {"target": target, "valid": valid.float()}

    def remarks(self) -> list[str]:
        """The range of the targets, and units that look wrong."""
        protocol = self.config.task.protocol
        if why := impossible(self.seen, protocol, *self.unit):
            raise UserError(f"target={self.config.target}: {why}")
        odd = suspicious(self.seen, protocol, *self.unit)
        lines = [f"targets, {line}" for line in self.seen.lines()]
        return ["", *lines, *(line for line in (odd, unit_of_predictions(self.ratios)) if line)]


def read_predicted(path: Path) -> Tensor:
    """Metres, of which not all are 0; else `UserError`."""
    # `Depth` takes what is not finite in a .npy for not measured, but a prediction has no such pixels.
    metres = read_npy(path) if path.suffix.lower() == ".npy" else Depth().read(path)
    if not (np.isfinite(metres) & (metres >= 0)).all():
        raise UserError(f"{path}: the prediction has negative, NaN or infinite depth; every pixel needs one in metres")
    if not (metres > 0).any():
        raise UserError(f"{path}: the prediction has no depth above 0; write it anew, in metres or millimetres")
    return torch.from_numpy(metres)[None, None]


def read_measured(path: Path, reader: Depth) -> Tensor:
    """Metres, 0 where not measured but not everywhere; else `UserError`."""
    metres = reader.read(path)
    if not metres.any():
        raise UserError(f"{path}: no pixel has a valid depth; remove it from both folders")
    return torch.from_numpy(metres)[None, None]


def random_target(task: TaskConfig, size: int) -> Tensor:
    return torch.rand(1, 1, size, size)


def colour_depth(depth: Tensor, low: float, high: float) -> Tensor:
    """(1, H, W) float metres -> (3, H, W) float32 RGB in [0, 1]: viridis from `low` (violet) to `high` (yellow).

    Depths beyond the ends have the ends' colours; 0 or less, NaN and infinite are not depths and are black.
    Give prediction and target the same ends, or their colours cannot be compared. Raises `UserError` for
    another shape or type, or unless low < high.
    """
    if depth.ndim != 3 or depth.shape[0] != 1 or not depth.is_floating_point():
        raise UserError(f"colours of depth: {tuple(depth.shape)} {depth.dtype}; it must be float (1, H, W)")
    if not low < high:
        raise UserError(f"colours of depth: from {low} to {high}; low < high is needed")
    valid = depth.isfinite() & (depth > 0)
    anchors = torch.tensor(_VIRIDIS, device=depth.device)
    # Place on the scale of anchors, and linearly between the two nearest.
    place = ((depth[0].float().nan_to_num() - low) / (high - low)).clamp(0, 1) * (len(anchors) - 1)
    below = place.long().clamp(max=len(anchors) - 2)
    colours = torch.lerp(anchors[below], anchors[below + 1], (place - below)[..., None])
    return colours.permute(2, 0, 1) * valid
