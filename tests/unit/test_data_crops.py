"""Several crops of an image to validate on: `train.val_crops`."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diffi2i.commands.train import train
from diffi2i.data.dataset import EvalImages, ImageCache, spread_crops
from diffi2i.data.degrade import Bicubic, Inpaint
from diffi2i.data.images import read_rgb, to_tensor
from diffi2i.data.masks import narrow
from diffi2i.data.sources import Item, folder, pairs
from diffi2i.run.record import Record
from tests.conftest import Make


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 70), st.integers(1, 20), st.sampled_from([1, 2, 4]))
@settings(max_examples=300, deadline=None)
def test_crops_lie_apart_inside_the_image_on_the_scales_grid(
    height: int, width: int, crop: int, count: int, scale: int
) -> None:
    side = -(-crop // scale) * scale
    places = spread_crops((height, width), crop, count, scale)
    assert len(places) == min(count, max(1, height // side) * max(1, width // side))
    assert len(set(places)) == len(places)
    for top, left in places:
        assert top % scale == left % scale == 0
        assert top >= 0
        assert left >= 0
        assert top + side <= height or (top == 0 and height < side)
        assert left + side <= width or (left == 0 and width < side)
    for i, (top, left) in enumerate(places):
        for above, before in places[:i]:
            assert abs(top - above) >= side or abs(left - before) >= side


def test_crops_are_spread_over_the_image() -> None:
    assert spread_crops((100, 100), 30, 2, 1) == [(5, 5), (65, 65)]  # opposite corners of the grid of nine
    assert spread_crops((100, 100), 30, 9, 1) == [(y, x) for y in (5, 35, 65) for x in (5, 35, 65)]
    assert spread_crops((90, 31), 30, 3, 1) == [(0, 0), (30, 0), (60, 0)]


def images(root: Path, *sizes: tuple[int, int]) -> list[Item]:
    rng = np.random.default_rng(0)
    for i, (height, width) in enumerate(sizes):
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(root / f"{i}.png")
    return folder("val", val_root=root)


def test_every_crop_is_a_sample_of_its_own(tmp_path: Path) -> None:
    items = images(tmp_path, (70, 100), (10, 12), (33, 32))
    dataset = EvalImages(items, Inpaint(narrow()), 0, ImageCache(1), partner=True, crop=32, crops=4)
    assert dataset.names == ["0@3-2", "0@3-66", "0@35-2", "0@35-66", "1@0-0", "2@0-0"]
    assert [dataset[i]["name"] for i in range(len(dataset))] == dataset.names
    whole = to_tensor(read_rgb(items[0].target))
    assert torch.equal(dataset[3]["target"], whole[:, 35:67, 66:98])
    assert torch.equal(dataset[4]["target"], to_tensor(read_rgb(items[1].target)))  # smaller than the crop: whole
    assert not torch.equal(dataset[0]["mask"], dataset[1]["mask"])  # each has a hole of its own
    for i in range(6):
        assert dataset[i]["other"]["name"] == dataset.names[(i + 3) % 6]


def test_sides_that_the_scale_does_not_divide(tmp_path: Path) -> None:
    items = images(tmp_path, (61, 90))
    dataset = EvalImages(items, Bicubic(4), 0, ImageCache(1), crop=30, crops=8)
    assert len(dataset) == 2  # cells of 32 pixels
    for i, left in enumerate((12, 44)):
        sample = dataset[i]
        assert sample["name"] == f"0@12-{left}"
        assert sample["target"].shape == (3, 28, 28)
        assert sample["input"].shape == (3, 7, 7)


def test_pairs_are_cropped_alike(tmp_path: Path) -> None:
    """The input's pixel is the mean of the target's block of 4 x 4, everywhere."""
    for name in ("input", "target"):
        (tmp_path / name).mkdir()
    small = np.random.default_rng(0).integers(0, 256, (25, 40, 3), dtype=np.uint8)
    large = np.pad(small.repeat(4, 0).repeat(4, 1), ((0, 3), (0, 1), (0, 0)))
    Image.fromarray(small).save(tmp_path / "input" / "a.png")
    Image.fromarray(large).save(tmp_path / "target" / "a.png")
    dataset = EvalImages(pairs("val", val_root=tmp_path), Bicubic(4), 0, ImageCache(1), crop=48, crops=100)
    assert len(dataset) == 6
    for i in range(6):
        sample = dataset[i]
        assert sample["input"].shape == (3, 12, 12)
        blocks = sample["input"].repeat_interleave(4, 1).repeat_interleave(4, 2)
        assert torch.equal(blocks, sample["target"])


def test_one_crop_keeps_the_images_names(tmp_path: Path) -> None:
    items = images(tmp_path, (70, 100))
    assert EvalImages(items, Bicubic(4), 0, ImageCache(1), crop=32, crops=1).names == ["0"]
    assert EvalImages(items, Bicubic(4), 0, ImageCache(1), crops=5).names == ["0"]


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_a_record_scores_every_crop(make: Make) -> None:
    config = make("run", "train.val_crop=20", "train.val_crops=3", "train.steps=2")
    record = Record.read(train(config))
    names = [str(image["name"]) for image in record.images]
    assert len(names) == len(set(names)) == record.scores["psnr"].n == 6
    assert len({name.split("@")[0] for name in names}) == 2
    assert (record.data.crop, record.data.crops) == (20, 3)
