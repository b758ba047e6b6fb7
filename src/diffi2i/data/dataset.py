"""Datasets of sample dicts, and the samplers that fix which process sees which sample when.

A sample: `input` (3, h, w) and `target` (3, H, W), float32 RGB in [0, 1]; `name` str; for inpainting `mask`
(1, H, W) float32, 1 = hole.
"""

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset, Sampler

from diffi2i.data.degrade import Degradation, cut
from diffi2i.data.images import read_hole, read_rgb, read_size, to_tensor
from diffi2i.data.manifest import Seal
from diffi2i.data.member import Readable
from diffi2i.data.skip import OnError, read_or_skip
from diffi2i.data.sources import Item
from diffi2i.errors import UserError

T = TypeVar("T")
Sample = dict[str, Any]
Pixels = npt.NDArray[np.uint8]
Augment = Literal["flips_and_turns", "flips", "none"]


@dataclass(frozen=True, slots=True)
class Draw:
    """One training sample: place `index` in the global batch of optimiser step `step`, a crop of `patch` pixels."""

    step: int
    index: int
    patch: int


class Phase(NamedTuple):
    """From optimiser step `step` on: crops of `patch` target pixels, `batch` of them a step over all processes."""

    step: int
    patch: int
    batch: int


class ImageCache:
    """Decoded images, kept in memory as uint8 up to a budget; beyond it, files are decoded each time.

    Nothing is ever evicted: draws are uniform, so no image is worth more than another. Every loader
    worker holds its own copy.
    """

    def __init__(self, budget_mb: float, seal: Seal | None = None) -> None:
        """`budget_mb`: megabytes (2^20 bytes) of pixels to keep; `seal`: what the files must still be."""
        self.seal = seal or Seal()
        self.free = int(budget_mb * 2**20)
        self.images: dict[Readable, Pixels] = {}

    def read(self, path: Readable) -> Pixels:
        """(H, W, 3) uint8, read-only. Raises UserError as `read_rgb` does, or for a file that has changed."""
        if path in self.images:
            return self.images[path]
        image = self.sealed(path, read_rgb)
        image.setflags(write=False)
        if image.nbytes <= self.free:
            self.images[path] = image
            self.free -= image.nbytes
        return image

    def sealed(self, path: Readable, read: Callable[[Readable], T]) -> T:
        """What `read` makes of the file. Raises UserError as it does, or for a file that has changed."""
        try:
            return read(path)
        finally:  # after it, since the file may change while it is read; its being gone is a change too
            self.seal.check(path)


class TrainImages(Dataset[Sample]):
    """Random square crops. A sample is a pure function of the seed and its Draw, in whatever process it is made.

    A draw picks an image uniformly, then a crop of `patch` target pixels, then, as `augment` says, one of the eight
    flips and turns, whether to mirror left to right, or nothing; then it degrades the crop, or takes the same crop
    of the recorded input. An image smaller than the patch is first mirrored (edge pixel repeated) at its right and
    bottom up to the patch.

    A degradation that works on the batch's device leaves the sample without `input` and with its `draw`; the
    DataModule then degrades the batch with generators of these draws.

    With a `context` the crop has so many target pixels a side, and the sample is its centre; see `centred`.
    """

    def __init__(
        self,
        items: Sequence[Item],
        degrade: Degradation,
        seed: int,
        cache: ImageCache,
        augment: Augment = "flips_and_turns",
        on_error: OnError = "error",
        context: int | None = None,
    ) -> None:
        """`seed` >= 0; `on_error="skip"` draws another image in place of one that cannot be read, and warns.

        Raises:
            UserError: the task cannot use pairs.
        """
        require_usable(items, degrade)
        self.items, self.degrade, self.seed, self.cache = items, degrade, seed, cache
        self.augment, self.context = augment, context
        self.skipped: set[str] | None = set() if on_error == "skip" else None

    def __len__(self) -> int:
        """The number of images; there are as many different draws as one likes."""
        return len(self.items)

    def __getitem__(self, draw: Draw) -> Sample:
        """Raises `UserError`: a file cannot be read, or a pair's sizes do not fit (unless such images are skipped)."""
        rng = np.random.default_rng([self.seed, draw.step, draw.index])
        scale, patch = self.degrade.scale, self.context or draw.patch
        item, (target, recorded) = read_or_skip(
            self.items, rng, lambda item: _read(item, scale, self.cache), self.skipped
        )

        # Pairs are cropped on the input's grid, so that the crop starts at a pixel border in both.
        step = 1 if recorded is None else scale
        side = patch // step
        top, left = (int(rng.integers(max(1, n // step - side + 1))) for n in target.shape[:2])
        # Drawn in any case, so that crop and degradation are the same whatever `augment` says.
        flip, turns = bool(rng.integers(2)), int(rng.integers(4))
        flip, turns = flip and self.augment != "none", turns if self.augment == "flips_and_turns" else 0

        crop = to_tensor(_cut(target, top * step, left * step, patch, flip, turns))
        sample: Sample = {"target": crop, "name": item.name}
        if recorded is not None:
            sample |= {"input": to_tensor(_cut(recorded, top, left, side, flip, turns))}
        elif degrades_on_device(self.degrade):
            later = {"draw": torch.tensor([draw.step, draw.index])}
            return sample | later | ({} if self.context is None else {"patch": draw.patch})
        else:
            sample |= self.degrade(crop, rng)
        return sample if self.context is None else centred(sample, draw.patch)


def centred(whole: Sample, patch: int) -> Sample:
    """The central `patch` target pixels of a sample, or of a batch, which itself becomes their `context`."""
    grid = whole["input"].shape[-1]
    side = patch * grid // whole["target"].shape[-1]
    start = (grid - side) // 2
    sample: Sample = {"name": whole["name"], "context": whole}
    for key in ("input", "target", "mask"):
        if key in whole:
            scale = whole[key].shape[-1] // grid
            inside = slice(start * scale, (start + side) * scale)
            sample[key] = whole[key][..., inside, inside]
    return sample


def degrades_on_device(degrade: Degradation) -> bool:
    """Whether `degrade.batch(target, generators)` makes the training inputs where the batch lies."""
    return bool(getattr(degrade, "on_device", False))


def degrade_batch(batch: Sample, degrade: Degradation, seed: int) -> Sample:
    """The batch with the `input` that its samples' draws determine; each sample has its own generator."""
    if "draw" not in batch:
        return batch
    # The third number keeps these generators apart from the one that chose the crop.
    generators = [np.random.default_rng([seed, step, index, 1]) for step, index in batch.pop("draw").tolist()]
    made: Sample = degrade.batch(batch["target"], generators)  # type: ignore[attr-defined]
    patch = batch.pop("patch", None)
    return batch | made if patch is None else centred(batch | made, int(patch[0]))


class EvalImages(Dataset[Sample]):
    """Whole images, the target cropped (from its top left) to multiples of the scale, or crops of them.

    An image's random degradation depends on (seed, name) alone, not on its place in the list; a crop's name is the
    image's with `@row-column`, where it begins in target pixels, unless it is the central one.
    """

    def __init__(
        self,
        items: Sequence[Item],
        degrade: Degradation,
        seed: int,
        cache: ImageCache,
        partner: bool = False,
        crop: int | None = None,
        crops: int = 1,
        masks: Mapping[str, Path] | None = None,
    ) -> None:
        """Store the settings; nothing is read yet, but for the images' sizes where there are several `crops`.

        Args:
            partner: each sample also holds, as `other`, the sample half the list away (if there is one): the next
                one may be the next frame of a video.
            crop: side of the central crop in target pixels, None for whole images; a smaller image stays whole.
            crops: above 1, up to so many crops of each image in place of the central one; see `spread_crops`.
            masks: the masks of whole images by name, in place of those that `degrade` would draw.

        Raises:
            UserError: the task cannot use pairs, or an image whose size is needed cannot be read.

        Attributes:
            names: of the samples, in order.
        """
        require_usable(items, degrade)
        self.degrade, self.seed = degrade, seed
        self.cache, self.partner, self.crop, self.masks = cache, partner, crop, masks
        self.places: list[tuple[Item, tuple[int, int] | None]] = [(item, None) for item in items]
        if crop is not None and crops > 1:
            self.places = [
                (item, place)
                for item in items
                for place in spread_crops(read_size(item.target), crop, crops, degrade.scale)
            ]
        self.names = [
            item.name if place is None else f"{item.name}@{place[0]}-{place[1]}" for item, place in self.places
        ]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Sample:
        """Sample `index`, in the order of the items.

        Raises:
            UserError: a file cannot be read, is smaller than the scale, or a pair's sizes do not fit.
        """
        sample = self._sample(index)
        if self.partner and len(self) > 1:
            sample["other"] = self._sample((index + len(self) // 2) % len(self))
        return sample

    def _sample(self, index: int) -> Sample:
        (item, place), scale, name = self.places[index], self.degrade.scale, self.names[index]
        target, recorded = _read(item, scale, self.cache)
        if self.crop is not None:
            # The offset is a multiple of the scale, so that a recorded input is cropped at the same place.
            top, left = place or (max(0, (n - self.crop) // 2 // scale * scale) for n in target.shape[:2])
            target = target[top : top + self.crop, left : left + self.crop]
            if recorded is not None:
                side = self.crop // scale
                recorded = recorded[top // scale : top // scale + side, left // scale : left // scale + side]
        height, width = (n - n % scale for n in target.shape[:2])
        if not height or not width:
            raise UserError(f"{item.target}: smaller than {scale} pixels, the scale; remove it")
        clean = to_tensor(target[:height, :width])
        if recorded is not None:
            return {"input": to_tensor(recorded), "target": clean, "name": name}
        if self.masks is not None:
            made = cut(clean, self.cache.sealed(self.masks[name], read_hole))
        else:
            made = self.degrade(clean, rng_of(self.seed, name))
        return {**made, "target": clean, "name": name}


def rng_of(seed: int, name: str) -> np.random.Generator:
    """What the random degradation of the image or crop of this name is drawn with, in an evaluation of this seed."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def spread_crops(size: Sequence[int], crop: int, count: int, scale: int) -> list[tuple[int, int]]:
    """Top left corners of at most `count` crops of `crop` pixels, spread over an image without overlap.

    They are cells of the largest centred grid that fits, evenly picked; corners are multiples of `scale`. An image
    smaller than the crop has the one corner (0, 0): it stays whole.
    """
    crop += -crop % scale
    cells = [max(1, n // crop) for n in size]
    start = [max(0, (n - cell * crop) // 2 // scale * scale) for n, cell in zip(size, cells, strict=True)]
    total = cells[0] * cells[1]
    chosen = np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(int))
    return [(start[0] + int(i) // cells[1] * crop, start[1] + int(i) % cells[1] * crop) for i in chosen]


class StepSampler(Sampler[list[Draw]]):
    """The batches of one epoch for one process: `steps` optimiser steps of `micro_batches` batches each, or those left.

    The processes together draw the indices 0, 1, ... of each step's global batch, however many they are, so the
    samples depend neither on their number nor on the accumulation. `first` is asked anew at each epoch's start for
    the number of steps already made, so resumed training continues exactly, in whatever phase. (Lightning's own epoch
    counter runs ahead after a restart.)
    """

    def __init__(
        self,
        phases: Sequence[Phase],
        steps: int,
        micro_batches: int = 1,
        rank: int = 0,
        world_size: int = 1,
        first: Callable[[], int] = lambda: 0,
    ) -> None:
        """`phases` in order, the first from step 0; each `batch` is a multiple of micro_batches x world_size."""
        self.phases, self.steps, self.micro_batches = phases, steps, micro_batches
        self.rank, self.world_size, self.first = rank, world_size, first

    def __iter__(self) -> Iterator[list[Draw]]:
        first = self.first()
        for step in range(first, (first // self.steps + 1) * self.steps):
            phase = [phase for phase in self.phases if phase.step <= step][-1]
            share = phase.batch // self.micro_batches
            for start in range(0, phase.batch, share):
                yield [
                    Draw(step, index, phase.patch) for index in range(start + self.rank, start + share, self.world_size)
                ]

    def __len__(self) -> int:
        return self.steps * self.micro_batches


def check_image(item: Item, degrade: Degradation) -> None:
    """Raise UserError where an item's headers show that the task cannot use it."""
    require_usable([item], degrade)
    size = read_size(item.target)
    if item.input is not None:
        require_pair_sizes(item, read_size(item.input), size, degrade.scale)


def require_usable(items: Sequence[Item], degrade: Degradation) -> None:
    """Raise UserError when the data are pairs but the task makes its own input (inpainting)."""
    if getattr(degrade, "holes", False) and any(item.input for item in items):
        raise UserError("inpainting cuts its own holes and cannot use pairs; write dataset=folder root=<folder>")


def require_pair_sizes(item: Item, input_size: Sequence[int], target_size: Sequence[int], scale: int) -> None:
    """Raise UserError unless the input's (height, width) is the target's divided by `scale`, rounded down."""
    expected = [n // scale for n in target_size]
    if list(input_size) != expected or 0 in expected:
        (h, w), (H, W) = input_size, target_size
        raise UserError(
            f"{item.input} ({w}x{h}) does not fit {item.target} ({W}x{H}): at scale {scale} the input must be "
            f"{expected[1]}x{expected[0]} and not empty; replace one of them or write task.scale=<target over input>"
        )


def _read(item: Item, scale: int, cache: ImageCache) -> tuple[Pixels, Pixels | None]:
    """The item's target and, if recorded, its input; a paired target is cropped to the input's extent."""
    target = cache.read(item.target)
    if item.input is None:
        return target, None
    recorded = cache.read(item.input)
    require_pair_sizes(item, recorded.shape[:2], target.shape[:2], scale)
    height, width = recorded.shape[:2]
    return target[: height * scale, : width * scale], recorded


def _cut(image: Pixels, top: int, left: int, side: int, flip: bool, turns: int) -> Pixels:
    """The (side, side, 3) crop at (top, left), mirrored up to size where the image ends, flipped, turned."""
    crop = image[top : top + side, left : left + side]
    missing = [(0, side - n) for n in crop.shape[:2]]
    crop = np.pad(crop, [*missing, (0, 0)], mode="symmetric")
    return np.rot90(crop[:, ::-1] if flip else crop, turns)
