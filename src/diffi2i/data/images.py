"""Reading image files: one way in, every odd file either understood or refused by name."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps, features
from torch import Tensor

from diffi2i.data.member import Readable
from diffi2i.data.resize import to_uint8
from diffi2i.errors import Note, UserError
from diffi2i.run.hardware import is_first_rank

# fmt: off
IMAGE_SUFFIXES = frozenset({
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm",
    ".gif", ".jp2",
})
# fmt: on
"""Lower-case suffixes, with the dot, of the files that count as images."""
# fmt: off
UNREAD_SUFFIXES = frozenset({
    ".heic", ".heif", ".avif", ".jxl", ".svg", ".psd", ".xcf", ".tga", ".ico", ".exr", ".hdr", ".pfm", ".dds", ".dng",
    ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".raw", ".eps", ".pdf",
})
# fmt: on
"""Of pictures that no dataset reads: a folder that holds some is told of."""
HEIC, AVIF = (".heic", ".heif"), (".avif",)
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM", "GIF", "JPEG2000")
"""What a file may hold, whatever its suffix. Pillow knows more, among them EPS, for which it starts Ghostscript."""
MAX_PIXELS = 2**27
"""134 million: the pictures of a camera of 100 megapixels pass, none takes more than 1.6 GB as float. More are refused
before they are decoded: a file of 90 kB may claim a hundred million."""


@cache
def plugin_formats() -> dict[str, str]:
    """Pillow's formats of HEIC and AVIF, by suffix, of those that this installation can read.

    Whole photos may be of these; datasets may not, whose images would depend on what is installed.
    """
    found = dict.fromkeys(AVIF, "AVIF") if features.check("avif") else {}
    if find_spec("pillow_heif"):
        import pillow_heif

        pillow_heif.register_heif_opener()
        found |= dict.fromkeys(HEIC, "HEIF")
    return found


# Of a mask: by how much channels may differ, for JPEG's sake, and which share may be neither black nor white.
COLOURED, GREY = 16, 0.1
EXIF_ORIENTATION = 0x0112
SIXTEEN_BIT_TO_EIGHT = 257  # 65535 / 255


def read_rgb(path: Readable) -> npt.NDArray[np.uint8]:
    """Decode an image file to (H, W, 3) uint8 RGB.

    - Grey, black-and-white, palette and CMYK images become RGB.
    - Alpha is dropped, not composited: the colours stored under transparent pixels stay, as in BasicSR.
    - 16-bit grey is divided by 257 and rounded. Of 16-bit RGB Pillow keeps the high byte.
    - Of an animation or a multi-page file, the first frame.
    - The EXIF orientation is applied.
    - Float images are refused: their range is not in the file (and they may hold NaN).

    Raises:
        UserError: missing, empty, truncated, not an image, float, or more than `MAX_PIXELS`.
    """
    with _opened(path) as image:
        upright = turned_upright(image)
        if upright.mode == "F":
            raise UserError(f"{path}: a float image has no known range; save it as 8- or 16-bit")
        if upright.mode.startswith("I"):
            grey = np.asarray(upright).astype(np.float64).clip(0, 65535) / SIXTEEN_BIT_TO_EIGHT
            return np.repeat(np.rint(grey).astype(np.uint8)[..., None], 3, axis=2)
        if upright.mode == "P" and "transparency" in upright.info:
            # Straight to RGB, Pillow warns about the palette's transparency.
            upright = upright.convert("RGBA")
        return np.array(upright.convert("RGB"))


def read_size(path: Readable) -> tuple[int, int]:
    """(height, width) in pixels as `read_rgb` would return them, from the header alone.

    Raises:
        UserError: missing, empty, not an image, or more than `MAX_PIXELS`.
    """
    return read_shape(path)[:2]


def read_shape(path: Readable) -> tuple[int, int, int]:
    """(height, width, channels), of which grey has 1 and colours 3, alpha not counted; else as `read_size`."""
    with _opened(path) as image:
        width, height = image.size
        channels = 1 if image.mode in ("1", "L", "LA", "La", "F") or image.mode.startswith("I") else 3
        # Orientations 5 to 8 are those turned by 90 degrees.
        turned = orientation_of(image) >= 5
        return (width, height, channels) if turned else (height, width, channels)


def orientation_of(image: Image.Image) -> int:
    """EXIF's number, 1 to 8; 1, upright, where it is something else or the EXIF data are damaged."""
    try:
        found = image.getexif().get(EXIF_ORIENTATION, 1)
    except Exception:  # Pillow raises almost anything
        return 1
    return int(found) if found in range(1, 9) else 1


def turned_upright(image: Image.Image) -> Image.Image:
    """As EXIF says, where its data can be read."""
    return ImageOps.exif_transpose(image) if orientation_of(image) > 1 else image


def to_tensor(image: npt.NDArray[np.uint8]) -> Tensor:
    """(H, W, 3) uint8 -> (3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(image.transpose(2, 0, 1).copy()).to(torch.float32) / 255


def read_image(path: Path) -> Tensor:
    """As `read_rgb`, but (1, 3, H, W) float32 in [0, 1]: a batch of one."""
    return to_tensor(read_rgb(path))[None]


def read_mask(path: Path) -> Tensor:
    """The hole that a mask marks: (1, 1, H, W) float32, 1 = hole. A note names one of more than half of the picture.

    Raises:
        UserError: as `read_hole`.
    """
    hole = read_hole(path)
    if (share := hole.mean()) > 0.5 and is_first_rank():
        warnings.warn(
            f"{path}: the hole is {100 * share:.0f} % of the picture; if white marks what to keep, invert the mask",
            Note,
            stacklevel=2,
        )
    return torch.from_numpy(hole)[None, None].float()


def read_hole(path: Readable) -> npt.NDArray[np.uint8]:
    """The hole that a mask marks: (H, W), 1 = hole.

    White is the hole and black what is kept; of what lies between, soft edges and JPEG's noise, the nearer one counts.
    Values of 0 and 1 alone are black and white too.

    Raises:
        UserError: as of `read_rgb`; no hole, nothing but a hole, or what may be no mask at all: transparent, coloured,
            or grey at more than `GREY` of its pixels.
    """
    with _opened(path) as image:
        alpha = "A" in image.getbands() or "transparency" in image.info
        if alpha and np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
            raise UserError(f"{path}: a mask must not be transparent; save it as white (hole) and black alone")
    pixels = read_rgb(path)
    if np.ptp(pixels, axis=2).max() > COLOURED:
        raise UserError(f"{path}: a mask must not be coloured; save it as white (hole) and black alone")
    grey = pixels[..., 0] * (255 if pixels.max() == 1 else 1)
    if np.mean((grey > 63) & (grey < 192)) > GREY:
        raise UserError(f"{path}: too much grey for a mask; save it as white (hole) and black alone")
    hole = grey > 127
    if not hole.any():
        raise UserError(f"{path}: the mask has no hole, its brightest value is {grey.max()}; paint the hole white, 255")
    if hole.all():
        raise UserError(f"{path}: the mask is all hole, nothing is black; paint black what is to be kept")
    return hole.astype(np.uint8)


def as_picture(image: Tensor) -> Image.Image:
    """(3, H, W) float in [0, 1] -> an 8-bit RGB picture."""
    return Image.fromarray(np.ascontiguousarray(to_uint8(image.float()).permute(1, 2, 0).cpu().numpy()))


def require_equal_sizes(file: Path, image: Tensor, other_file: str, other: Tensor) -> None:
    """Raise UserError unless both, (..., H, W), are of one size; `other_file` with what it is to the first."""
    if image.shape[-2:] != other.shape[-2:]:
        sizes = [f"{tensor.shape[-1]}x{tensor.shape[-2]}" for tensor in (image, other)]
        raise UserError(f"{file} is {sizes[0]}, its {other_file} is {sizes[1]}: make them equal")


@contextmanager
def _opened(path: Readable) -> Iterator[Image.Image]:
    """Open an image file; whatever goes wrong until it is closed becomes a UserError that names it.

    But for want of memory, of which the file is not to blame.
    """
    try:
        if not path.is_file():
            what = "a link that leads nowhere; mend it" if path.is_symlink() else "no such image file; check the path"
            raise UserError(f"{path}: {what}")
        if path.stat().st_size == 0:
            raise UserError(f"{path}: the file is empty; copy it again or remove it")
        plugin = path.suffix.lower() in HEIC + AVIF
        if plugin and path.suffix.lower() not in plugin_formats():
            raise UserError(f"{path}: not read by this installation: pip install 'diffi2i[heic]', or save it as PNG")
        with warnings.catch_warnings():
            # Pillow's, of damaged metadata, which nothing here depends on, and of a limit of its own, which is higher.
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", Note)
            formats = (*FORMATS, *plugin_formats().values()) if plugin else FORMATS
            with path.open("rb") as file, Image.open(file, formats=formats) as image:
                require_size(path, image.size)
                yield image
    except (UserError, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise UserError(f"{path}: more than {MAX_PIXELS} pixels; cut it into smaller images") from None
    except Exception as error:  # a decoder fed broken bytes raises almost anything
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not a readable image ({reason}); replace or remove it") from error


def require_size(path: Readable, size: Sequence[int]) -> None:
    """Raises `UserError` for (width, height) of more than `MAX_PIXELS`."""
    if size[0] * size[1] > MAX_PIXELS:
        raise UserError(f"{path}: {size[0]}x{size[1]}, more than {MAX_PIXELS} pixels; cut it into smaller images")
