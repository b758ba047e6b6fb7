"""`diffi2i data check`: every fault is reported, none is raised, and the manifest carries the hash of results."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffi2i.commands.data import data
from diffi2i.config.commands import DataConfig
from diffi2i.config.schema import DatasetConfig
from diffi2i.data.check import SHOWN, check_dataset, write_manifest
from diffi2i.data.manifest import manifest_hash
from diffi2i.data.sources import Item, Split, folder, layout, pairs
from diffi2i.data.targets import Depth, Labels
from diffi2i.errors import UserError

Source = Callable[[Split], list[Item]]
LAYOUT = "diffi2i.data.sources.layout"


def save(path: Path, size: tuple[int, int] = (8, 8), value: int = 0, dtype: str = "uint8", channels: int = 3) -> Path:
    """An image of `size` (width, height), noisy where it is in colour so that it does not shrink to nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if channels == 3:
        pixels = np.random.default_rng(value).integers(0, 256, (size[1], size[0], 3)).astype(dtype)
    else:
        pixels = np.full((size[1], size[0]), value, dtype)
    Image.fromarray(pixels).save(path)
    return path


def pair_set(root: Path, count: int = 3, scale: int = 1) -> Source:
    for i in range(count):
        save(root / f"val/lq/{i}.png", (8, 8), i)
        save(root / f"val/gt/{i}.png", (8 * scale + i % scale, 8 * scale), i + 100)
    return partial(layout, root=root, target="SPLIT/gt/NAME", input="SPLIT/lq/NAME")


def data_check(**values: object) -> int:
    """The exit status of `diffi2i data check`."""
    config = DataConfig(action="check", **values)  # type: ignore[arg-type]
    try:
        data(config)
    except SystemExit as stop:
        return int(str(stop.code))
    return 0


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-60])


def dataset(**values: object) -> DatasetConfig:
    return DatasetConfig(name="set", source={}, **values)  # type: ignore[arg-type]


def test_a_sound_dataset(tmp_path: Path) -> None:
    source = pair_set(tmp_path, scale=4)
    report = check_dataset(dataset(expected={"val": 3}), source, splits=["val"])
    (split,) = report.splits
    assert not report.broken
    assert (split.items, split.expected, len(split.files)) == (3, 3, 6)
    assert split.hash == manifest_hash(source("val"))
    assert list(report.lines()) == [f"set val: 3 items of 3 expected, hash {split.hash}"]


def test_every_fault_is_reported(tmp_path: Path) -> None:
    source = pair_set(tmp_path, 6)
    truncate(tmp_path / "val/gt/0.png")
    (tmp_path / "val/lq/1.png").write_bytes(b"")
    save(tmp_path / "val/gt/2.png", (16, 8))
    save(tmp_path / "val/lq/lonely.png")
    report = check_dataset(dataset(expected={"val": 7}), source, splits=["val"])
    (split,) = report.splits
    assert report.broken
    assert split.faults["source"] == []
    assert split.faults["unpaired"] == [str(tmp_path / "val/lq/lonely.png")]
    assert [fault.split(": ")[0] for fault in split.faults["broken"]] == [
        str(tmp_path / "val/gt/0.png"),
        str(tmp_path / "val/lq/1.png"),
    ]
    assert "not a readable image" in split.faults["broken"][0]
    assert "the file is empty" in split.faults["broken"][1]
    (size,) = split.faults["sizes"]
    assert size.endswith("2.png (16x8): ratio 2 x 1, not 1")
    # Training would refuse unpaired files, so no result can carry a hash.
    assert split.hash is None
    lines = list(report.lines())
    assert lines[0] == "set val: 6 items of 7 expected (1 missing), hash none"
    assert "  broken (2):" in lines


def test_a_broken_file_is_still_in_the_hash(tmp_path: Path) -> None:
    source = pair_set(tmp_path)
    truncate(tmp_path / "val/gt/0.png")
    (split,) = check_dataset(dataset(), source, splits=["val"]).splits
    assert split.hash == manifest_hash(source("val"))


def test_sizes_follow_the_majority(tmp_path: Path) -> None:
    source = pair_set(tmp_path, 5, scale=4)
    save(tmp_path / "val/gt/0.png", (16, 16))
    save(tmp_path / "val/gt/1.png", (4, 4))
    (split,) = check_dataset(dataset(), source, splits=["val"]).splits
    assert [fault.rpartition(": ")[2] for fault in split.faults["sizes"]] == [
        "ratio 2 x 2, not 4",
        "ratio 0.5 x 0.5, not 4",
    ]


def test_labels(tmp_path: Path) -> None:
    for name, size, value in [("good", (8, 8), 3), ("void", (8, 8), 11), ("range", (8, 8), 12), ("size", (8, 4), 0)]:
        save(tmp_path / f"val/lq/{name}.png")
        save(tmp_path / f"val/gt/{name}.png", size, value, channels=1)
    source = partial(layout, root=tmp_path, target="SPLIT/gt/NAME", input="SPLIT/lq/NAME")
    (split,) = check_dataset(dataset(), source, Labels(11, ignore=[11]), ["val"]).splits
    (broken,) = split.faults["broken"]
    assert broken.startswith(f"{tmp_path / 'val/gt/range.png'}: value 12")
    (misfit,) = split.faults["sizes"]
    assert "size.png" in misfit
    assert "ratio 1 x 0.5, not 1" in misfit


def test_depth(tmp_path: Path) -> None:
    for name, dtype in [("good", "uint16"), ("eight", "uint8")]:
        save(tmp_path / f"val/lq/{name}.png")
        save(tmp_path / f"val/gt/{name}.png", value=200, dtype=dtype, channels=1)
    source = partial(layout, root=tmp_path, target="SPLIT/gt/NAME", input="SPLIT/lq/NAME")
    (split,) = check_dataset(dataset(), source, Depth(), ["val"]).splits
    (broken,) = split.faults["broken"]
    assert "wrong dtype for depth" in broken


def test_contents_of_labels_are_printed(tmp_path: Path) -> None:
    for name, value in [("a", 3), ("b", 3), ("c", 11), ("d", 0)]:
        save(tmp_path / f"val/lq/{name}.png")
        save(tmp_path / f"val/gt/{name}.png", value=value, channels=1)
    source = partial(layout, root=tmp_path, target="SPLIT/gt/NAME", input="SPLIT/lq/NAME")
    lines = list(check_dataset(dataset(), source, Labels(5, ignore=[11]), ["val"]).lines())
    assert lines[1] == "  classes: 0: 25.0 %, 3: 50.0 %; ignored: 25.0 % of the pixels; absent of 5: 1, 2, 4"


def test_contents_of_depth_are_printed_and_an_odd_unit_is_told(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    metres = np.where(rng.random((40, 60)) < 0.2, rng.uniform(3, 80, (40, 60)), 0)
    (tmp_path / "val/gt").mkdir(parents=True)
    for name in "abc":
        save(tmp_path / f"val/lq/{name}.png", (60, 40))
        Image.fromarray((metres * 256).astype(np.uint16)).save(tmp_path / f"val/gt/{name}.png")
    source = partial(layout, root=tmp_path, target="SPLIT/gt/NAME", input="SPLIT/lq/NAME")

    def printed(unit: float, workers: int = 0) -> list[str]:
        report = check_dataset(dataset(workers=workers), source, Depth(unit), ["val"])
        assert not report.broken
        return list(report.lines())[1:]

    right, (range_, odd) = printed(1 / 256), printed(0.001)
    assert len(right) == 1
    assert right[0].startswith("  depth: 3.")
    assert " / 80 m (min / median / max), " in right[0]
    assert " / 20.5 m (min / median / max), " in range_
    assert "as by a laser" in odd
    assert "write dataset.target.unit=<metres per stored number>, 0.001 now" in odd
    assert printed(0.001, workers=1) == [range_, odd]


def test_pictures_in_both_splits_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(3):
        save(tmp_path / f"d/train/{i}.png", value=i)
        save(tmp_path / f"d/val/{i}.png", value=i + 10)
    source = partial(folder, root=tmp_path / "d/train", val_root=tmp_path / "d/val")
    assert not check_dataset(dataset(), source).broken
    save(tmp_path / "d/val/copy.png", value=1)
    for split in ("train", "val"):  # broken alike, which is said already
        (tmp_path / "d" / split / "empty.png").write_bytes(b"")
    report = check_dataset(dataset(), source)
    assert report.splits[1].faults["shared"] == ["copy: the same picture as 1 in train"]
    assert "  shared (1):" in list(report.lines())
    for split in ("train", "val"):
        (tmp_path / "d" / split / "empty.png").unlink()
    node = {"_target_": "diffi2i.data.sources.folder", "_partial_": True}
    node |= {"root": str(tmp_path / "d/train"), "val_root": str(tmp_path / "d/val")}
    mine = DatasetConfig(name="mine", source=node)
    assert data_check(dataset=mine, output=str(tmp_path / "m.json")) == 0
    assert "copy: the same picture as 1 in train" in capsys.readouterr().out


def test_equal_label_maps_are_no_shared_picture(tmp_path: Path) -> None:
    for split, first in (("train", 0), ("val", 10)):
        for i in range(2):
            save(tmp_path / f"{split}/lq/{i}.png", value=first + i)
            save(tmp_path / f"{split}/gt/{i}.png", value=1, channels=1)
    source = partial(layout, root=tmp_path, target="SPLIT/gt/NAME", input="SPLIT/lq/NAME", train=["train"])
    assert not check_dataset(dataset(), source, Labels(11)).broken
    shutil.copy(tmp_path / "train/lq/1.png", tmp_path / "val/lq/0.png")
    report = check_dataset(dataset(), source, Labels(11))
    assert report.splits[1].faults["shared"] == ["0: the same picture as 1 in train"]


def test_a_split_that_cannot_be_listed_does_not_hide_the_other(tmp_path: Path) -> None:
    save(tmp_path / "val/1.png")
    source = partial(layout, root=tmp_path, target="SPLIT/NAME", train=["train"])
    train, val = check_dataset(dataset(), source).splits
    assert train.faults["source"] == [f"{tmp_path / 'train'}: no such folder; write the path of a folder of images"]
    assert (train.items, train.hash, val.items) == (0, None, 1)


def test_long_lists_of_faults_are_cut_when_printed(tmp_path: Path) -> None:
    source = pair_set(tmp_path, 1)
    for i in range(SHOWN + 3):
        save(tmp_path / f"val/lq/lonely{i:02}.png")
    report = check_dataset(dataset(), source, splits=["val"])
    assert len(report.splits[0].faults["unpaired"]) == SHOWN + 3
    lines = list(report.lines())
    assert len(lines) == 1 + 1 + SHOWN + 1
    assert lines[-1] == "    ... and 3 more"


def test_the_hash_is_that_of_the_images_in_use(tmp_path: Path) -> None:
    source = pair_set(tmp_path, 3)
    (split,) = check_dataset(dataset(max_val_images=2), source, splits=["val"]).splits
    assert len(split.files) == 6
    assert split.hash == manifest_hash(source("val")[:2])


def test_processes_find_the_same(tmp_path: Path) -> None:
    source = pair_set(tmp_path, 3)
    truncate(tmp_path / "val/gt/1.png")
    here, there = (check_dataset(dataset(workers=workers), source, splits=["val"]) for workers in (0, 2))
    assert here == there


def test_manifest(tmp_path: Path) -> None:
    save(tmp_path / "photos/a.png", (5, 7))
    truncate(save(tmp_path / "photos/b.png"))
    source = partial(folder, root=None, val_root=tmp_path / "photos")
    report = check_dataset(dataset(), source, splits=["val"])
    write_manifest(report, tmp_path / "out/manifest.json")
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    whole, broken = manifest["splits"]["val"]["files"]
    size = (tmp_path / "photos/a.png").stat().st_size
    assert {key: whole[key] for key in ("name", "role", "bytes", "width", "height")} == {
        "name": "a",
        "role": "target",
        "bytes": size,
        "width": 5,
        "height": 7,
    }
    assert len(whole["sha256"]) == len(broken["sha256"]) == 64
    assert "width" not in broken
    assert manifest["splits"]["val"]["hash"] == manifest_hash(source("val"))
    assert str(tmp_path) not in json.dumps(manifest)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["manifest.json"]
    with pytest.raises(UserError, match="cannot be written"):
        write_manifest(report, tmp_path / "photos/a.png/manifest.json")


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pair_set(tmp_path)
    monkeypatch.chdir(tmp_path)
    source = {
        "_target_": LAYOUT,
        "_partial_": True,
        "root": str(tmp_path),
        "target": "SPLIT/gt/NAME",
        "input": "SPLIT/lq/NAME",
    }
    checked = DatasetConfig(name="set", source=source, expected={"val": 3})
    assert data_check(dataset=checked) == 0
    printed = capsys.readouterr().out
    assert "set val: 3 items of 3 expected, hash" in printed
    assert "train" not in printed
    assert Path("outputs/data/set/manifest.json").is_file()

    truncate(tmp_path / "val/lq/0.png")
    assert data_check(dataset=checked, output=str(tmp_path / "other.json")) == 1
    assert "broken (1)" in capsys.readouterr().out
    assert Path("other.json").is_file()

    checked.target = {"_target_": "diffi2i.data.targets.Labels", "classes": 0}
    with pytest.raises(UserError, match=r"dataset\.target: classes is 0"):
        data_check(dataset=checked)


def test_command_checks_both_splits_of_a_set_without_counts(tmp_path: Path) -> None:
    for i in range(4):
        save(tmp_path / f"{i}.png", value=i)
    source = {"_target_": "diffi2i.data.sources.folder", "_partial_": True, "root": str(tmp_path)}
    output = tmp_path / "out" / "manifest.json"
    assert data_check(dataset=DatasetConfig(name="mine", source=source), output=str(output)) == 0
    splits = json.loads(output.read_text())["splits"]
    assert {split: len(content["files"]) for split, content in splits.items()} == {"train": 3, "val": 1}


def test_command_checks_a_folder_for_evaluation_whole(tmp_path: Path) -> None:
    for role in ("lq", "gt"):
        save(tmp_path / role / "1.png")
    source = {
        "_target_": "diffi2i.data.sources.pairs",
        "_partial_": True,
        "root": None,
        "val_root": str(tmp_path),
        "input_dir": "lq",
        "target_dir": "gt",
    }
    output = tmp_path / "manifest.json"
    assert data_check(dataset=DatasetConfig(name="mine", source=source), output=str(output)) == 0
    splits = json.loads(output.read_text())["splits"]
    assert {split: len(content["files"]) for split, content in splits.items()} == {"val": 2}
    assert splits["val"]["hash"] == manifest_hash(pairs("val", val_root=tmp_path, input_dir="lq", target_dir="gt"))
