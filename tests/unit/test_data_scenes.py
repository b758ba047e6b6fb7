"""Scenes: photo and target stay together through every augmentation, and evaluation leaves the target alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from diffi2i.config.compose import conf_dir
from diffi2i.data.dataset import Draw, ImageCache
from diffi2i.data.images import read_rgb
from diffi2i.data.scenes import (
    EvalScenes,
    TrainScenes,
    check_scene,
    color_jitter,
    network_size,
    resize_map,
    resize_photo,
    turned,
)
from diffi2i.data.sources import Item, pairs
from diffi2i.data.targets import Depth, Labels
from diffi2i.errors import UserError
from diffi2i.kinds.spec import IGNORED
from tests.places import DATA
from tests.samples import same

SIZES = [(40, 60), (52, 44), (9, 70)]
DRAWS = [Draw(step, index, 16) for step in range(6) for index in range(5)]


def rows_and_columns(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.mgrid[:height, :width]
    return rows, columns


def scenes(folder: Path, target: str, sizes: Sequence[tuple[int, int]] = SIZES) -> list[Item]:
    """Photos whose red is 3 x row and green 3 x column; the label is the column, the depth (in mm) 1000 + column."""
    items = []
    for number, (height, width) in enumerate(sizes):
        rows, columns = rows_and_columns(height, width)
        photo, file = folder / f"{number}_photo.png", folder / f"{number}_{target}.png"
        Image.fromarray(np.stack([3 * rows, 3 * columns, 0 * rows], 2).astype(np.uint8)).save(photo)
        stored = columns.astype(np.uint8) if target == "labels" else (1000 + columns).astype(np.uint16)
        Image.fromarray(stored).save(file)
        items.append(Item(str(number), file, photo))
    return items


def labelled(folder: Path, sizes: Sequence[tuple[int, int]] = SIZES, **options: Any) -> TrainScenes:
    return TrainScenes(scenes(folder, "labels", sizes), Labels(100), 3, ImageCache(10), **options)


def test_label_samples_keep_the_contract(tmp_path: Path) -> None:
    dataset = labelled(tmp_path, zoom=(0.5, 2.0), aspect=1.5, jitter=0.4)
    names = set()
    for draw in DRAWS:
        sample = dataset[draw]
        assert sample.keys() == {"input", "target", "name"}
        assert sample["input"].shape == (3, 16, 24)
        assert sample["input"].dtype == torch.float32
        assert 0 <= sample["input"].min() <= sample["input"].max() <= 1
        assert sample["target"].shape == (16, 24)
        assert sample["target"].dtype == torch.int64
        names.add(sample["name"])
    assert names == {"0", "1", "2"}


def test_depth_samples_keep_the_contract(tmp_path: Path) -> None:
    dataset = TrainScenes(scenes(tmp_path, "depth"), Depth(), 3, ImageCache(10), zoom=(0.5, 2.0))
    for draw in DRAWS:
        sample = dataset[draw]
        assert sample.keys() == {"input", "target", "valid", "name"}
        for key in ("target", "valid"):
            assert sample[key].shape == (1, 16, 16)
            assert sample[key].dtype == torch.float32
        assert torch.equal(sample["valid"], (sample["target"] > 0).float())
        assert sample["target"].isfinite().all()


def test_without_zoom_photo_and_labels_agree_to_the_pixel(tmp_path: Path) -> None:
    dataset = labelled(tmp_path, SIZES[:2])
    steps, corners = set(), set()
    for draw in DRAWS:
        sample = dataset[draw]
        red, green, _ = (sample["input"] * 255).round().long()
        assert torch.equal(green, 3 * sample["target"])
        assert (red[1:] - red[:-1] == 3).all()  # never upside down
        steps.add(int(sample["target"][0, 1] - sample["target"][0, 0]))
        corners.add((int(red[0, 0]), int(green.min())))
    assert steps == {1, -1}
    assert len(corners) > 20


@pytest.mark.parametrize("input_scale", [1.0, 0.5])
def test_with_zoom_photo_and_labels_still_agree(tmp_path: Path, input_scale: float) -> None:
    dataset = labelled(tmp_path, [(80, 84)], zoom=(0.6, 1.9), input_scale=input_scale)
    slopes = []
    for draw in DRAWS:
        sample = dataset[draw]
        column = sample["input"][1] * 255 / 3
        labels = sample["target"]
        # Linear photos stay linear under bilinear filters, but for the first and last columns. The label is
        # the stored pixel under the centre, half a pixel off at most (and half a grey level, 1/6 of a column).
        inside = (labels > 4) & (labels < 79)
        assert (column - labels).abs()[inside].max() <= 0.5 + 1 / 6 + 1e-3
        slopes.append(1 / abs(float(column[0, 12] - column[0, 3]) / 9))
    # The slope is the zoom, read off the picture.
    assert input_scale * 0.55 < min(slopes) < input_scale * 0.8
    assert input_scale * 1.5 < max(slopes) < input_scale * 2.0


def test_cropping_while_resizing_equals_cropping_afterwards() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    labels = photo[..., 0]
    for size in [(20, 30), (80, 120), (33, 47)]:
        whole = (0.0, 0.0, 60.0, 40.0)
        y, x = 40 / size[0], 60 / size[1]
        box = (5 * x, 3 * y, (5 + 12) * x, (3 + 10) * y)
        expected = resize_photo(photo, whole, size)[3:13, 5:17].astype(int)
        assert abs(resize_photo(photo, box, (10, 12)) - expected).max() <= 1
        np.testing.assert_array_equal(resize_map(labels, box, (10, 12)), resize_map(labels, whole, size)[3:13, 5:17])
    reference = Image.fromarray(labels).resize((30, 20), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(resize_map(labels, whole, (20, 30)), np.asarray(reference))
    np.testing.assert_array_equal(resize_photo(photo, (5, 3, 17, 13), (10, 12)), photo[3:13, 5:17])


def test_small_scenes_are_padded_and_the_padding_does_not_count(tmp_path: Path) -> None:
    dataset = labelled(tmp_path, [(9, 10)])
    for draw in DRAWS[:6]:
        sample = dataset[draw]
        photo, target = (sample["input"] * 255).round().int(), sample["target"]
        if target[0, 0] == IGNORED:  # mirrored
            photo, target = photo.flip(-1), target.flip(-1)
        assert torch.equal(target[:9, :10], torch.arange(10).expand(9, 10))
        assert (target[9:] == IGNORED).all()
        assert (target[:, 10:] == IGNORED).all()
        assert (photo[0, 9:] == 3 * 8).all()
        assert (photo[1, :, 10:] == 3 * 9).all()

    deep = TrainScenes(scenes(tmp_path, "depth", [(9, 10)]), Depth(), 3, ImageCache(1))[DRAWS[0]]
    assert deep["valid"].sum() == 90
    assert (deep["target"][0, 9:] == 0).all()


def test_depth_is_divided_by_the_zoom_but_not_by_the_input_scale(tmp_path: Path) -> None:
    items = scenes(tmp_path, "depth", [(60, 80)])
    labels = labelled(tmp_path, [(60, 80)], zoom=(2.0, 2.0), input_scale=0.5)
    deep = TrainScenes(items, Depth(), 3, ImageCache(1), zoom=(2.0, 2.0), input_scale=0.5)
    for draw in DRAWS[:8]:
        column = labels[draw]["target"]  # the same seed and draw: the same crop
        torch.testing.assert_close(deep[draw]["target"][0], (1 + column / 1000) / 2)
    plain = TrainScenes(items, Depth(), 3, ImageCache(1), input_scale=0.5)[DRAWS[0]]
    assert plain["target"][plain["valid"] > 0].min() >= 1


def test_a_sample_depends_on_seed_step_index_and_patch_alone(tmp_path: Path) -> None:
    options: dict[str, Any] = {"zoom": (0.7, 1.4), "jitter": 0.3}
    first, second = labelled(tmp_path, **options), labelled(tmp_path, **options)
    backwards = {draw: second[draw] for draw in reversed(DRAWS)}
    assert all(same(first[draw], backwards[draw]) for draw in DRAWS)
    assert not same(first[Draw(1, 0, 16)], first[Draw(2, 0, 16)])
    assert not same(first[Draw(1, 0, 16)], first[Draw(1, 1, 16)])
    assert first[Draw(1, 0, 24)]["target"].shape == (24, 24)
    other = TrainScenes(first.items, Labels(100), 4, ImageCache(1), (0.7, 1.4), jitter=0.3)
    assert not any(same(first[draw], other[draw]) for draw in DRAWS)


def test_colour_jitter_touches_the_photo_only(tmp_path: Path) -> None:
    plain, jittered = labelled(tmp_path), labelled(tmp_path, jitter=0.5)
    for draw in DRAWS[:5]:
        assert torch.equal(plain[draw]["target"], jittered[draw]["target"])
        assert not torch.equal(plain[draw]["input"], jittered[draw]["input"])
    image = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(color_jitter(image, 0.0, np.random.default_rng(0)), image)


def test_evaluation_resizes_the_photo_only(tmp_path: Path) -> None:
    items = scenes(tmp_path, "labels")
    sample = EvalScenes(items, Labels(100), ImageCache(1), input_scale=0.5)[0]
    assert sample["input"].shape == (3, 20, 30)
    assert torch.equal(sample["target"], torch.arange(60).expand(40, 60))
    # Each pixel of the half-size photo lies between columns 2i and 2i + 1.
    columns = sample["input"][1, :, 2:-2] * 255 / 3
    assert (columns - (2 * torch.arange(30)[2:-2] + 0.5)).abs().max() <= 1 / 6 + 1e-3

    whole = EvalScenes(items, Labels(100), ImageCache(1))[1]
    assert items[1].input
    np.testing.assert_array_equal((whole["input"] * 255).round().numpy().transpose(1, 2, 0), read_rgb(items[1].input))

    deep = EvalScenes(scenes(tmp_path, "depth"), Depth(), ImageCache(1), input_scale=0.5)[0]
    assert deep["target"].shape == deep["valid"].shape == (1, 40, 60)
    torch.testing.assert_close(deep["target"][0], (1 + torch.arange(60) / 1000).expand(40, 60))


@pytest.mark.parametrize("count", [2, 3, 4])
def test_partner_is_the_scene_half_the_list_away(tmp_path: Path, count: int) -> None:
    items = scenes(tmp_path, "labels", [*SIZES, (20, 30)][:count])
    alone, paired = (EvalScenes(items, Labels(100), ImageCache(1), partner=partner) for partner in (False, True))
    for number in range(count):
        assert same(paired[number]["other"], alone[(number + count // 2) % count])
        assert paired[number]["other"]["name"] != paired[number]["name"]
        assert "other" not in alone[number]
    assert "other" not in EvalScenes(items[:1], Labels(100), ImageCache(1), partner=True)[0]


def test_cache_serves_photos_and_targets_within_one_budget(tmp_path: Path) -> None:
    items = scenes(tmp_path, "labels")
    bytes_of_first = 4 * 40 * 60  # RGB and one byte of label
    cache = ImageCache((bytes_of_first + 5) / 2**20)
    dataset = EvalScenes(items, Labels(100), cache)
    before = [dataset[number] for number in range(len(items))]
    assert cache.free == 5
    Path(items[0].target).unlink()  # the first scene is in memory, and samples are copies of it
    before[0]["target"] += 1
    assert torch.equal(dataset[0]["target"], before[0]["target"] - 1)
    assert same(dataset[1], before[1])


def test_wrong_items_are_refused(tmp_path: Path) -> None:
    items = scenes(tmp_path, "labels")
    lonely = [Item("a", items[0].target)]
    for build in (
        lambda: TrainScenes(lonely, Labels(100), 0, ImageCache(1)),
        lambda: EvalScenes(lonely, Labels(100), ImageCache(1)),
        lambda: check_scene(lonely[0]),
    ):
        with pytest.raises(UserError, match=r"needs pairs.*dataset=label_pairs"):
            build()
    crossed = Item("a", items[0].target, items[1].input)
    for read in (
        lambda: EvalScenes([crossed], Labels(100), ImageCache(1))[0],
        lambda: TrainScenes([crossed], Labels(100), 0, ImageCache(1))[DRAWS[0]],
        lambda: check_scene(crossed),
    ):
        with pytest.raises(
            UserError, match=r"1_photo\.png \(44x52\) and .*0_labels\.png \(60x40\) must be of one size"
        ):
            read()
    for zoom in ((0.0, 1.0), (2.0, 1.0), (1.0,)):
        with pytest.raises(UserError, match="zoom is"):
            labelled(tmp_path, zoom=zoom)
    check_scene(items[0])


def test_broken_files_are_skipped_when_asked(tmp_path: Path) -> None:
    whole = labelled(tmp_path)
    broken = whole.items[1]
    Path(broken.target).write_bytes(b"")
    with pytest.raises(UserError, match=r"1_labels\.png"):
        [whole[draw] for draw in DRAWS]

    dataset = labelled(tmp_path, on_error="skip")
    Path(broken.target).write_bytes(b"")  # `labelled` had mended it
    with pytest.warns(UserWarning, match=r"skipped 1 unreadable files, last: .*1_labels\.png") as warned:
        samples = [dataset[draw] for draw in DRAWS]
    assert len(warned) == 1
    assert {sample["name"] for sample in samples} == {"0", "2"}
    assert dataset.skipped == {"1"}
    # The replacement does not depend on whether the file was already known to be broken.
    assert all(same(dataset[draw], sample) for draw, sample in zip(DRAWS, samples, strict=True))


def test_nothing_readable_ends_in_an_error(tmp_path: Path) -> None:
    dataset = labelled(tmp_path, on_error="skip")
    for item in dataset.items:
        Path(item.target).write_bytes(b"")
    with (
        pytest.warns(UserWarning, match=r"skipped [123]"),
        pytest.raises(UserError, match=r"none of the 3 training files can be read, such as .*0_labels\.png"),
    ):
        dataset[DRAWS[0]]
    with pytest.raises(UserError, match="none of the 3"):  # and again at the next draw
        dataset[DRAWS[1]]


@pytest.mark.skipif(not (DATA / "camvid").is_dir(), reason="the CamVid sample is not on this machine")
def test_camvid() -> None:
    items = [
        Item(photo.stem, next((DATA / "camvid" / "labels" / "val").glob(f"{photo.stem}.*")), photo)
        for photo in sorted((DATA / "camvid" / "images" / "val").iterdir())[:3]
    ]
    target = Labels(11, ignore=[11])
    train = TrainScenes(items, target, 0, ImageCache(100), zoom=(0.5, 2.0), aspect=4 / 3, jitter=0.4)
    sample = train[Draw(0, 0, 96)]
    assert sample["input"].shape == (3, 96, 128)
    assert set(sample["target"].unique().tolist()) <= {*range(11), IGNORED}
    whole = EvalScenes(items, target, ImageCache(100), input_scale=0.5, partner=True)[0]
    assert whole["input"].shape == (3, 180, 240)
    assert whole["target"].shape == (360, 480)
    assert whole["other"]["name"] == items[1].name


@pytest.mark.skipif(not (DATA / "sevenscenes").is_dir(), reason="the 7-Scenes sample is not on this machine")
def test_sevenscenes() -> None:
    items = pairs("val", val_root=DATA / "sevenscenes" / "val", input_dir="rgb", target_dir="depth")
    dataset = TrainScenes(items[:3], Depth(invalid=[0, 65535]), 0, ImageCache(100))
    sample = dataset[Draw(0, 0, 128)]
    valid = sample["valid"] > 0
    assert valid.float().mean() > 0.3
    assert 0.2 < sample["target"][valid].min() < sample["target"].max() < 10


@pytest.mark.parametrize(
    ("size", "seen"),
    [
        ((480, 640), (512, 683)),
        ((683, 512), (683, 512)),
        ((256, 256), (512, 512)),
        ((1000, 500), (1024, 512)),
        ((300, 3000), (205, 2048)),  # the longer side decides
        ((1, 5000), (1, 2048)),
    ],
)
def test_the_short_side_decides_unless_the_long_one_grows_too_long(size: tuple[int, int], seen: tuple[int, int]):
    """mmseg's (2048, 512) with the ratio kept."""
    assert network_size(size, 1.0, 512, 2048) == seen
    assert network_size(size, 1.0, 512, None) == tuple(round(n * 512 / min(size)) for n in size)
    assert network_size(size, 0.5, None, None) == tuple(max(1, round(0.5 * n)) for n in size)


def test_evaluation_sees_the_short_side_and_keeps_the_target(tmp_path: Path) -> None:
    items = scenes(tmp_path, "labels")
    dataset = EvalScenes(items, Labels(100), ImageCache(10), short_side=20, long_side=80)
    shapes = [(20, 30), (24, 20), (10, 80)]
    for index, (shape, size) in enumerate(zip(shapes, SIZES, strict=True)):
        sample = dataset[index]
        assert sample["input"].shape == (3, *shape)
        assert sample["target"].shape == size
    other = EvalScenes(items, Labels(100), ImageCache(10), short_side=20, long_side=80, partner=True)[0]["other"]
    assert other["input"].shape == (3, 24, 20)


def test_training_zooms_from_the_short_side(tmp_path: Path) -> None:
    """Scenes of two sizes are brought to one, then zoomed; photo and labels stay together."""
    dataset = labelled(tmp_path, [(40, 60), (80, 84)], zoom=(0.8, 1.25), short_side=40, long_side=160)
    zooms: dict[str, list[float]] = {"0": [], "1": []}
    for draw in DRAWS:
        sample = dataset[draw]
        column, labels = sample["input"][1] * 255 / 3, sample["target"]
        inside = (labels > 4) & (labels < 56)
        assert (column - labels).abs()[inside].max() <= 0.5 + 1 / 6 + 1e-3
        zooms[sample["name"]].append(1 / abs(float(column[0, 12] - column[0, 3]) / 9))
    assert 0.75 < min(zooms["0"]) < max(zooms["0"]) < 1.3
    assert 0.37 < min(zooms["1"]) < max(zooms["1"]) < 0.66


def test_training_stays_inside_its_box_and_evaluation_sees_everything(tmp_path: Path) -> None:
    items = scenes(tmp_path, "depth", [(40, 60)])
    dataset = TrainScenes(items, Depth(), 3, ImageCache(10), box=[5, 35, 10, 50])
    rows, columns = set(), set()
    for draw in DRAWS:
        red, green, _ = (dataset[draw]["input"] * 255).round().int()
        rows |= set((red[:, 0] // 3).tolist())
        columns |= set((green[0] // 3).tolist())
    assert rows >= {5, *range(7, 33)}
    assert columns >= {*range(12, 48)}
    assert rows <= {*range(5, 35)}
    assert columns <= {*range(10, 50)}
    assert EvalScenes(items, Depth(), ImageCache(10))[0]["input"].shape == (3, 40, 60)

    with pytest.raises(UserError, match=r"\(60x40\) is too small for dataset.train_box=\[0, 41, 0, 10\]: write"):
        TrainScenes(items, Depth(), 3, ImageCache(10), box=[0, 41, 0, 10])[DRAWS[0]]


def test_nyus_box_is_the_crop_that_its_networks_train_on() -> None:
    node: Any = OmegaConf.load(conf_dir() / "dataset" / "nyu.yaml")
    top, bottom, left, right = node.train_box
    assert (bottom - top, right - left) == (427, 565)
    assert bottom - top >= 416
    assert right - left >= 544


@pytest.mark.parametrize("kind", ["labels", "depth"])
def test_half_of_the_crops_are_turned_photo_and_target_alike(tmp_path: Path, kind: str) -> None:
    target: Any = Labels(100) if kind == "labels" else Depth()
    items = scenes(tmp_path, kind, [(60, 64)])
    straight = TrainScenes(items, target, 3, ImageCache(10))
    dataset = TrainScenes(items, target, 3, ImageCache(10), rotate=10.0)
    assert all(same(straight[draw], TrainScenes(items, target, 3, ImageCache(10), rotate=0.0)[draw]) for draw in DRAWS)
    angles = []
    for draw in [Draw(step, index, 16) for step in range(20) for index in range(5)]:
        sample = dataset[draw]
        column = sample["input"][1] * 255 / 3
        labels = sample["target"] if kind == "labels" else sample["target"][0] * 1000 - 1000
        if sample["input"][:2].min() == 0:  # what came from outside, or the photo's own first row or column
            continue
        # Half a column off at most for the nearest pixel, and a little for the 8 bits of the photo.
        assert (column - labels).abs().max() <= 1 + 1 / 3
        dy, dx = torch.gradient(column)
        angles.append(abs(float(torch.rad2deg(torch.atan2(dy.mean(), dx.mean().abs())))))
    turned_by = [angle for angle in angles if angle > 0.3]
    assert len(angles) > 60
    assert 0.3 < len(turned_by) / len(angles) < 0.6
    assert 8 < max(turned_by) <= 10.5


def test_what_a_turn_brings_in_from_outside_does_not_count() -> None:
    photo, labels = np.full((40, 40, 3), 200, np.uint8), np.zeros((40, 40), np.uint8)
    image, turned_labels = turned(photo, labels, 30.0, IGNORED)
    corner = np.s_[:2, :2]
    assert (image[corner] == 0).all()
    assert (turned_labels[corner] == IGNORED).all()
    assert (turned_labels[15:25, 15:25] == 0).all()
    _, depth = turned(photo, np.ones((40, 40), np.float32), 30.0, 0)
    assert depth.dtype == np.float32
    assert (depth[corner] == 0).all()
