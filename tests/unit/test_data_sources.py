"""Which files a source lists, what it holds out, and how it refuses what it cannot use."""

from pathlib import Path

import pytest

from diffi2i.data.images import read_size
from diffi2i.data.manifest import manifest_hash
from diffi2i.data.sources import PHOTOS, Item, folder, pairs, photos
from diffi2i.errors import UserError
from tests.listed import make, names


def test_photos_are_all_there_and_split() -> None:
    val, train = photos("val"), photos("train")
    assert set(names(val)) == {"astronaut", "camera", "coffee"}
    assert not set(names(val)) & set(names(train))
    assert len(val) + len(train) == len(PHOTOS)
    assert all(min(read_size(item.target)) >= 256 for item in val + train)


def test_photos_refuse_unknown_and_empty_splits() -> None:
    with pytest.raises(UserError, match=r"cofee.*chelsea, coffee"):
        photos("train", held_out=["cofee"])
    with pytest.raises(UserError, match="left for val"):
        photos("val", held_out=[])
    with pytest.raises(UserError, match="left for train"):
        photos("train", held_out=[Path(file).stem for file in PHOTOS])


def test_folder_is_recursive_sorted_and_ignores_the_rest(tmp_path: Path) -> None:
    make(tmp_path, "b/2.png", "a.JPG", "b/1.v2.webp", "b/._1.png")
    (tmp_path / "notes.txt").write_text("x")
    assert names(folder("val", val_root=tmp_path)) == ["a", "b/1.v2", "b/2"]


def test_held_out_images_survive_additions(tmp_path: Path) -> None:
    make(tmp_path, *(f"{i}.png" for i in range(40)))
    val, train = folder("val", tmp_path), folder("train", tmp_path)
    assert len(val) == 4
    assert not set(names(val)) & set(names(train))
    assert len(val) + len(train) == 40
    assert folder("val", tmp_path) == val
    make(tmp_path, "new.png")
    assert len(set(names(folder("val", tmp_path))) & set(names(val))) >= 3
    assert len(folder("val", make(tmp_path / "two", "a.png", "b.png"), val_fraction=0.9)) == 1


def test_separate_validation_folder(tmp_path: Path) -> None:
    first, second = make(tmp_path / "a", "1.png"), make(tmp_path / "b", "2.png", "3.png")
    assert names(folder("train", first, second)) == ["1"]
    assert names(folder("val", first, second)) == ["2", "3"]
    for root, val_root in [(first, first), (tmp_path, first), (first, tmp_path)]:
        with pytest.raises(UserError, match="overlap"):
            folder("train", root, val_root)


def test_folder_refusals(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="root=<folder>"):
        folder("train")
    with pytest.raises(UserError, match=r"nowhere: no such folder"):
        folder("train", tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no image"):
        folder("train", tmp_path)
    make(tmp_path, "a.png")
    with pytest.raises(UserError, match="cannot be split"):
        folder("val", tmp_path)
    with pytest.raises(UserError, match=r"val_fraction is 1\.5"):
        folder("val", tmp_path, val_fraction=1.5)
    make(tmp_path, "a.jpg")
    with pytest.raises(UserError, match=r"a\.png: has the same name as a\.jpg"):
        folder("val", tmp_path)


def test_pairs(tmp_path: Path) -> None:
    make(tmp_path, *(f"{side}/s/{i}.png" for side in ("input", "target") for i in range(5)))
    val, train = pairs("val", tmp_path), pairs("train", tmp_path)
    assert len(val) == 1
    assert sorted(names(val) + names(train)) == [f"s/{i}" for i in range(5)]
    for item in val + train:
        assert item.target == tmp_path / "target" / f"{item.name}.png"
        assert item.input == tmp_path / "input" / f"{item.name}.png"
    assert len(pairs("val", val_root=tmp_path, input_dir="target", target_dir="input")) == 5


def test_unpaired_files_are_named(tmp_path: Path) -> None:
    make(tmp_path, "input/a.png", "input/b.png", "target/a.png", *(f"target/x{i}.png" for i in range(5)))
    with pytest.raises(UserError, match=r"6 file\(s\) without a partner") as error:
        pairs("train", tmp_path)
    assert str(tmp_path / "input" / "b.png") in str(error.value)
    assert str(tmp_path / "target" / "x1.png") in str(error.value)
    assert "x2" not in str(error.value)
    with pytest.raises(UserError, match="no such folder"):
        pairs("train", tmp_path, target_dir="gt")


def test_manifest_hash_follows_names_and_contents_only(tmp_path: Path) -> None:
    a, b = make(tmp_path / "a", "1.png", "2.png"), make(tmp_path / "b", "1.png", "2.png")
    items = folder("val", val_root=a)
    value = manifest_hash(items)
    assert value == manifest_hash(items[::-1]) == manifest_hash(folder("val", val_root=b))
    assert manifest_hash(items[:1]) != value
    assert manifest_hash([Item("other", items[0].target), items[1]]) != value
    assert manifest_hash([Item(item.name, item.target, item.target) for item in items]) != value
    items[1].target.write_bytes(b"changed")
    assert manifest_hash(items) != value
    items[1].target.unlink()
    with pytest.raises(UserError, match=r"2\.png: cannot be read"):
        manifest_hash(items)
