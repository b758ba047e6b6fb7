"""Whole photo files, in and out: colours in 8 or 16 bits, alpha, whether they are grey, colour profile and EXIF.

Training reads colours alone (`images`); here nothing is lost that the other file can hold.
"""

import struct
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

from diffi2i.data.images import EXIF_ORIENTATION, _opened, orientation_of, turned_upright
from diffi2i.errors import Note, UserError

Format = Literal["png", "jpeg", "webp", "tiff"]
FORMATS: dict[str, Format] = {
    ".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".jpe": "jpeg", ".jfif": "jpeg", ".webp": "webp", ".tif": "tiff",
    ".tiff": "tiff",
}  # fmt: skip
"""What is written, by the suffix of a file's name."""
SUFFIXES: dict[Format, str] = {"png": ".png", "jpeg": ".jpg", "webp": ".webp", "tiff": ".tif"}
SIXTEEN: tuple[Format, ...] = ("png", "tiff")
WITHOUT_ALPHA: tuple[Format, ...] = ("jpeg",)
MOST: dict[Format, int] = {"jpeg": 65_535, "webp": 16_383}
"""Pixels of a side that a format can hold, where there is a bound."""
# Of a TIFF's own tags those that say something about the picture and not about the file.
TOLD_TAGS = (0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x8298)
DEFLATE = "tiff_adobe_deflate"
EXIF_IFD, ICC_TAG, BITS_TAG = 0x8769, 34675, 258

Pixels = npt.NDArray[Any]


@dataclass(frozen=True)
class Photo:
    """What a file holds, upright.

    `colours` (H, W, 3) RGB and `alpha` (H, W), uint8 or uint16; of a `grey` one the three are alike. `icc` is the
    colour profile of such a picture, `exif` the EXIF data from their TIFF header on, the orientation set to upright.
    """

    colours: Pixels
    alpha: Pixels | None = None
    grey: bool = False
    icc: bytes | None = None
    exif: bytes | None = None

    @property
    def levels(self) -> int:
        """The value of white: 255 or 65535."""
        return int(np.iinfo(self.colours.dtype).max)

    @property
    def pixels(self) -> Pixels:
        """(H, W, 1 to 4): grey or RGB, then alpha where there is one."""
        colours = self.colours[..., :1] if self.grey else self.colours
        return colours if self.alpha is None else np.concatenate([colours, self.alpha[..., None]], axis=2)

    def opaque(self) -> "Photo":
        """Without alpha."""
        return replace(self, alpha=None)

    def picture(self) -> Image.Image:
        """As a PIL image of 8 bits, of 16 where it is grey without alpha, with its profile and EXIF in `info`."""
        pixels = self.pixels
        if self.levels > 255 and pixels.shape[2] > 1:
            pixels = np.rint(pixels / 257).astype(np.uint8)
        image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else np.ascontiguousarray(pixels))
        image.info |= {"icc_profile": self.icc} if self.icc else {}
        image.info |= {"exif": b"Exif\0\0" + self.exif} if self.exif else {}
        return image


def read_photo(path: Path) -> Photo:
    """Of an animation or a file of several pages, the first.

    What cannot be kept is told of in a note: a damaged profile or EXIF, the profile of a CMYK picture, which becomes
    RGB.

    Raises:
        UserError: as `images.read_rgb`.
    """
    with _opened(path) as image:
        if (bits := image.info.get("bit_depth", 8)) > 8:  # HEIC's
            warnings.warn(f"{path}: of its {bits} bits 8 are read", Note, stacklevel=2)
        if not sixteen_bit(image):
            return of_picture(image, str(path))
        pixels = turned(decoded(path), orientation_of(image))
        return of_pixels(pixels, image, str(path))


def of_picture(image: Image.Image, name: str = "the image") -> Photo:
    """What a PIL image holds; `name` is for notes. Raises `UserError`: it is of floats, whose range is not known."""
    if image.mode == "F":
        raise UserError(f"{name}: a float image has no known range; save it as 8- or 16-bit")
    upright_image = turned_upright(image)
    if image.mode.startswith("I"):
        pixels = np.asarray(upright_image).clip(0, 65535).astype(np.uint16)
    else:
        pixels = np.array(eight_bit(upright_image))
    return of_pixels(pixels[..., None] if pixels.ndim == 2 else pixels, image, name)


def of_pixels(pixels: Pixels, image: Image.Image, name: str) -> Photo:
    """The upright pixels (H, W, 1 to 4) with what else the image holds."""
    channels = pixels.shape[2]
    grey = channels < 3
    icc = image.info.get("icc_profile")
    return Photo(
        np.repeat(pixels[..., :1], 3, axis=2) if grey else np.ascontiguousarray(pixels[..., :3]),
        pixels[..., -1] if channels in (2, 4) else None,
        grey,
        checked_profile(icc, "GRAY" if grey else "RGB", name) if icc else None,
        exif_of(image, name),
    )


def eight_bit(image: Image.Image) -> Image.Image:
    """As L, LA, RGB or RGBA; the colours as `read_rgb` reads them."""
    alpha = "A" in image.getbands() or "transparency" in image.info
    if image.mode in ("1", "L", "LA", "La") or (image.mode == "P" and grey_palette(image)):
        return image.convert("LA" if alpha else "L")
    if image.mode == "P" and alpha:
        return image.convert("RGBA")
    return image.convert("RGBA" if alpha else "RGB")


def grey_palette(image: Image.Image) -> bool:
    """Whether all colours of a palette picture are greys."""
    red, green, blue = (np.asarray(band) for band in image.convert("RGB").split())
    return bool((red == green).all() and (red == blue).all())


def sixteen_bit(image: Image.Image) -> bool:
    """Whether the file holds colours, or grey with alpha, in 16 bits, of which Pillow reads the high ones alone."""
    if image.format == "PNG":
        return any("16B" in str(tile) for tile in getattr(image, "tile", ())) and not image.mode.startswith("I")
    if image.format == "TIFF":
        bits: Any = image.tag_v2.get(BITS_TAG, (8,))  # type: ignore[attr-defined]
        return set(np.atleast_1d(bits).tolist()) == {16} and not image.mode.startswith("I")
    return False


def decoded(path: Path) -> Pixels:
    """All bits of a PNG or TIFF, (H, W, 1 to 4), by OpenCV, which has blue first. Raises `UserError`."""
    import cv2

    found: Any = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    if found is None or found.dtype != np.uint16:
        raise UserError(f"{path}: not a readable 16-bit image; save it as a plain PNG or TIFF")
    pixels: Pixels = found[..., None] if found.ndim == 2 else found
    return pixels[..., [2, 1, 0, 3][: pixels.shape[2]]] if pixels.shape[2] > 2 else pixels


def turned(pixels: Pixels, orientation: int) -> Pixels:
    """Upright, by EXIF's number."""
    turns: dict[int, Callable[[Pixels], Pixels]] = {
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.swapaxes(0, 1),
        6: lambda p: np.rot90(p, -1),
        7: lambda p: np.rot90(p[:, ::-1], 1),
        8: lambda p: np.rot90(p, 1),
    }
    return turns[orientation](pixels) if orientation in turns else pixels


def checked_profile(icc: bytes, space: str, name: str) -> bytes | None:
    """The profile, where it is one for pictures of this kind; else None, and a note."""
    try:
        theirs = ImageCms.ImageCmsProfile(BytesIO(icc)).profile.xcolor_space.strip()
    except (OSError, ImageCms.PyCMSError, TypeError):
        theirs = "damaged"
    if theirs == space:
        return icc
    what = "is damaged" if theirs == "damaged" else f"is for {theirs}, the picture becomes {space}"
    warnings.warn(f"{name}: its colour profile {what}: it is left out", Note, stacklevel=2)
    return None


def exif_of(image: Image.Image, name: str) -> bytes | None:
    """The EXIF data from their TIFF header on, unchanged but for the orientation. A note names damaged ones."""
    raw = image.info.get("exif")
    if raw is None and image.format == "TIFF":
        own, made = image.getexif(), Image.Exif()
        made.update({tag: own[tag] for tag in TOLD_TAGS if tag in own})
        if ifd := own.get_ifd(EXIF_IFD):
            made.get_ifd(EXIF_IFD).update(ifd)
        raw = made.tobytes() if made or ifd else None
    if raw is None:
        return None
    raw = raw.removeprefix(b"Exif\0\0")
    try:
        return upright(raw)
    except (struct.error, ValueError, IndexError):
        warnings.warn(f"{name}: its EXIF data are damaged: they are left out", Note, stacklevel=2)
        return None


def upright(exif: bytes) -> bytes:
    """EXIF data whose picture has been turned: the orientation, where there is one, is 1.

    Raises:
        ValueError, struct.error: they are none.
    """
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        raise ValueError("no byte order")
    changed = bytearray(exif)
    (start,) = struct.unpack_from(f"{order}I", exif, 4)
    (count,) = struct.unpack_from(f"{order}H", exif, start)
    for place in range(start + 2, start + 2 + 12 * count, 12):
        if struct.unpack_from(f"{order}H", exif, place)[0] == EXIF_ORIENTATION:
            struct.pack_into(f"{order}H", changed, place + 8, 1)
    return bytes(changed)


def write_photo(photo: Photo, place: Path, form: Format, name: str | None = None) -> None:
    """Writes a file of this format, whatever its name; `name` is what notes call it, by default its own.

    JPEG has 8 bits and no alpha and is written at quality 95, WebP 8 bits without loss; a note tells what is lost.

    Raises:
        UserError: the picture is larger than the format allows.
    """
    name = name or place.name
    height, width = photo.colours.shape[:2]
    if max(height, width) > MOST.get(form, max(height, width)):
        raise UserError(f"{name}: {width}x{height} is more than {form} can hold: write format=png")
    if photo.alpha is not None and form in WITHOUT_ALPHA:
        warnings.warn(f"{name}: {form} has no alpha: it is left out", Note, stacklevel=2)
        photo = photo.opaque()
    if photo.levels > 255 and form not in SIXTEEN:
        warnings.warn(f"{name}: {form} has 8 bits: the others are left out", Note, stacklevel=2)
        eight = [
            None if each is None else np.rint(each / 257).astype(np.uint8) for each in (photo.colours, photo.alpha)
        ]
        photo = Photo(eight[0], eight[1], photo.grey, photo.icc, photo.exif)  # type: ignore[arg-type]
    if photo.levels > 255:
        if form == "png":
            place.write_bytes(png16(photo.pixels, photo))
        else:
            # Grey with alpha as colours with alpha: few programs read the other.
            pixels = photo.pixels if photo.alpha is None else replace(photo, grey=False).pixels
            write_tiff16(pixels, photo, place, name)
        return
    settings: dict[Format, dict[str, Any]] = {
        "png": {"compress_level": 3},  # 5 % larger at most than by the usual 6, in 40 % of the time
        "jpeg": {"quality": 95, "subsampling": 0},
        "webp": {"lossless": True, "exact": True},
        "tiff": {"compression": DEFLATE},
    }
    image = photo.picture()
    more: dict[str, Any] = {str(key): value for key, value in image.info.items()}
    image.save(place, form.upper(), **settings.get(form, {}), **more)


def png16(pixels: Pixels, photo: Photo) -> bytes:
    """A PNG of (H, W, 1 to 4) uint16, which Pillow cannot write (W3C, Portable Network Graphics, third edition)."""
    height, width, channels = pixels.shape
    rows = pixels.astype(">u2").reshape(height, -1).view(np.uint8)
    # Each row as the difference from the one above, which packs better: filter type 2.
    rows = np.diff(rows, axis=0, prepend=np.zeros((1, rows.shape[1]), np.uint8))
    filtered = np.concatenate([np.full((height, 1), 2, np.uint8), rows], axis=1)
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))]
    parts += [(b"iCCP", b"icc\0\0" + zlib.compress(photo.icc))] if photo.icc else []
    parts += [(b"eXIf", photo.exif)] if photo.exif else []
    parts += [(b"IDAT", zlib.compress(filtered.tobytes(), 6)), (b"IEND", b"")]
    chunks = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def write_tiff16(pixels: Pixels, photo: Photo, place: Path, name: str) -> None:
    """A TIFF of (H, W, 1, 3 or 4) uint16, without EXIF, which lies inside a TIFF's own tags: a note says so."""
    import tifffile

    if photo.exif:
        warnings.warn(f"{name}: EXIF data are not written to a TIFF of 16 bits", Note, stacklevel=2)
    extra = [(ICC_TAG, "B", len(photo.icc), photo.icc, True)] if photo.icc else []
    tifffile.imwrite(
        place,
        pixels[..., 0] if pixels.shape[2] == 1 else pixels,
        photometric="rgb" if pixels.shape[2] > 2 else "minisblack",
        compression="zlib",
        extrasamples=["unassalpha"] if pixels.shape[2] == 4 else None,
        planarconfig="contig" if pixels.shape[2] > 1 else None,
        metadata=None,
        extratags=extra,
    )
