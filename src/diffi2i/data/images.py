"""Reading image files: one way in, every odd file either understood or refused by name."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import Tensor

from diffi2i.data.resize import to_uint8
from diffi2i.errors import UserError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm"})
"""Lower-case suffixes, with the dot, of the files that count as images."""

EXIF_ORIENTATION = 0x0112
SIXTEEN_BIT_TO_EIGHT = 257  # 65535 / 255


def read_rgb(path: Path) -> npt.NDArray[np.uint8]:
    """Decode an image file to (H, W, 3) uint8 RGB.

    - Grey, black-and-white, palette and CMYK images become RGB.
    - Alpha is dropped, not composited: the colours stored under transparent pixels stay, as in BasicSR.
    - 16-bit grey is divided by 257 and rounded. Of 16-bit RGB Pillow keeps the high byte.
    - Of an animation or a multi-page file, the first frame.
    - The EXIF orientation is applied.
    - Float images are refused: their range is not in the file (and they may hold NaN).

    Raises:
        UserError: missing, empty, truncated, not an image, float, or over Pillow's size limit.
    """
    with _opened(path) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.mode == "F":
            raise UserError(f"{path}: a float image has no known range; save it as 8- or 16-bit")
        if upright.mode.startswith("I"):
            grey = np.asarray(upright).astype(np.float64).clip(0, 65535) / SIXTEEN_BIT_TO_EIGHT
            return np.repeat(np.rint(grey).astype(np.uint8)[..., None], 3, axis=2)
        if upright.mode == "P" and "transparency" in upright.info:
            # Straight to RGB, Pillow warns about the palette's transparency.
            upright = upright.convert("RGBA")
        return np.array(upright.convert("RGB"))


def read_size(path: Path) -> tuple[int, int]:
    """(height, width) in pixels as `read_rgb` would return them, from the header alone.

    Raises:
        UserError: missing, empty, not an image, or over Pillow's size limit.
    """
    with _opened(path) as image:
        width, height = image.size
        # Orientations 5 to 8 are those turned by 90 degrees.
        turned = image.getexif().get(EXIF_ORIENTATION, 1) >= 5
        return (width, height) if turned else (height, width)


def to_tensor(image: npt.NDArray[np.uint8]) -> Tensor:
    """(H, W, 3) uint8 -> (3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(image.transpose(2, 0, 1).copy()).to(torch.float32) / 255


def read_image(path: Path) -> Tensor:
    """As `read_rgb`, but (1, 3, H, W) float32 in [0, 1]: a batch of one."""
    return to_tensor(read_rgb(path))[None]


def as_picture(image: Tensor) -> Image.Image:
    """(3, H, W) float in [0, 1] -> an 8-bit RGB picture."""
    return Image.fromarray(np.ascontiguousarray(to_uint8(image.float()).permute(1, 2, 0).cpu().numpy()))


def require_equal_sizes(file: Path, image: Tensor, other_file: str, other: Tensor) -> None:
    """Raise UserError unless both, (..., H, W), are of one size; `other_file` with what it is to the first."""
    if image.shape[-2:] != other.shape[-2:]:
        sizes = [f"{tensor.shape[-1]}x{tensor.shape[-2]}" for tensor in (image, other)]
        raise UserError(f"{file} is {sizes[0]}, its {other_file} is {sizes[1]}: make them equal")


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open an image file; whatever goes wrong until it is closed becomes a UserError that names it."""
    try:
        if not path.is_file():
            raise UserError(f"{path}: no such image file; check the path")
        if path.stat().st_size == 0:
            raise UserError(f"{path}: the file is empty; copy it again or remove it")
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(path)
        with image:
            yield image
    except UserError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UserError(f"{path}: larger than {Image.MAX_IMAGE_PIXELS} pixels; cut it into smaller images") from None
    except Exception as error:  # a decoder fed broken bytes raises almost anything
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not a readable image ({reason}); replace or remove it") from error
