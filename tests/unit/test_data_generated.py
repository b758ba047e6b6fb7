"""The two sets made on this machine: generated shapes, and the motorcycle's depth."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import skimage
from hydra.utils import instantiate
from omegaconf import OmegaConf

from diffi2i.config.compose import conf_dir
from diffi2i.data import generated, motorcycle
from diffi2i.data.generated import SHAPES, made_once, shapes
from diffi2i.data.images import read_rgb
from diffi2i.data.manifest import manifest_hash
from diffi2i.data.sources import Item, Split
from diffi2i.data.targets import Depth, Labels
from diffi2i.errors import UserError
from diffi2i.kinds.spec import KINDS

CONF = conf_dir() / "dataset"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DIFFI2I_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def photo(item: Item) -> np.ndarray:
    assert item.input is not None
    return read_rgb(item.input)


def test_shapes_are_what_they_say() -> None:
    items = shapes("train", train=40, size=64)
    assert len(items) == len({item.name for item in items}) == 40
    labels = np.stack([Labels(len(SHAPES)).read(item.target) for item in items])
    assert labels.shape == (40, 64, 64)
    assert all(photo(item).shape == (64, 64, 3) for item in items)
    shares = np.bincount(labels.ravel(), minlength=len(SHAPES)) / labels.size
    assert 0.5 < shares[0] < 0.9
    assert (shares[1:] > 0.02).all()


def test_shapes_have_their_areas() -> None:
    """All five are drawn with equal areas: (s * side)^2, s the first number drawn; checked where none is clipped."""
    for shape in SHAPES[1:]:
        inside = 0
        for seed in range(30):
            cover = generated._outline(shape, 96, np.random.default_rng(seed))
            if cover[[0, -1]].any() or cover[:, [0, -1]].any():
                continue
            inside += 1
            expected = (np.random.default_rng(seed).uniform(0.22, 0.4) * 96) ** 2
            assert cover.sum() == pytest.approx(expected, rel=0.06)
        assert inside > 5


def test_colour_does_not_tell_the_class() -> None:
    items = shapes("train", train=60, size=64)
    pixels = np.concatenate([photo(item).reshape(-1, 3) for item in items])
    labels = np.concatenate([Labels(6).read(item.target).ravel() for item in items])
    means = np.stack([pixels[labels == shape].mean(0) for shape in range(1, 6)])
    spread = np.stack([pixels[labels == shape].std(0) for shape in range(1, 6)])
    assert np.ptp(means, axis=0).max() < spread.min()


def test_shapes_depend_on_their_arguments_alone(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = manifest_hash(shapes("val", val=4, size=48))
    monkeypatch.setenv("DIFFI2I_CACHE", str(cache / "elsewhere"))
    again = manifest_hash(shapes("val", val=4, size=48))
    assert first == again
    assert manifest_hash(shapes("val", val=4, size=48, seed=1)) != first
    # Fewer pictures are the first of more, so a smaller trial sees the same ones.
    more, fewer = shapes("val", val=4, size=48), shapes("val", val=2, size=48)
    assert all((photo(a) == photo(b)).all() for a, b in zip(more[:2], fewer, strict=True))
    with pytest.raises(UserError, match="val=0"):
        shapes("val", val=0)


def test_no_photo_serves_both_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    read: dict[Split, set[Path]] = {}
    for split in ("train", "val"):
        paths = read.setdefault(split, set())
        with monkeypatch.context() as patch:
            patch.setattr(generated, "read_rgb", lambda path, paths=paths: paths.add(path) or read_rgb(path))
            shapes(split, train=2, val=2, size=32)
    assert len(read["train"]) >= 4
    assert len(read["val"]) >= 4
    assert not read["train"] & read["val"]


def test_data_are_made_once_and_whole(cache: Path) -> None:
    calls = []

    def make(folder: Path) -> None:
        calls.append(folder)
        (folder / "file").write_text("whole")

    first = made_once("thing", {"version": 1}, make)
    assert made_once("thing", {"version": 1}, make) == first
    assert made_once("thing", {"version": 2}, make) != first
    assert len(calls) == 2
    assert (first / "file").read_text() == "whole"

    def fail(folder: Path) -> None:
        (folder / "half").write_text("")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        made_once("thing", {"version": 3}, fail)
    assert len(list(cache.iterdir())) == 2, "something unfinished is left over"

    def overtaken(folder: Path) -> None:
        made_once("thing", {"version": 4}, make)  # another process, in the meantime
        (folder / "file").write_text("late")

    assert (made_once("thing", {"version": 4}, overtaken) / "file").read_text() == "whole"
    assert len(list(cache.iterdir())) == 3


def test_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DIFFI2I_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"cannot be written .*DIFFI2I_CACHE"):
        shapes("val", val=1, size=32)


def test_depth_by_hand() -> None:
    disparity = np.array([7.1913557, 40, np.nan, np.inf, -np.inf, 0, -3], np.float32)
    # 994.978 * 0.193001 = 192.031748978; over 38.2773557 and over 71.086
    np.testing.assert_allclose(motorcycle.metres(disparity), [5.016849, 2.701400, 0, 0, 0, 0, 0], rtol=1e-6)


def test_motorcycle_depth_is_the_calibrated_disparity() -> None:
    with np.load(Path(skimage.__file__).parent / "data" / "motorcycle_disp.npz") as file:
        disparity = file["arr_0"]
    (train,) = motorcycle.motorcycle("train")
    depth = Depth().read(train.target)
    assert depth.shape == (500, 480)
    for row, column in [(100, 20), (250, 240), (420, 470)]:
        assert np.isfinite(disparity[row, column])
        assert depth[row, column] == pytest.approx(994.978 * 0.193001 / (disparity[row, column] + 31.086), abs=6e-4)
    np.testing.assert_array_equal(depth == 0, ~np.isfinite(disparity[:, :480]))
    assert 2.1 < depth[depth > 0].min() < depth.max() < 5.1


def test_motorcycle_disparity_belongs_to_the_left_view() -> None:
    """Where depth says that a left pixel goes, the right view has the same colour; a shift too far it has not."""
    folder = Path(skimage.__file__).parent / "data"
    (train,) = motorcycle.motorcycle("train")
    left, right = photo(train).astype(float), read_rgb(folder / "motorcycle_right.png").astype(float)
    depth = Depth().read(train.target)
    rows, columns = np.nonzero(depth)
    shift = 994.978 * 0.193001 / depth[rows, columns] - 31.086

    def difference(extra: int) -> float:
        there = np.rint(columns - shift).astype(int) + extra
        seen = there >= 0
        return float(abs(left[rows, columns] - right[rows, np.maximum(there, 0)])[seen].mean())

    assert difference(0) < 0.6 * min(difference(5), difference(-5))


@pytest.mark.parametrize("tiles", [1, 2, 3])
def test_motorcycle_parts_do_not_touch(tiles: int) -> None:
    whole = read_rgb(Path(skimage.__file__).parent / "data" / "motorcycle_left.png")
    (train,), val = motorcycle.motorcycle("train", tiles), motorcycle.motorcycle("val", tiles)
    assert len(val) == tiles
    np.testing.assert_array_equal(photo(train), whole[:, :480])
    np.testing.assert_array_equal(np.concatenate([photo(item) for item in val]), whole[:, 480 + 32 :])
    for item in val:
        depth = Depth().read(item.target)
        assert depth.shape == photo(item).shape[:2]
        assert (depth > 0).mean() > 0.8
    with pytest.raises(UserError, match="tiles=0"):
        motorcycle.motorcycle("val", 0)


@pytest.mark.parametrize(("name", "kind", "val"), [("shapes", "labels", 24), ("motorcycle", "depth", 2)])
def test_shipped_configurations(name: str, kind: str, val: int) -> None:
    config = OmegaConf.load(CONF / f"{name}.yaml")
    assert config.name == name
    parts = instantiate(config)
    source: Callable[[Split], list[Item]] = parts.source
    assert type(parts.target).__name__ == KINDS[kind].reader
    items = source("val")
    assert len(items) == val
    parts.target.read(items[0].target)
