"""Photo files in and out: nothing is lost that the other file can hold."""

import struct
import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from diffi2i.data.images import plugin_formats, read_rgb, read_size
from diffi2i.data.photos import Photo, read_photo, upright, write_photo
from diffi2i.errors import Note, UserError

RNG = np.random.default_rng(0)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def random(*shape: int, dtype: Any = np.uint8) -> Any:
    return RNG.integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


def exif(orientation: int) -> bytes:
    made = Image.Exif()
    made[0x010F], made[0x0112], made[0x8298] = "maker", orientation, "mine"
    made.get_ifd(0x8769)[0x9003] = "2026:01:02 03:04:05"
    return made.tobytes()


@pytest.mark.parametrize("form", ["png", "tiff", "webp"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_eight_bits_come_back_in_every_bit(tmp_path: Path, form: Any, channels: int) -> None:
    pixels = random(7, 9, channels)
    Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(tmp_path / "in.png", icc_profile=SRGB)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Note)  # the profile is not for grey
        photo = read_photo(tmp_path / "in.png")
    assert (photo.pixels == pixels).all()
    assert photo.grey == (channels < 3)
    assert photo.icc == (SRGB if channels > 2 else None)
    write_photo(photo, tmp_path / "out", form)
    again = read_photo(tmp_path / "out")
    assert (again.colours == photo.colours).all()
    assert again.icc == photo.icc
    assert np.array_equal(photo.alpha, again.alpha)  # type: ignore[arg-type]
    assert again.grey == photo.grey or form == "webp"  # which has no grey


@pytest.mark.parametrize("form", ["png", "tiff"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits_come_back_in_every_bit(tmp_path: Path, form: Any, channels: int) -> None:
    """Read by OpenCV, which has written none of them."""
    pixels = random(8, 9, channels, dtype=np.uint16)
    whole = Photo(
        np.repeat(pixels[..., :1], 3, 2) if channels < 3 else pixels[..., :3],
        pixels[..., -1] if channels in (2, 4) else None,
        channels < 3,
        SRGB if channels > 2 else None,
    )
    write_photo(whole, tmp_path / f"out.{form}", form)
    if channels != 2:
        theirs: Any = cv2.imread(str(tmp_path / f"out.{form}"), cv2.IMREAD_UNCHANGED)
        theirs = theirs[..., None] if theirs.ndim == 2 else theirs[..., [2, 1, 0, 3][:channels]]
        assert (theirs == pixels).all()
    elif form == "tiff":
        assert (tifffile.imread(tmp_path / "out.tiff") == pixels[..., [0, 0, 0, 1]]).all()
    again = read_photo(tmp_path / f"out.{form}")
    if channels != 2:  # OpenCV makes four channels of grey with alpha
        assert (again.pixels == pixels).all()
        assert again.grey == whole.grey
    assert again.icc == whole.icc
    # As Pillow reads the high bytes.
    assert np.abs(read_rgb(tmp_path / f"out.{form}").astype(float) - whole.colours / 257).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["png", "jpeg"])
def test_pictures_are_upright_and_their_exif_says_so(tmp_path: Path, orientation: int, form: Any) -> None:
    Image.fromarray(random(8, 16, 3)).save(tmp_path / "in.png", exif=exif(orientation))
    photo = read_photo(tmp_path / "in.png")
    assert (photo.colours == read_rgb(tmp_path / "in.png")).all()
    write_photo(photo, tmp_path / "out", form)
    with Image.open(tmp_path / "out") as written:
        kept = written.getexif()
        assert (kept[0x010F], kept[0x0112], kept[0x8298]) == ("maker", 1, "mine")
        assert kept.get_ifd(0x8769)[0x9003] == "2026:01:02 03:04:05"
        assert written.info["exif"].removeprefix(b"Exif\0\0") == photo.exif


def test_sixteen_bits_are_turned_too_and_keep_their_exif(tmp_path: Path) -> None:
    pixels = random(4, 6, 3, dtype=np.uint16)
    write_photo(Photo(pixels, exif=exif(6).removeprefix(b"Exif\0\0")), tmp_path / "in.png", "png")
    photo = read_photo(tmp_path / "in.png")
    assert (photo.colours == np.rot90(pixels, -1)).all()
    eight = Image.fromarray((pixels >> 8).astype(np.uint8))
    eight.save(tmp_path / "eight.png", exif=exif(6))
    assert ((photo.colours >> 8) == read_rgb(tmp_path / "eight.png")).all()


def test_all_but_the_orientation_stays_in_every_byte() -> None:
    for order in ("<", ">"):
        mark = b"II*\0" if order == "<" else b"MM\0*"
        entries = [(0x0100, 4, 1, 77), (0x0112, 3, 1, 8 if order == "<" else 8 << 16), (0x0131, 2, 4, 5)]
        data = mark + struct.pack(f"{order}IH", 8, 3)
        data += b"".join(struct.pack(f"{order}HHII", *entry) for entry in entries) + b"\0" * 4 + b"rest"
        changed = upright(data)
        assert [i for i, (a, b) in enumerate(zip(data, changed, strict=True)) if a != b] == [30 if order == "<" else 31]
        assert upright(changed) == changed


def test_what_cannot_be_kept_is_told(tmp_path: Path) -> None:
    Image.fromarray(random(4, 4, 4)).save(tmp_path / "in.png", icc_profile=b"no profile", exif=b"Exif\0\0nothing")
    with pytest.warns(Note) as told:
        photo = read_photo(tmp_path / "in.png")
    assert [str(each.message).partition(": ")[2] for each in told] == [
        "its colour profile is damaged: it is left out",
        "its EXIF data are damaged: they are left out",
    ]
    with pytest.warns(Note, match="mine.jpg: jpeg has no alpha"):
        write_photo(photo, tmp_path / "out.jpg.tmp", "jpeg", "mine.jpg")
    with pytest.warns(Note, match="webp has 8 bits"):
        write_photo(Photo(random(4, 4, 3, dtype=np.uint16)), tmp_path / "out.webp", "webp")
    Image.fromarray(random(4, 4, 4), "CMYK").save(tmp_path / "in.jpg", icc_profile=SRGB)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_photo(tmp_path / "in.jpg").icc == SRGB  # it says RGB, as the picture becomes
    with pytest.raises(UserError, match="more than webp can hold"):
        write_photo(Photo(np.zeros((1, 16_384, 3), np.uint8)), tmp_path / "wide.webp", "webp")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"])
def test_every_mode_has_the_colours_that_training_reads(tmp_path: Path, mode: str) -> None:
    if mode == "I;16":
        image = Image.fromarray(random(6, 5, dtype=np.uint16))
    else:
        image = (
            Image.fromarray(random(6, 5, 4), "RGBA")
            .convert("RGB" if mode in ("CMYK", "YCbCr") else "RGBA")
            .convert(mode)
        )
    file = tmp_path / ("in.tif" if mode in ("CMYK", "YCbCr", "PA") else "in.png")
    try:
        image.save(file)
        with Image.open(file) as written:
            written.load()
    except OSError:
        pytest.skip(f"Pillow writes no {mode} that it reads")
    photo = read_photo(file)
    colours = np.rint(photo.colours / 257) if photo.levels > 255 else photo.colours
    assert (colours == read_rgb(file)).all()
    assert photo.grey == (mode in ("1", "L", "LA", "I;16"))


def test_a_picture_goes_round(tmp_path: Path) -> None:
    file = BytesIO()
    Image.fromarray(random(4, 5, 4)).save(file, "PNG", icc_profile=SRGB, exif=exif(1))
    (tmp_path / "in.png").write_bytes(file.getvalue())
    picture = read_photo(tmp_path / "in.png").picture()
    assert picture.mode == "RGBA"
    assert picture.info["icc_profile"] == SRGB
    assert picture.getexif()[0x010F] == "maker"


@pytest.mark.parametrize(("suffix", "form"), [("heic", "HEIF"), ("avif", "AVIF")])
def test_heic_and_avif_are_read_upright_with_alpha_and_profile(tmp_path: Path, suffix: str, form: str) -> None:
    """Written by Pillow and its plug-in at their best; what a phone turns is turned once."""
    if f".{suffix}" not in plugin_formats():
        pytest.skip(f"this installation does not read {suffix}")
    smooth = np.linspace(0, 255, 48 * 64 * 4).reshape(48, 64, 4).astype(np.uint8)
    smooth[:24, :, 1] = 200
    more = {"subsampling": "4:4:4"} if form == "AVIF" else {"chroma": 444}
    Image.fromarray(smooth).save(tmp_path / f"a.{suffix}", form, quality=100, exif=exif(6), icc_profile=SRGB, **more)
    photo = read_photo(tmp_path / f"a.{suffix}")
    assert photo.alpha is not None
    assert np.abs(np.rot90(photo.pixels, 1).astype(int) - smooth).max() <= 3
    assert photo.icc == SRGB
    assert photo.exif is not None
    assert Image.open(BytesIO(_png_with(photo.exif))).getexif()[0x0112] == 1
    assert read_size(tmp_path / f"a.{suffix}") == (64, 48)


def test_more_than_eight_bits_of_a_heic_are_told_of(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed")
    ten = random(32, 32, 3, dtype=np.uint16)
    heif.from_bytes(mode="RGB;16", size=(32, 32), data=ten.tobytes()).save(tmp_path / "a.heic", quality=-1)
    with pytest.warns(Note, match=r"a\.heic: of its 10 bits 8 are read"):
        assert read_photo(tmp_path / "a.heic").levels == 255


def test_without_the_plugin_heic_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.heic").write_bytes(b"anything")
    monkeypatch.setattr("diffi2i.data.images.plugin_formats", dict)
    with pytest.raises(UserError, match=r"a\.heic: not read by this installation: pip install 'diffi2i\[heic\]'"):
        read_photo(tmp_path / "a.heic")


def _png_with(exif: bytes) -> bytes:
    stream = BytesIO()
    Image.new("L", (1, 1)).save(stream, "PNG", exif=exif)
    return stream.getvalue()
