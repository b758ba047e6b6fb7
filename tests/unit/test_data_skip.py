"""`dataset.on_error=skip`: training goes on past files that cannot be read, and says how many."""

import shutil
from pathlib import Path

import pytest

from diffi2i.commands import train
from diffi2i.data.build import build_data
from diffi2i.errors import UserError
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


def test_a_validation_image_is_never_skipped(make: Make, broken: Path) -> None:
    for file in (broken / "val").iterdir():
        file.write_bytes(b"")
    config = make(
        "run", f"root={broken / 'train'}", f"dataset.source.val_root={broken / 'val'}", "dataset.on_error=skip"
    )
    with pytest.raises(UserError, match="the file is empty"):
        build_data(config).check()
