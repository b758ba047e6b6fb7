"""`dataset.on_error=skip`: training goes on past files that cannot be read, and says how many."""

import shutil
from pathlib import Path

import pytest

from diffi2i.commands import train
from diffi2i.data.build import build_data
from diffi2i.errors import Note, UserError
from tests.conftest import Make


@pytest.fixture
def broken(images: Path, tmp_path: Path) -> Path:
    """The twelve images, of which five are cut short, and two whole ones to validate on."""
    folder = tmp_path / "broken"
    shutil.copytree(images, folder / "train")
    (folder / "val").mkdir()
    for i, file in enumerate(sorted((folder / "train").iterdir())):
        if i < 2:
            shutil.move(file, folder / "val")
        elif i < 7:
            file.write_bytes(file.read_bytes()[:-200])
    return folder


def test_broken_files_are_skipped_counted_and_named(make: Make, broken: Path) -> None:
    folders = (f"root={broken / 'train'}", f"dataset.source.val_root={broken / 'val'}")
    config = make("run", *folders, "dataset.on_error=skip", "train.steps=8", "train.batch=8")
    with pytest.warns(UserWarning, match=r"skipped \d unreadable files, last: .*image0\d\.png"):
        run_dir = train.train(config)
    assert (run_dir / "result.json").is_file()


def test_without_skip_the_first_broken_file_stops_the_run_by_name(make: Make, broken: Path) -> None:
    folders = (f"root={broken / 'train'}", f"dataset.source.val_root={broken / 'val'}")
    with pytest.raises(UserError, match=r"image0\d\.png: not a readable image"):
        train.train(make("run", *folders, "train.steps=8", "train.batch=8"))


def test_broken_validation_images_are_left_out_and_named(make: Make, broken: Path) -> None:
    first, second = sorted((broken / "val").iterdir())
    settings = (f"root={broken / 'train'}", f"dataset.source.val_root={broken / 'val'}", "dataset.on_error=skip")
    first.write_bytes(first.read_bytes()[:-200])
    data = build_data(make("run", *settings))
    with pytest.warns(Note, match=rf"left out of the validation: {first}: not a readable image"):
        data.check()
    data.setup("validate")
    assert data.val_set.names == [second.stem]
    assert data.manifests["val"].keys() == {(second.stem, "target")}
    second.write_bytes(b"")
    with pytest.raises(UserError, match=r"none of the 2 validation images can be read: .*the file is empty"):
        build_data(make("run", *settings)).check()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("change", ["replaced", "removed"])
def test_a_file_that_changes_while_a_run_works_is_named(make: Make, broken: Path, change: str, workers: int) -> None:
    halves = (f"root={broken / 'val'}", "dataset.source.val_fraction=0.5")
    data = build_data(make("run", *halves, "dataset.on_error=skip", f"dataset.workers={workers}"))
    data.setup("fit")
    (item,), kept = data.train_items, Path(data.train_items[0].target).read_bytes()
    if change == "replaced":
        shutil.copy(data.val_items[0].target, item.target)
    else:
        Path(item.target).unlink()
    with pytest.raises(UserError, match="has been changed or removed since this run began: put it back") as caught:
        next(iter(data.train_dataloader()))
    assert str(caught.value).startswith(str(item.target))
    Path(item.target).write_bytes(kept)
    assert next(iter(data.train_dataloader()))["name"]
