"""Datasets of photos with a class or a depth per pixel.

A sample: `input` (3, h, w) float32 RGB in [0, 1]; `name` str; and
- for labels: `target` (H, W) int64, `IGNORED` (255) where no class counts;
- for depth: `target` (1, H, W) float32 in metres, 0 where invalid; `valid` (1, H, W) float32, 1 = measured.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from diffi2i.config.build import build
from diffi2i.config.schema import Config
from diffi2i.data.dataset import Draw, ImageCache, Pixels, Sample
from diffi2i.data.images import read_size, to_tensor
from diffi2i.data.skip import OnError, read_or_skip
from diffi2i.data.sources import Item
from diffi2i.data.targets import Map, Target
from diffi2i.errors import UserError

Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels of the stored image


class TrainScenes(Dataset[Sample]):
    """Random crops of resized scenes. A sample is a pure function of the seed and of its Draw.

    A draw picks a scene uniformly, takes the part of it inside `box`, turns that at even odds, resizes it to
    `network_size` times a random zoom, cuts a crop of `patch` x round(patch * aspect) pixels out of it, mirrors it
    left to right at even odds, and shifts the photo's colours. Where the resized scene is smaller than the crop, its
    right and bottom are padded: the photo with its last pixels, labels with `IGNORED`, depth with 0 (invalid).

    Targets are told the zoom (see `Depth.tensors`), not the factor of `network_size`, which evaluation has too.
    """

    def __init__(
        self,
        items: Sequence[Item],
        target: Target,
        seed: int,
        cache: ImageCache,
        zoom: Sequence[float] = (1.0, 1.0),
        aspect: float = 1.0,
        jitter: float = 0.0,
        input_scale: float = 1.0,
        on_error: OnError = "error",
        short_side: int | None = None,
        long_side: int | None = None,
        rotate: float = 0.0,
        box: Sequence[int] | None = None,
    ) -> None:
        """Store the settings; nothing is read yet.

        Args:
            items: scenes, each with an input (the photo).
            target: reads the label or depth files.
            seed: >= 0.
            cache: its budget holds the photos and the targets.
            zoom: the smallest and largest zoom, > 0; uniform in its logarithm.
            aspect: a crop's width over its height.
            jitter: strength of the colour shifts, 0 = none; see `color_jitter`.
            input_scale, short_side, long_side: see `network_size`.
            on_error: "skip" draws another scene in place of one that cannot be read, and warns.
            rotate: the largest turn in degrees, either way; see `turned`.
            box: top, bottom, left and right of the part to train on, in stored pixels; None means all.

        Raises:
            UserError: an item without a photo, or a zoom range that is none.
        """
        require_photos(items)
        if len(zoom) != 2 or not 0 < zoom[0] <= zoom[1]:
            raise UserError(f"zoom is {list(zoom)}; write the smallest and the largest zoom, such as [0.5, 2.0]")
        self.items, self.seed, self.cache = items, seed, SceneCache(target, cache)
        self.log_zooms = (np.log(zoom[0]), np.log(zoom[1]))
        self.aspect, self.jitter, self.rotate, self.box = aspect, jitter, rotate, box
        self.network_size = partial(network_size, input_scale=input_scale, short_side=short_side, long_side=long_side)
        self.skipped: set[str] | None = set() if on_error == "skip" else None

    def __len__(self) -> int:
        """The number of scenes; there are as many different draws as one likes."""
        return len(self.items)

    def __getitem__(self, draw: Draw) -> Sample:
        """The sample of one draw; `draw.patch` is the crop's height, at the network's resolution.

        Raises:
            UserError: a file cannot be read, a scene's two sizes differ (unless such scenes are skipped), or a scene
                is smaller than `box`.
        """
        rng = np.random.default_rng([self.seed, draw.step, draw.index])
        item, (photo, target) = read_or_skip(self.items, rng, self.cache.read, self.skipped)
        zoom = float(np.exp(rng.uniform(*self.log_zooms)))
        if self.box is not None:
            photo, target = boxed(item, photo, target, self.box)
        padding = self.cache.target.padding
        if self.rotate and rng.integers(2):
            photo, target = turned(photo, target, float(rng.uniform(-self.rotate, self.rotate)), padding)

        whole = self.network_size(photo.shape[:2], zoom=zoom)
        crop = (draw.patch, max(1, round(draw.patch * self.aspect)))
        height, width = (min(n, m) for n, m in zip(whole, crop, strict=True))  # what the scene can fill
        top, left = int(rng.integers(whole[0] - height + 1)), int(rng.integers(whole[1] - width + 1))
        y, x = photo.shape[0] / whole[0], photo.shape[1] / whole[1]  # stored pixels per resized pixel
        box = (left * x, top * y, (left + width) * x, (top + height) * y)

        missing = ((0, crop[0] - height), (0, crop[1] - width))
        photo = np.pad(resize_photo(photo, box, (height, width)), (*missing, (0, 0)), mode="edge")
        target = np.pad(resize_map(target, box, (height, width)), missing, constant_values=padding)
        if rng.integers(2):
            photo, target = photo[:, ::-1], target[:, ::-1]

        image = to_tensor(photo)
        if self.jitter:
            image = color_jitter(image, self.jitter, rng)
        return {"input": image, **self.cache.target.tensors(target, zoom), "name": item.name}


class EvalScenes(Dataset[Sample]):
    """Whole scenes: the photo resized to `network_size`, the target as it is stored.

    The target is never resized, so a score does not depend on the network's resolution: the network's output
    is resized to the target instead.
    """

    def __init__(
        self,
        items: Sequence[Item],
        target: Target,
        cache: ImageCache,
        input_scale: float = 1.0,
        partner: bool = False,
        short_side: int | None = None,
        long_side: int | None = None,
    ) -> None:
        """Store the settings; nothing is read yet.

        Args:
            items, target, cache, input_scale, short_side, long_side: as for `TrainScenes`.
            partner: each sample also holds, as `other`, the sample half the list away (if there is one): the next
                one may be the next frame of a video.

        Raises:
            UserError: an item without a photo.
        """
        require_photos(items)
        self.items, self.cache = items, SceneCache(target, cache)
        self.partner = partner
        self.network_size = partial(network_size, input_scale=input_scale, short_side=short_side, long_side=long_side)

    @property
    def names(self) -> list[str]:
        """The samples' names, in order."""
        return [item.name for item in self.items]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:
        """Sample of scene `index`, in the order of the items.

        Raises:
            UserError: a file cannot be read, or the two sizes differ.
        """
        sample = self._sample(index)
        if self.partner and len(self) > 1:
            sample["other"] = self._sample((index + len(self) // 2) % len(self))
        return sample

    def _sample(self, index: int) -> Sample:
        item = self.items[index]
        photo, target = self.cache.read(item)
        height, width = photo.shape[:2]
        image = resize_photo(photo, (0, 0, width, height), self.network_size((height, width)))
        return {"input": to_tensor(image), **self.cache.target.tensors(target), "name": item.name}


class SceneCache:
    """Reads scenes; targets are kept decoded, within the same budget as the photos."""

    def __init__(self, target: Target, images: ImageCache) -> None:
        """`images` keeps the photos, and its budget pays for the targets."""
        self.target, self.images = target, images
        self.maps: dict[Item, Map] = {}

    def read(self, item: Item) -> tuple[Pixels, Map]:
        """The photo, (H, W, 3) uint8, and its labels, (H, W) uint8, or its depth, (H, W) float32; read-only.

        Raises:
            UserError: a file cannot be read, or the two sizes differ.
        """
        assert item.input is not None, "the datasets refuse items without a photo"
        photo = self.images.read(item.input)
        if item not in self.maps:
            target = self._decode(item, photo)
            if target.nbytes > self.images.free:
                return photo, target
            self.images.free -= target.nbytes
            self.maps[item] = target
        return photo, self.maps[item]

    def _decode(self, item: Item, photo: Pixels) -> Map:
        target: Map = self.images.sealed(item.target, self.target.read).astype(self.target.dtype, copy=False)
        _require_one_size(item, photo.shape[:2], target.shape[:2])
        target.setflags(write=False)
        return target


def require_photos(items: Sequence[Item]) -> None:
    """Raise UserError unless every item has a photo besides its target."""
    for item in items:
        if item.input is None:
            raise UserError(
                f"{item.target}: stands alone, but this task needs pairs of a photo and its labels or depth; "
                "write dataset=label_pairs or dataset=depth_pairs root=<folder>"
            )


def check_scene(item: Item) -> None:
    """Raise UserError where an item's headers show that it cannot be used: no photo, no image, or two sizes."""
    require_photos([item])
    assert item.input is not None, "just checked"
    size = read_size(item.input)
    if item.target.suffix.lower() != ".npy":  # these are checked when they are read
        _require_one_size(item, size, read_size(item.target))


def network_size(
    size: Sequence[int], input_scale: float, short_side: int | None, long_side: int | None, zoom: float = 1.0
) -> tuple[int, int]:
    """(height, width) at which the network sees a scene of `size`, at least one pixel each.

    With `short_side`, the shorter side becomes that, or the longer one `long_side` where it would exceed it; without,
    both sides are `input_scale` times those of the file. `zoom` times that.
    """
    if short_side is not None:
        input_scale = short_side / min(size)
        if long_side is not None:
            input_scale = min(input_scale, long_side / max(size))
    height, width = (max(1, round(n * (input_scale * zoom))) for n in size)
    return height, width


def boxed(item: Item, photo: Pixels, target: Map, box: Sequence[int]) -> tuple[Pixels, Map]:
    """The rows and columns [top, bottom, left, right] of both. Raises `UserError` where the scene has not so many."""
    top, bottom, left, right = box
    height, width = photo.shape[:2]
    if height < bottom or width < right:
        raise UserError(
            f"{item.input} ({width}x{height}) is too small for dataset.train_box={list(box)}: "
            "write dataset.train_box=null"
        )
    return photo[top:bottom, left:right], target[top:bottom, left:right]


def turned(photo: Pixels, target: Map, degrees: float, padding: int) -> tuple[Pixels, Map]:
    """Both turned about their centre, counter-clockwise; what comes from outside is black, in the map `padding`.

    The photo is interpolated, the map takes the nearest stored pixel, as in `resize_map`.
    """
    image = Image.fromarray(photo).rotate(degrees, Image.Resampling.BILINEAR)
    nearest = Image.fromarray(target).rotate(degrees, Image.Resampling.NEAREST, fillcolor=padding)
    return np.asarray(image), np.asarray(nearest)


def resize_photo(photo: Pixels, box: Box, size: tuple[int, int]) -> Pixels:
    """The part `box` of a photo (H, W, 3), resized to `size` (height, width): bilinear, antialiased.

    Equals the same part of the whole photo resized: the filter looks beyond the box.
    """
    left, top, right, bottom = box
    height, width = photo.shape[:2]
    inside = (left, top, min(right, width), min(bottom, height))  # the last digit of a product may lie outside
    resized = Image.fromarray(photo).resize(size[::-1], Image.Resampling.BILINEAR, box=inside)
    return np.asarray(resized)


def resize_map(target: Map, box: Box, size: tuple[int, int]) -> Map:
    """The part `box` of a map (H, W), resized to `size` (height, width): the stored pixel under each new centre.

    Neighbouring classes have no class between them, nor has a foreground pixel a depth between its own and
    the background's.
    """
    left, top, right, bottom = box
    height, width = size
    rows = (top + (np.arange(height) + 0.5) * (bottom - top) / height).astype(int)
    columns = (left + (np.arange(width) + 0.5) * (right - left) / width).astype(int)
    resized: Map = target[rows[:, None], columns]
    return resized


def color_jitter(image: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """Shift brightness, contrast, saturation and gamma of (3, H, W) in [0, 1]; the result is in [0, 1] too.

    Each is changed by its own factor exp(u), u uniform in [-strength, strength].
    """
    brightness, contrast, saturation, gamma = (float(f) for f in np.exp(rng.uniform(-strength, strength, 4)))
    image = (image * brightness).clamp(0, 1)
    mean = image.mean()
    image = (mean + contrast * (image - mean)).clamp(0, 1)
    grey = image.mean(dim=0, keepdim=True)
    image = (grey + saturation * (image - grey)).clamp(0, 1)
    return image**gamma


def _require_one_size(item: Item, photo: Sequence[int], target: Sequence[int]) -> None:
    if tuple(photo) != tuple(target):
        (h, w), (H, W) = photo, target
        raise UserError(f"{item.input} ({w}x{h}) and {item.target} ({W}x{H}) must be of one size; replace one of them")


def scene_samples(config: Config) -> dict[str, Any]:
    """What `ImageDataModule` makes of photos with labels or depth."""
    assert config.dataset.target is not None
    target, scenes = build(config.dataset.target, "dataset.target"), config.task.scenes
    sizes = {key: getattr(scenes, key) for key in ("input_scale", "short_side", "long_side")}
    return {
        "train_samples": partial(
            TrainScenes,
            target=target,
            seed=config.seed,
            zoom=scenes.zoom,
            aspect=scenes.aspect,
            jitter=scenes.jitter,
            rotate=scenes.rotate,
            box=config.dataset.train_box,
            **sizes,
            on_error=cast(OnError, config.dataset.on_error),
        ),
        "val_samples": partial(EvalScenes, target=target, partner=True, **sizes),
        "check_item": check_scene,
    }


def read_targets(items: Sequence[Item], config: Config) -> Iterator[Map]:
    """The decoded targets of at most 1000 items, evenly spaced, without what training skips.

    Raises:
        UserError: one cannot be read, unless such files are skipped.
    """
    assert config.dataset.target is not None
    target = build(config.dataset.target, "dataset.target")
    for item in items[:: -(-len(items) // 1000)]:
        try:
            yield target.read(item.target)
        except UserError:
            if config.dataset.on_error != "skip":
                raise
