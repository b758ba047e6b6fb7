"""Files made of images before a training or an evaluation, as their data sets' users make them."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from diffi2i.config.schema import one_of
from diffi2i.data import masks
from diffi2i.data.dataset import rng_of
from diffi2i.data.degrade import Inpaint
from diffi2i.data.images import read_shape, read_size
from diffi2i.data.photos import Photo, Pixels, read_photo, write_photo
from diffi2i.data.resize import imresize
from diffi2i.errors import Note, UserError
from diffi2i.files import whole


@dataclass(frozen=True)
class SubImages:
    """Overlapping crops, as BasicSR's `extract_subimages` makes them of DF2K: they are read faster than whole photos.

    They are squares of `size` pixels that begin every `step`, row by row, and one more that ends at the border where
    more than `thresh` pixels are left; an image that is smaller stays whole. Images are first cropped to multiples of
    `scale`, so that crops of images that are `scale` times smaller, `size` and `step` too, show the same. `name` is
    what the images are called, where NAME is all that is kept of it: NAMEx4.
    """

    size: int = 480
    step: int = 240
    thresh: int = 0
    scale: int = 1
    name: str = "NAME"

    def __post_init__(self) -> None:
        check_template(self.name)
        if self.step > self.size:
            raise UserError(f"step={self.step} leaves gaps between sub-images of size={self.size}: write at most that")
        if self.size % self.scale or self.step % self.scale:
            raise UserError(f"size={self.size} and step={self.step} must be multiples of scale={self.scale}")
        if self.thresh < 0:
            raise UserError(f"thresh={self.thresh} must be 0 or more pixels")

    def names(self, name: str, file: Path) -> list[str]:
        """`0001_s001` and so on. Raises `UserError`: the image is not called as `name` says, or as `read_size`."""
        folder, slash, last = name.rpartition("/")
        before, after = self.name.split("NAME")
        if len(last) <= len(before + after) or not (last.startswith(before) and last.endswith(after)):
            raise UserError(f"{file}: is not called {self.name}; write name=NAME, or what its name has around its own")
        kept = last[len(before) : len(last) - len(after)]
        return [f"{folder}{slash}{kept}_s{i:03d}" for i in range(1, len(self.corners(read_size(file))) + 1)]

    def pictures(self, name: str, file: Path) -> Iterator[Photo]:
        photo = read_photo(file)
        height, width = multiples(photo.colours.shape, self.scale)
        for top, left in self.corners((height, width)):
            box = slice(top, min(top + self.size, height)), slice(left, min(left + self.size, width))
            yield changed(photo, itemgetter(box))

    def corners(self, size: tuple[int, ...]) -> list[tuple[int, int]]:
        """Top left ones of the crops of an image of (height, width)."""
        rows, columns = (self.starts(n) for n in multiples(size, self.scale))
        return [(top, left) for top in rows for left in columns]

    def starts(self, length: int) -> list[int]:
        """Where crops begin along a side."""
        if length <= self.size:
            return [0]
        found = list(range(0, length - self.size + 1, self.step))
        return found + ([length - self.size] if length - self.size - found[-1] > self.thresh else [])


@dataclass(frozen=True)
class Downsample:
    """Smaller images by MATLAB's antialiased bicubic, in as many bits: for 8, the inputs that `degrade.Bicubic` makes.

    Images are first cropped to multiples of `scale`. `name` is what the small one is called, NAMEx<scale> by default.
    """

    scale: int = 4
    name: str = ""

    def __post_init__(self) -> None:
        if self.scale < 2:
            raise UserError(f"scale={self.scale} makes nothing smaller: write 2, 3 or 4")
        check_template(self.template)

    @property
    def template(self) -> str:
        return self.name or f"NAMEx{self.scale}"

    def names(self, name: str, file: Path) -> list[str]:
        folder, slash, last = name.rpartition("/")
        return [folder + slash + self.template.replace("NAME", last)]

    def pictures(self, name: str, file: Path) -> Iterator[Photo]:
        """Raises `UserError`: the image is smaller than `scale`."""
        photo = read_photo(file)
        height, width = multiples(photo.colours.shape, self.scale)
        if not height or not width:
            raise UserError(f"{file}: smaller than {self.scale} pixels, the scale; remove it")
        yield changed(photo, lambda pixels: shrunk(pixels[:height, :width], self.scale))


@dataclass(frozen=True)
class Masks:
    """Masks of test images, white = hole: those that an evaluation on whole images draws by itself.

    `masks` are LaMa's, `narrow`, `medium` or `wide`, of which each image draws one, of several either, in the order of
    `task.degrade.mask`; `side` is theirs, 256 or 512, and `seed` is `task.protocol.seed`.
    """

    masks: list[str] = field(default_factory=list)
    side: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.masks:
            raise UserError("masks is missing: write masks=narrow, medium or wide")
        for kind in self.masks:
            one_of("masks", kind, ("narrow", "medium", "wide"))
        if not 0 <= self.seed < 2**32:
            raise UserError(f"seed={self.seed} lies from 0 to {2**32 - 1}")
        _ = self.drawn

    @property
    def drawn(self) -> Inpaint:
        """Raises `UserError`: LaMa has none for `side`."""
        return Inpaint([getattr(masks, kind)(self.side) for kind in self.masks])

    def names(self, name: str, file: Path) -> list[str]:
        return [name]

    def pictures(self, name: str, file: Path) -> Iterator[Photo]:
        hole = self.drawn.hole(*read_size(file), rng_of(self.seed, name))
        yield Photo(np.repeat(255 * hole[..., None], 3, axis=2), grey=True)


Preparation = SubImages | Downsample | Masks
"""`names` are the paths, without suffix, of what is made of an image of this name and file, `pictures` the contents."""
PREPARATIONS: dict[str, type[Preparation]] = {
    "prepare subimages": SubImages,
    "prepare downsample": Downsample,
    "prepare masks": Masks,
}
"""By the words of the command."""


class Piece(NamedTuple):
    """An image and the files to make of it."""

    name: str
    file: Path
    targets: list[Path]


def make(preparation: Preparation, piece: Piece) -> tuple[list[str], str | None]:
    """Writes the files, PNG, each whole or not at all. Returns notes, and why not all could be made."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", Note)
        error = None
        try:
            for target, photo in zip(piece.targets, preparation.pictures(piece.name, piece.file), strict=True):
                target.parent.mkdir(parents=True, exist_ok=True)
                with whole(target) as place:
                    write_photo(photo, place, "png")
        except UserError as refused:
            error = str(refused)
        except MemoryError:
            error = f"{piece.file}: memory is wanting for it; free some, or write jobs=1"
    return [str(each.message) for each in caught if issubclass(each.category, Note)], error


def line_of(named: tuple[str, Path]) -> tuple[str, str | None]:
    """`a/0001.png (480,480,3)`, an image's line in BasicSR's lists; or why there is none."""
    name, file = named
    try:
        return f"{name}{file.suffix} ({','.join(map(str, read_shape(file)))})", None
    except UserError as error:
        return "", str(error)


def check_template(template: str) -> None:
    if template.count("NAME") != 1 or "/" in template:
        raise UserError(f"name={template}: write a name that holds the word NAME once, such as NAMEx4")


def multiples(size: tuple[int, ...], scale: int) -> tuple[int, int]:
    """Height and width, rounded down to multiples of the scale."""
    height, width = (n - n % scale for n in size[:2])
    return height, width


def changed(photo: Photo, change: Callable[[Pixels], Pixels]) -> Photo:
    """The photo, its colours and alpha (H, W, C) changed; without EXIF, which was about the whole one."""
    alpha = None if photo.alpha is None else change(photo.alpha[..., None])[..., 0]
    return replace(photo, colours=change(photo.colours), alpha=alpha, exif=None)


def shrunk(pixels: Pixels, scale: int) -> Pixels:
    """(H, W, C) uint8 or uint16 -> (H / scale, W / scale, C), as `degrade.Bicubic` for 8 bits."""
    levels = np.iinfo(pixels.dtype).max
    exact = pixels.astype(np.float32 if levels == 255 else np.float64)
    image = torch.from_numpy(exact.transpose(2, 0, 1).copy()) / levels
    small = (imresize(image, 1 / scale).clamp(0, 1) * levels).round()
    return small.permute(1, 2, 0).numpy().astype(pixels.dtype)
