"""A generated segmentation set, and the way data made on this machine are kept.

Generated pictures are no photographs: they show that a model learns, never how well it does on real scenes.
"""

import hashlib
import json
import math
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import skimage
from PIL import Image, ImageDraw

from diffi2i.data.images import read_rgb
from diffi2i.data.sources import Item, Split, pairs
from diffi2i.errors import UserError
from diffi2i.weights import cache_dir

SHAPES = ("background", "disc", "square", "triangle", "ring", "cross")
"""The classes by number."""

# The photos that backgrounds and textures are cut from. No photo serves both splits.
PHOTOS: dict[Split, tuple[str, ...]] = {
    "train": ("brick.png", "chelsea.png", "grass.png", "ihc.png", "motorcycle_left.png"),
    "val": ("astronaut.png", "camera.png", "coffee.png", "gravel.png"),
}

VERSION = 1  # to be counted up whenever the same arguments give other pictures
OVERSAMPLING = 4  # outlines are drawn this much larger, then averaged: smooth edges
MIN_CONTRAST = 0.25  # of a shape's mean colour to what it covers, in at least one channel

Values = npt.NDArray[np.float64]


def shapes(split: Split, train: int = 96, val: int = 24, size: int = 128, seed: int = 0) -> list[Item]:
    """Generated: two to four textured shapes on crops of photos, labelled 0 to 5 as `SHAPES` has it.

    A shape's colour, texture, size, place and turn say nothing about its class; only its outline does. A later
    shape may cover an earlier one, and through a ring's hole one sees the background. Drawn once into the cache
    folder, then read from there.

    Args:
        split: which part to list.
        train, val: pictures of either split.
        size: their side in pixels.
        seed: of everything drawn, >= 0.

    Raises:
        UserError: no picture asked for, a photo missing from scikit-image, or a cache that cannot be written.
    """
    count = train if split == "train" else val
    if count < 1:
        raise UserError(f"shapes: {split}={count} pictures; write at least 1")
    arguments = {"version": VERSION, "split": split, "count": count, "size": size, "seed": seed}
    folder = made_once("shapes", arguments, lambda folder: _write_shapes(folder, split, count, size, seed))
    return pairs("val", val_root=folder)  # "val" with a folder of its own: all of that folder


def made_once(name: str, arguments: Mapping[str, str | int], make: Callable[[Path], None]) -> Path:
    """The cache folder of data made from `arguments`; `make` fills it at the first call.

    The folder appears whole or not at all: processes that make it at the same time each fill one of their own,
    and the first to rename it wins.

    Raises:
        UserError: the cache folder cannot be written.
    """
    digest = hashlib.sha256(json.dumps(arguments, sort_keys=True).encode()).hexdigest()[:12]
    folder = cache_dir() / f"{name}_{digest}"
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}_", dir=folder.parent) as temporary:
            unfinished = Path(temporary) / name
            unfinished.mkdir()
            make(unfinished)
            try:
                unfinished.rename(folder)
            except OSError:
                if not folder.is_dir():  # else another process was faster, with the same files
                    raise
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror}); set DIFFI2I_CACHE to a folder that can"
        ) from error
    return folder


def _write_shapes(folder: Path, split: Split, count: int, size: int, seed: int) -> None:
    """Fill `folder`/input with photos and `folder`/target with label maps, NAME.png of the same names."""
    installed = Path(skimage.__file__).parent / "data"
    photos = [read_rgb(installed / name) for name in PHOTOS[split]]
    for part in ("input", "target"):
        (folder / part).mkdir()
    for number in range(count):
        picture, labels = _scene(photos, size, np.random.default_rng([seed, split == "val", number]))
        Image.fromarray(picture).save(folder / "input" / f"{number:04}.png")
        Image.fromarray(labels).save(folder / "target" / f"{number:04}.png")


def _scene(
    photos: list[npt.NDArray[np.uint8]], size: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """One picture (size, size, 3) and its labels (size, size), both uint8."""
    picture = _photo_crop(photos, size, rng)
    labels = np.zeros((size, size), np.uint8)
    for _ in range(rng.integers(2, 5)):
        shape = int(rng.integers(1, len(SHAPES)))
        cover = _outline(SHAPES[shape], size, rng)
        texture = _photo_crop(photos, size, rng)
        covered = np.average(picture, axis=(0, 1), weights=cover)
        color = rng.uniform(0.1, 0.9, 3)
        while abs(color - covered).max() < MIN_CONTRAST:
            color = rng.uniform(0.1, 0.9, 3)
        texture = np.clip(texture - texture.mean(axis=(0, 1)) + color, 0, 1)
        picture += cover[..., None] * (texture - picture)
        labels[cover >= 0.5] = shape
    return np.rint(picture * 255).astype(np.uint8), labels


def _photo_crop(photos: list[npt.NDArray[np.uint8]], size: int, rng: np.random.Generator) -> Values:
    """(size, size, 3) in [0, 1]: a random square of a random photo, of 100 to 250 of its pixels, perhaps mirrored."""
    photo = photos[int(rng.integers(len(photos)))]
    side = int(rng.integers(100, 251))
    top, left = (int(rng.integers(n - side + 1)) for n in photo.shape[:2])
    square = Image.fromarray(photo[top : top + side, left : left + side])
    crop = np.asarray(square.resize((size, size), Image.Resampling.BICUBIC)) / 255
    return crop[:, ::-1] if rng.integers(2) else crop


def _outline(shape: str, size: int, rng: np.random.Generator) -> Values:
    """(size, size): the part of each pixel in [0, 1] that a shape covers, at a random place, size and turn.

    All shapes of one size have the same area, so that area does not tell them apart.
    """
    side = size * OVERSAMPLING
    area = (side * rng.uniform(0.22, 0.4)) ** 2
    x, y = rng.uniform(0.2, 0.8, 2) * side
    turn = rng.uniform(0, 2 * math.pi)
    canvas = Image.new("L", (side, side))
    draw = ImageDraw.Draw(canvas)

    def disc(radius: float, value: int) -> None:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=value)

    def polygon(points: list[tuple[float, float]]) -> None:
        sine, cosine = math.sin(turn), math.cos(turn)
        draw.polygon([(x + cosine * u - sine * v, y + sine * u + cosine * v) for u, v in points], fill=255)

    if shape == "disc":
        disc(math.sqrt(area / math.pi), 255)
    elif shape == "ring":
        outer = math.sqrt(area / (0.75 * math.pi))
        disc(outer, 255)
        disc(outer / 2, 0)
    elif shape == "square":
        h = math.sqrt(area) / 2
        polygon([(-h, -h), (h, -h), (h, h), (-h, h)])
    elif shape == "triangle":
        radius = math.sqrt(area / (0.75 * math.sqrt(3)))
        polygon([(radius * math.cos(a), radius * math.sin(a)) for a in (0, 2 * math.pi / 3, 4 * math.pi / 3)])
    else:  # a cross of five equal squares
        t = math.sqrt(area / 5) / 2
        corner = [(t, t), (t, 3 * t), (-t, 3 * t)]
        quarters = [(u * c - v * s, u * s + v * c) for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1)) for u, v in corner]
        polygon(quarters)
    fine = np.asarray(canvas).reshape(size, OVERSAMPLING, size, OVERSAMPLING)
    cover: Values = fine.mean(axis=(1, 3)) / 255
    return cover
