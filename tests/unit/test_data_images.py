"""Odd image files are either understood as documented or refused by name, on one line."""

import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from diffi2i.data.images import IMAGE_SUFFIXES, MAX_PIXELS, read_mask, read_rgb, read_size, to_tensor
from diffi2i.data.targets import Depth, Labels
from diffi2i.errors import Note, UserError
from tests.refusals import refusal

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
GREY = RGB[..., 0]


def saved(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


def test_rgb_and_grey(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_rgb(saved(tmp_path / "a.png", Image.fromarray(RGB))), RGB)
    grey = read_rgb(saved(tmp_path / "g.png", Image.fromarray(GREY)))
    np.testing.assert_array_equal(grey, np.stack([GREY] * 3, 2))
    assert read_size(tmp_path / "a.png") == (5, 7)


def test_alpha_is_dropped(tmp_path: Path) -> None:
    alpha = np.dstack([RGB, np.zeros((5, 7, 1), np.uint8)])
    np.testing.assert_array_equal(read_rgb(saved(tmp_path / "a.png", Image.fromarray(alpha))), RGB)
    la = Image.fromarray(np.dstack([GREY, np.zeros_like(GREY)]))
    assert la.mode == "LA"
    np.testing.assert_array_equal(read_rgb(saved(tmp_path / "la.png", la))[..., 1], GREY)


def test_palette_with_and_without_transparency(tmp_path: Path) -> None:
    palette = Image.fromarray(RGB).quantize(8)
    expected = np.asarray(palette.convert("RGB"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(read_rgb(saved(tmp_path / "p.png", palette)), expected)
        clear = saved(tmp_path / "t.png", palette, transparency=bytes([0, 128, 255, 0, 0, 0, 0, 0]))
        np.testing.assert_array_equal(read_rgb(clear), expected)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_grey(tmp_path: Path, suffix: str) -> None:
    values = np.array([[0, 128, 129], [257, 32768, 65535]], np.uint16)
    read = read_rgb(saved(tmp_path / f"d.{suffix}", Image.fromarray(values)))
    np.testing.assert_array_equal(read, np.stack([np.array([[0, 0, 1], [1, 128, 255]])] * 3, 2))


def test_other_modes(tmp_path: Path) -> None:
    black_and_white = Image.fromarray(GREY > 127)
    assert black_and_white.mode == "1"
    read = read_rgb(saved(tmp_path / "b.png", black_and_white))
    np.testing.assert_array_equal(read[..., 2], np.where(GREY > 127, 255, 0))
    assert read_rgb(saved(tmp_path / "c.jpg", Image.new("CMYK", (3, 2)))).shape == (2, 3, 3)
    with pytest.raises(UserError, match=r"f\.tif: a float image"):
        read_rgb(saved(tmp_path / "f.tif", Image.fromarray(np.full((2, 2), np.nan, np.float32))))


def test_one_pixel_animation_and_orientation(tmp_path: Path) -> None:
    assert read_rgb(saved(tmp_path / "1.png", Image.new("RGB", (1, 1), (1, 2, 3)))).tolist() == [[[1, 2, 3]]]
    frames = [Image.new("RGB", (4, 3), color) for color in ("red", "blue")]
    moving = saved(tmp_path / "m.webp", frames[0], save_all=True, append_images=frames[1:], lossless=True)
    assert read_rgb(moving)[0, 0].tolist() == [255, 0, 0]
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to see it upright
    turned = saved(tmp_path / "o.png", Image.fromarray(RGB), exif=exif)
    np.testing.assert_array_equal(read_rgb(turned), np.rot90(RGB, -1))
    assert read_size(turned) == (7, 5)


def test_broken_files_are_named(tmp_path: Path) -> None:
    whole = saved(tmp_path / "whole.png", Image.fromarray(np.tile(RGB, (40, 40, 1)))).read_bytes()
    photo = saved(tmp_path / "whole.jpg", Image.fromarray(np.tile(RGB, (40, 40, 1)))).read_bytes()
    broken = {
        "truncated.png": whole[: len(whole) // 2],
        "truncated.jpg": photo[: len(photo) // 2],
        "header.png": whole[:20],
        "empty.png": b"",
        "text.png": b"this is no image\n",
    }
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder.png").mkdir()
    for name in [*broken, "missing.png", "folder.png"]:
        with pytest.raises(UserError, match=name) as error:
            read_rgb(tmp_path / name)
        assert "\n" not in str(error.value)
    for name in ["empty.png", "text.png", "missing.png"]:
        with pytest.raises(UserError, match=name):
            read_size(tmp_path / name)


@pytest.mark.parametrize("size", [(16_000, 9_000), (2**13, 2**14 + 1), (40_000, 40_000)])
def test_a_header_that_claims_too_many_pixels_is_refused_before_decoding(tmp_path: Path, size: tuple[int, int]) -> None:
    header = saved(tmp_path / "bomb.png", Image.new("L", (1, 1))).read_bytes()
    chunk = b"IHDR" + struct.pack(">II", *size) + header[24:29]
    (tmp_path / "bomb.png").write_bytes(header[:12] + chunk + struct.pack(">I", zlib.crc32(chunk)) + header[33:])
    for read in (read_rgb, read_size, Labels(2).read, Depth().read):
        said = refusal(read, tmp_path / "bomb.png")
        assert "bomb.png" in said
        assert f"more than {MAX_PIXELS} pixels; cut it into smaller images" in said


def test_what_decodes_too_large_a_file_for_this_machine_is_not_the_files_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.Image, "load", full)
    with pytest.raises(MemoryError):
        read_rgb(saved(tmp_path / "a.tif", Image.fromarray(RGB)))


@pytest.mark.parametrize("name", ["a.gif", "b.pgm", "c.jp2", "d.jfif"])
def test_more_formats(tmp_path: Path, name: str) -> None:
    assert Path(name).suffix in IMAGE_SUFFIXES
    image = Image.new("L", (8, 8), 200)
    assert abs(read_rgb(saved(tmp_path / name, image)).astype(int) - 200).max() <= 1


def test_what_would_start_another_program_is_not_read(tmp_path: Path) -> None:
    eps = saved(tmp_path / "a.eps", Image.fromarray(RGB)).rename(tmp_path / "a.png")
    assert "not a readable image" in refusal(read_rgb, eps)


def circle(soft: float = 0.0) -> npt.NDArray[np.uint8]:
    """A white disc on black, 64 pixels wide, whose edge is `soft` pixels wide."""
    rows, columns = np.ogrid[:64, :64]
    distance = np.hypot(rows - 31.5, columns - 31.5) - 16
    return (255 * np.clip(0.5 - distance / max(soft, 1e-3), 0, 1)).astype(np.uint8)


DISC = circle()
WHOLE = np.full_like(DISC, 255)


@pytest.mark.parametrize(
    ("name", "mask"),
    [
        ("black_and_white.png", Image.fromarray(DISC > 0)),
        ("grey.png", Image.fromarray(DISC)),
        ("rgb.png", Image.fromarray(DISC).convert("RGB")),
        ("soft.png", Image.fromarray(circle(4))),
        ("photo.jpg", Image.fromarray(DISC).convert("RGB")),
        ("ones.png", Image.fromarray(DISC // 255)),
        ("sixteen.png", Image.fromarray(DISC.astype(np.uint16) * 257)),
        ("sixteen_255.png", Image.fromarray(DISC.astype(np.uint16))),
        ("indices.gif", Image.fromarray(DISC)),
        ("opaque.png", Image.fromarray(np.dstack([DISC, DISC, DISC, WHOLE]))),
    ],
)
def test_white_is_the_hole_in_whatever_way_a_mask_is_saved(tmp_path: Path, name: str, mask: Image.Image) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hole = read_mask(saved(tmp_path / name, mask))
    assert hole.dtype == torch.float32
    np.testing.assert_array_equal(hole, DISC[None, None] > 0)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (np.zeros_like(DISC), "no hole, its brightest value is 0; paint the hole white, 255"),
        (DISC // 2, "too much grey for a mask"),
        (DISC // 12, "no hole, its brightest value is 21"),
        (WHOLE, "all hole, nothing is black; paint black what is to be kept"),
        (WHOLE // 255, "all hole"),
        (np.dstack([DISC, DISC * 0, DISC * 0]), "must not be coloured; save it as white (hole) and black"),
        (np.dstack([DISC, DISC, DISC, 255 - DISC]), "must not be transparent; save it as white (hole) and black"),
        (np.dstack([DISC, DISC // 2]), "must not be transparent"),
        (np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1)), "too much grey for a mask"),
    ],
)
def test_what_may_be_no_mask_is_refused(tmp_path: Path, mask: npt.NDArray[np.uint8], words: str) -> None:
    said = refusal(read_mask, saved(tmp_path / "m.png", Image.fromarray(mask)))
    assert said.startswith(f"{tmp_path / 'm.png'}: ")
    assert words in said


def test_an_inverted_mask_is_named(tmp_path: Path) -> None:
    with pytest.warns(Note, match=r"m\.png: the hole is 80 % of the picture; if white .* keep, invert the mask"):
        hole = read_mask(saved(tmp_path / "m.png", Image.fromarray(255 - DISC)))
    np.testing.assert_array_equal(hole, DISC[None, None] == 0)


def test_to_tensor() -> None:
    tensor = to_tensor(RGB)
    assert tensor.shape == (3, 5, 7)
    assert tensor[2, 4, 6].item() == pytest.approx(RGB[4, 6, 2] / 255)
