"""Label and depth files: read as documented, or refused by name on one line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diffi2i.data.targets import Depth, Labels
from diffi2i.errors import UserError
from diffi2i.kinds.spec import IGNORED
from tests.places import DATA

STORED = np.array([[0, 1, 2], [11, 4, 0]], np.uint8)


def saved(path: Path, array: np.ndarray, **options: Any) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


def palette(path: Path, array: np.ndarray, bits: int = 8) -> Path:
    image = Image.fromarray(array).convert("P")
    image.putdata(array.ravel().tolist())
    image.putpalette([v for i in range(16) for v in (255 - i, 7 * i, 40)])  # colours that are not their indices
    image.save(path, bits=bits)
    with Image.open(path) as again:
        assert again.mode == "P"
    return path


def test_palette_labels_are_indices_not_colours(tmp_path: Path) -> None:
    labels = Labels(12)
    for bits in (4, 8):
        read = labels.read(palette(tmp_path / f"{bits}.png", STORED, bits))
        np.testing.assert_array_equal(read, STORED)
        assert read.dtype == np.int64


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_grey_labels_of_any_integer_type(tmp_path: Path, dtype: type) -> None:
    suffix = "tif" if dtype is np.int32 else "png"
    path = saved(tmp_path / f"a.{suffix}", STORED.astype(dtype))
    np.testing.assert_array_equal(Labels(12).read(path), STORED)


def test_black_and_white_masks_are_two_classes(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(STORED > 1).save(path)
    np.testing.assert_array_equal(Labels(2).read(path), STORED > 1)


def test_ignored_values_and_shift(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", STORED)
    assert Labels(5, ignore=[11]).read(path).tolist() == [[0, 1, 2], [IGNORED, 4, 0]]
    # As in ADE20K: 0 is "other", classes count from 1. `ignore` names stored values, before the shift.
    shifted = Labels(11, ignore=[0], shift=-1).read(path)
    assert shifted.tolist() == [[IGNORED, 0, 1], [10, 3, IGNORED]]


def test_values_that_are_no_class_are_named(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", STORED)
    with pytest.raises(UserError, match=r"a\.png: value 11 at 1 pixel.*none of the 5 classes 0 to 4.*target\.ignore"):
        Labels(5).read(path)
    with pytest.raises(UserError, match=r"value 0 \(-1 with dataset\.target\.shift=-1\) at 2 pixel"):
        Labels(11, shift=-1).read(path)
    void = saved(tmp_path / "v.png", np.full((2, 2), 255, np.uint8))
    with pytest.raises(UserError, match="value 255 at 4 pixel"):
        Labels(5).read(void)  # 255 is ignored only where the dataset says so
    assert (Labels(5, ignore=[255]).read(void) == IGNORED).all()
    for classes in (0, 256):
        with pytest.raises(UserError, match=r"classes is \d+; write a number from 1 to 255"):
            Labels(classes)


def test_coloured_and_lossy_labels_are_refused(tmp_path: Path) -> None:
    colours = saved(tmp_path / "c.png", np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(UserError, match=r"c\.png: .*not colours \(RGB\); convert"):
        Labels(5).read(colours)
    lossy = saved(tmp_path / "l.jpg", np.zeros((2, 2), np.uint8))
    with pytest.raises(UserError, match=r"l\.jpg: JPEG"):
        Labels(5).read(lossy)


def test_depth_is_metres(tmp_path: Path) -> None:
    stored = np.array([[0, 1, 1500], [65535, 4000, 12000]], np.uint16)
    path = saved(tmp_path / "a.png", stored)
    depth = Depth(invalid=[0, 65535]).read(path)
    assert depth.dtype == np.float32
    np.testing.assert_allclose(depth, np.array([[0, 0.001, 1.5], [0, 4, 12]]))
    np.testing.assert_allclose(Depth(unit=1 / 256).read(path)[1, 0], 65535 / 256)  # as KITTI stores it
    np.testing.assert_allclose(Depth(invalid=[0], max_depth=4).read(path), np.array([[0, 0.001, 1.5], [0, 4, 0]]))
    with pytest.raises(UserError, match="unit is 0; write the metres"):
        Depth(unit=0)


def test_depth_in_32_bit_integers_and_none_at_all(tmp_path: Path) -> None:
    wide = saved(tmp_path / "a.tif", np.array([[100000, -5]], np.int32))
    np.testing.assert_allclose(Depth().read(wide), [[100, 0]])
    nothing = saved(tmp_path / "n.png", np.zeros((3, 4), np.uint16))
    np.testing.assert_array_equal(Depth().read(nothing), np.zeros((3, 4)))


@pytest.mark.parametrize("shape", [(2, 2), (2, 2, 3)])
def test_eight_bit_depth_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = saved(tmp_path / "a.png", np.ones(shape, np.uint8))
    with pytest.raises(UserError, match=r"a\.png: wrong dtype for depth.*16-bit") as error:
        Depth().read(path)
    assert "\n" not in str(error.value)


def test_float_depth(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.array([[1.5, np.nan, np.inf], [-np.inf, -1, 0]], np.float32))
    np.testing.assert_array_equal(Depth(unit=7).read(path), [[1.5, 0, 0], [0, 0, 0]])
    for wrong in (np.ones((2, 2)), np.ones((2, 2, 1), np.float32), np.ones((2, 2), np.uint16)):
        np.save(path, wrong)
        with pytest.raises(UserError, match=r"a\.npy: wrong dtype or shape"):
            Depth().read(path)
    np.save(path, np.array([{}]), allow_pickle=True)
    for content in (path.read_bytes(), b"", b"\x93NUMPY\x01", b"no array"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"a\.npy: not a readable") as error:
            Depth().read(path)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"b\.npy: no such depth file"):
        Depth().read(tmp_path / "b.npy")


@pytest.mark.parametrize("target", [Labels(5), Depth()])
def test_broken_files_are_named(tmp_path: Path, target: Labels | Depth) -> None:
    noise = np.random.default_rng(0).integers(0, 5, (200, 200)).astype(np.uint16)
    whole = saved(tmp_path / "whole.png", noise).read_bytes()
    for name, content in {"half.png": whole[: len(whole) // 2], "empty.png": b"", "text.png": b"no image"}.items():
        (tmp_path / name).write_bytes(content)
    for name in ("half.png", "empty.png", "text.png", "missing.png"):
        with pytest.raises(UserError, match=name) as error:
            target.read(tmp_path / name)
        assert "\n" not in str(error.value)


@pytest.mark.skipif(not (DATA / "camvid").is_dir(), reason="the CamVid sample is not on this machine")
def test_camvid() -> None:
    path = sorted((DATA / "camvid" / "labels" / "val").iterdir())[0]
    labels = Labels(11, ignore=[11]).read(path)
    assert labels.shape == (360, 480)
    assert set(np.unique(labels)) <= {*range(11), IGNORED}
    with pytest.raises(UserError, match=r"value 11 .*target\.ignore"):
        Labels(11).read(path)


@pytest.mark.skipif(not (DATA / "sevenscenes").is_dir(), reason="the 7-Scenes sample is not on this machine")
def test_sevenscenes() -> None:
    path = sorted((DATA / "sevenscenes" / "val" / "depth").iterdir())[0]
    depth = Depth(invalid=[0, 65535]).read(path)
    assert depth.shape == (240, 320)
    assert 0 < (depth > 0).mean() <= 1
    assert 0.2 < depth[depth > 0].min() < depth.max() < 10
