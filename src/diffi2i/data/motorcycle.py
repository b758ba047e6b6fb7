"""Depth of one real scene: the Middlebury 2014 motorcycle, whose left view and disparity scikit-image carries.

One scene cannot show how well a model does on others; the set is for demos and tests without a download.
"""

import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import skimage
from PIL import Image

from diffi2i.data.generated import made_once
from diffi2i.data.images import read_rgb
from diffi2i.data.sources import Item, Split, pairs
from diffi2i.errors import UserError

# The calibration of Middlebury's images shrunk by four, as `skimage.data.stereo_motorcycle` states it.
FOCAL = 994.978  # pixels
BASELINE = 0.193001  # metres between the two cameras
OFFSET = 31.086  # pixels between the two principal points: a point at infinity has disparity -OFFSET

# Columns of the view, 741 wide. The gap between the parts keeps a crop of one from touching the other.
PARTS: dict[Split, slice] = {"train": slice(0, 480), "val": slice(512, 741)}

VERSION = 1  # to be counted up whenever the same arguments give other files


def motorcycle(split: Split, tiles: int = 2) -> list[Item]:
    """Photos and their depth in millimetres (16-bit PNG, 0 = not measured), from 2.1 m to 5.0 m.

    "train" is the left 480 columns in one piece, to be cropped at random; "val" the right 229 columns, cut into
    `tiles` pieces one above the other. Written once into the cache folder, then read from there.

    Raises:
        UserError: `tiles` is not in 1 to 10, the scene is missing from scikit-image, or the cache cannot be written.
    """
    if not 1 <= tiles <= 10:
        raise UserError(f"motorcycle: tiles={tiles}; write a number from 1 to 10")
    pieces = tiles if split == "val" else 1
    arguments = {"version": VERSION, "split": split, "pieces": pieces}
    folder = made_once("motorcycle", arguments, lambda folder: _write(folder, PARTS[split], pieces))
    return pairs("val", val_root=folder)  # "val" with a folder of its own: all of that folder


def metres(disparity: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Depth of any shape in metres, focal * baseline / (disparity + offset); 0 where the disparity is not measured.

    Not measured are NaN, infinite, zero and negative disparities.
    """
    measured = np.isfinite(disparity) & (disparity > 0)
    return np.where(measured, FOCAL * BASELINE / (np.where(measured, disparity, 1).astype(np.float64) + OFFSET), 0)


def _write(folder: Path, columns: slice, pieces: int) -> None:
    """Fill `folder`/input with photos and `folder`/target with depth maps, NAME.png of the same names."""
    installed = Path(skimage.__file__).parent / "data"
    photo = read_rgb(installed / "motorcycle_left.png")
    # The disparity belongs to the left view: its pixel (y, x) shows what the right one has at (y, x - disparity).
    millimetres = np.rint(metres(_disparity(installed / "motorcycle_disp.npz")) * 1000).astype(np.uint16)
    for name, image in (("input", photo), ("target", millimetres)):
        (folder / name).mkdir()
        for number, piece in enumerate(np.array_split(image[:, columns], pieces)):
            Image.fromarray(piece).save(folder / name / f"{number}.png")


def _disparity(path: Path) -> npt.NDArray[np.float32]:
    try:
        with np.load(path) as file:
            disparity: npt.NDArray[np.float32] = file["arr_0"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: missing from scikit-image; reinstall it: pip install scikit-image") from error
    return disparity
