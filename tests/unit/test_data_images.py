"""Odd image files are either understood as documented or refused by name, on one line."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diffi2i.data.images import read_rgb, read_size, to_tensor
from diffi2i.errors import UserError

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


def test_broken_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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

    for limit in (len(RGB) ** 2, 8):  # Pillow warns above its limit and raises above twice the limit
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(UserError, match=rf"whole\.png: larger than {limit} pixels"):
            read_rgb(tmp_path / "whole.png")


def test_slightly_too_large_is_refused_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(RGB))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 34)
    with pytest.raises(UserError, match="larger than 34 pixels"):
        read_rgb(path)


def test_to_tensor() -> None:
    tensor = to_tensor(RGB)
    assert tensor.shape == (3, 5, 7)
    assert tensor[2, 4, 6].item() == pytest.approx(RGB[4, 6, 2] / 255)
