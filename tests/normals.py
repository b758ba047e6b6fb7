"""A fourth kind of prediction, in one file for the test: the normals of surfaces, as unit vectors (B, 3, H, W).

In the package this would be `kinds/normals.py` and `metrics/normals.py`, with a line in the table of each's `spec`.
"""

from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchmetrics.aggregation import MeanMetric

from diffi2i.config.build import build
from diffi2i.config.commands import ScoreConfig
from diffi2i.config.schema import Config, ProtocolConfig, TaskConfig
from diffi2i.data.dataset import Draw, ImageCache, Sample
from diffi2i.data.images import IMAGE_SUFFIXES, as_picture, read_rgb, require_equal_sizes, to_tensor
from diffi2i.data.member import Readable
from diffi2i.data.photos import read_photo
from diffi2i.data.scenes import SceneCache, read_targets, scene_samples
from diffi2i.data.sources import Item
from diffi2i.data.targets import Map
from diffi2i.kinds.kind import Pairs
from diffi2i.kinds.spec import Spec
from diffi2i.metrics.spec import METRICS, Metric, of_kind

SPEC = Spec("Net", "bumps", "Normals")
METRIC = Metric("angle", "angle", "normals", "tests.normals:angle", lower=True, digits=2)


class Count:
    """How many pixels there are, and how many have a normal."""

    def __init__(self) -> None:
        self.pixels = self.valid = 0

    def add(self, target: Map) -> None:
        axis = 1 if target.ndim == 4 else -1  # of a batch, or of a map
        self.pixels += target.size // 3
        self.valid += int(target.any(axis).sum())

    def merge(self, other: "Count") -> None:
        self.pixels, self.valid = self.pixels + other.pixels, self.valid + other.valid

    def lines(self) -> list[str]:
        return [f"normals: {100 * self.valid / self.pixels:.1f} % of the pixels have one"]


class Normals:
    """RGB files, n = 2 colour - 1, black where there is none."""

    dtype: Any = np.float32
    padding = 0

    def read(self, path: Readable) -> Map:
        stored = read_rgb(path).astype(np.float32) / 255
        normals = stored * 2 - 1
        normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
        return np.where(stored.any(-1, keepdims=True), normals, 0).astype(np.float32)

    def tensors(self, decoded: Map, zoom: float = 1.0) -> dict[str, Tensor]:
        normals = torch.from_numpy(decoded.transpose(2, 0, 1).copy())
        return {"target": normals, "valid": normals.any(0, keepdim=True).float()}

    def seen(self) -> Count:
        return Count()

    def odd(self, seen: Any, files: Sequence[Readable], protocol: Any) -> None:
        pass


class Crops(Dataset[Sample]):
    """Random crops, never mirrored: the mirror image of a normal looks the other way."""

    def __init__(self, items: Sequence[Item], cache: ImageCache, seed: int) -> None:
        self.items, self.seed, self.cache = items, seed, SceneCache(Normals(), cache)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, draw: Draw) -> Sample:
        rng = np.random.default_rng([self.seed, draw.step, draw.index])
        item = self.items[int(rng.integers(len(self.items)))]
        photo, normals = self.cache.read(item)
        top, left = (int(rng.integers(n - draw.patch + 1)) for n in photo.shape[:2])
        part = slice(top, top + draw.patch), slice(left, left + draw.patch)
        return {"input": to_tensor(photo[part]), **Normals().tensors(normals[part]), "name": item.name}


class Net(nn.Module):
    """Two convolutions, then length 1."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, width, 5, padding=2), nn.GELU(), nn.Conv2d(width, 3, 5, padding=2))

    def forward(self, image: Tensor) -> Tensor:
        normals: Tensor = self.layers(image)
        return F.normalize(normals, dim=1)


class Cosine:
    """1 - cos of the angle, mean over the valid pixels."""

    def __call__(self, output: Tensor, batch: Mapping[str, Any]) -> Tensor:
        cosine = (output * batch["target"]).sum(1, keepdim=True)
        valid = batch["valid"]
        loss: Tensor = ((1 - cosine) * valid).sum() / valid.sum().clamp(min=1)
        return loss


def angle(pred: Tensor, target: Tensor) -> Tensor:
    """Mean angle in degrees between (N, 3) unit vectors."""
    return (pred * target).sum(1).clamp(-1, 1).acos().rad2deg().mean()


class AngleScores:
    """Means over the images of the errors of each image's valid pixels."""

    def __init__(self) -> None:
        self.per_image: list[dict[str, str | float]] = []
        self.means = {key: MeanMetric() for key in of_kind("normals")}

    def to(self, device: torch.device | str) -> object:
        return [mean.to(device) for mean in self.means.values()]

    def update(self, pred: Tensor, target: Tensor, *, names: Sequence[str], mask: Tensor | None = None) -> None:
        assert mask is not None
        for name, p, t, valid in zip(names, pred, target, mask, strict=True):
            inside = valid[0] > 0
            values = {key: float(METRICS[key].make()(p[:, inside].T, t[:, inside].T)) for key in self.means}
            for key, value in values.items():
                self.means[key].update(value)
            self.per_image.append({"name": name, **values})

    def compute(self) -> dict[str, float | None]:
        return {key: float(mean.compute()) for key, mean in self.means.items()}

    def counts(self) -> dict[str, int]:
        return {key: int(mean.weight) for key, mean in self.means.items()}

    def reasons(self) -> dict[str, str]:
        return {}

    def per_class(self) -> None:
        pass

    def reset(self) -> None:
        self.per_image = []
        for mean in self.means.values():
            mean.reset()


# From here on the members of a kind.

suffixes = IMAGE_SUFFIXES
shown = read_photo


def samples(config: Config) -> dict[str, Any]:
    def crops(items: Sequence[Item], cache: ImageCache) -> Crops:
        return Crops(items, cache, config.seed)

    return scene_samples(config) | {"train_samples": crops}


def check_targets(items: Sequence[Item], config: Config) -> None:
    pass


def constant(items: Sequence[Item], config: Config) -> float:
    """How far the mean normal looks up: the baseline looks there and to the viewer."""
    every = np.concatenate([normals.reshape(-1, 3) for normals in read_targets(items, config)])
    return float(every.mean(0)[1])


def naive(batch: Mapping[str, Any], task: TaskConfig, constant: float | None) -> Tensor:
    ahead = batch["target"].new_tensor([0.0, constant or 0.0, 1.0])
    return F.normalize(ahead, dim=0)[None, :, None, None].expand_as(batch["target"])


def final(output: Tensor, batch: Mapping[str, Any]) -> Tensor:
    return output


def average(outputs: Iterable[Tensor], count: int) -> Tensor:
    return F.normalize(sum(outputs, torch.zeros(())), dim=1)


def sheet(task: TaskConfig, protocol: ProtocolConfig, statistics: Path | None = None) -> AngleScores:
    return AngleScores()


def pictures(output: Tensor, batch: Mapping[str, Any], task: TaskConfig) -> list[Tensor]:
    target = batch["target"][0]
    wrong = (output[0] - target).norm(dim=0).expand(3, -1, -1)
    return [batch["input"][0], (output[0] + 1) / 2, (target + 1) / 2, wrong]


def values(output: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(output[None].float(), tuple(size), mode="bilinear")[0].cpu()


def save(output: Tensor, size: Sequence[int], file: Path | BytesIO) -> None:
    normals = F.interpolate(output[None], tuple(size), mode="bilinear")
    as_picture((F.normalize(normals, dim=1)[0] + 1) / 2).save(file, "PNG")


def pairs(config: ScoreConfig, targets: Sequence[Path]) -> Pairs:
    assert config.dataset is not None
    reader: Normals = build(config.dataset.target or {}, "dataset.target")

    def read(pred_file: Path, target_file: Path) -> tuple[Tensor, dict[str, Tensor]]:
        pred, batch = (reader.tensors(reader.read(file)) for file in (pred_file, target_file))
        require_equal_sizes(pred_file, pred["target"], f"target {target_file}", batch["target"])
        return pred["target"][None], {key: value[None] for key, value in batch.items()}

    return Pairs(read)


def random_target(task: TaskConfig, size: int) -> Tensor:
    return F.normalize(torch.randn(1, 3, size, size), dim=1)


def bumps(folder: Path, count: int, size: int = 40) -> None:
    """Pairs of photos and normals: round bumps lit from the left, on a ground that has no normal."""
    y, x = np.mgrid[:size, :size]
    rng = np.random.default_rng(0)
    for name in ("input", "target"):
        (folder / name).mkdir(parents=True)
    for number in range(count):
        cx, cy, radius = *rng.uniform(14, size - 14, 2), rng.uniform(8, 14)
        n = np.stack([(x - cx) / radius, (y - cy) / radius], -1)
        height = 1 - (n**2).sum(-1)
        inside = height > 0
        normals = np.concatenate([n, np.sqrt(height.clip(0))[..., None]], -1)
        stored = np.where(inside[..., None], np.rint((normals + 1) / 2 * 255), 0)
        light = np.where(inside, 255 * (normals @ [-0.6, 0, 0.8]).clip(0), 30)
        Image.fromarray(stored.astype(np.uint8)).save(folder / "target" / f"{number}.png")
        Image.fromarray(light.astype(np.uint8)).save(folder / "input" / f"{number}.png")
