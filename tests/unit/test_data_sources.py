"""Which files a source lists, what it holds out, and how it refuses what it cannot use."""

import unicodedata
from pathlib import Path

import pytest

from diffi2i.data.images import read_size
from diffi2i.data.manifest import manifest_hash
from diffi2i.data.sources import PHOTOS, Item, folder, layout, listed, pairs, photos
from diffi2i.errors import Note, UserError
from tests.listed import make, names
from tests.refusals import refusal


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
    with pytest.raises(UserError, match=r"val_fraction=1\.5: write a number"):
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
    Path(items[1].target).write_bytes(b"changed")
    assert manifest_hash(items) != value
    Path(items[1].target).unlink()
    with pytest.raises(UserError, match=r"2\.png: cannot be read"):
        manifest_hash(items)


def test_side_folders_are_left_out_and_links_followed_but_not_in_circles(tmp_path: Path) -> None:
    real = make(tmp_path / "real", "1.png", "sub/2.png", ".hidden/3.png", "@eaDir/1.png/thumb.png", "__MACOSX/1.png")
    (real / "sub" / "again").symlink_to(real)
    (real / "self").symlink_to("self")
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "train").symlink_to(real)
    (linked / "4.png").symlink_to(real / "1.png")
    with pytest.warns(Note, match="1 left out, such as .*/self; save"):
        assert names(folder("val", val_root=linked)) == ["4", "train/1", "train/sub/2"]


def test_a_link_that_leads_nowhere_is_an_image_that_cannot_be_read(tmp_path: Path) -> None:
    make(tmp_path, "1.png")
    (tmp_path / "2.png").symlink_to(tmp_path / "gone.png")
    _, item = folder("val", val_root=tmp_path)
    assert refusal(read_size, item.target) == f"{item.target}: a link that leads nowhere; mend it"


def test_pictures_that_are_not_read_are_named(tmp_path: Path) -> None:
    make(tmp_path, "1.png", "b.heic", "notes.txt")
    (tmp_path / "more").symlink_to(tmp_path / "gone")
    with pytest.warns(Note, match=r"2 left out, such as .*b\.heic, .*more; save pictures of other formats as PNG"):
        assert names(folder("val", val_root=tmp_path)) == ["1"]


@pytest.mark.parametrize("name", ["two\nlines.png", "red\x1b[31m.png", "latin\udce9.png", "sub\x7f/a.png"])
def test_a_name_that_cannot_be_printed_is_refused(tmp_path: Path, name: str) -> None:
    make(tmp_path, "1.png", name)
    said = refusal(folder, "train", tmp_path)
    assert f"the file name {name!a} has signs that cannot be printed" in said
    assert said.isprintable()


def test_odd_names_are_names(tmp_path: Path) -> None:
    odd = ["josé", "画像", "a,b", "b[1]", "#1", "~", "-v", "it's", "x" * 251, "a\u202fb", "1e3"]
    make(tmp_path, *(f"{name}.png" for name in odd))
    assert sorted(names(folder("val", val_root=tmp_path))) == sorted(odd)


def test_both_forms_of_unicode_are_one_name(tmp_path: Path) -> None:
    nfc, nfd = (unicodedata.normalize(form, "größe") for form in ("NFC", "NFD"))
    make(tmp_path, f"input/{nfd}.png", f"target/{nfc}.png", f"x/{nfd}/1.png")
    assert names(pairs("val", val_root=tmp_path)) == [nfc]
    for root, template in ((tmp_path, f"x/{nfc}/NAME"), (tmp_path / "x", f"{nfd}/NAME")):
        assert names(layout("val", root, template)) == ["1"]
    (tmp_path / "list.txt").write_text(f"target/{nfd}.png\n", encoding="utf-8")
    (item,) = listed("val", tmp_path, val="list.txt")
    assert (item.name, item.target) == (f"target/{nfc}", tmp_path / f"target/{nfc}.png")
    make(tmp_path, f"target/{nfd}.png")
    assert "has the same name as" in refusal(pairs, "val", None, tmp_path)


@pytest.mark.parametrize(
    ("inputs", "targets", "advice"),
    [
        (["0801x4", "0802x4"], ["0801", "0802"], {"input_name": "NAMEx4"}),
        (["a/lr_1", "b/lr_1"], ["a/1", "b/1"], {"input_name": "lr_NAME"}),
        (["1", "11"], ["1_gt", "11_gt"], {"target_name": "NAME_gt"}),
    ],
)
def test_the_advice_for_other_names_pairs_them(
    tmp_path: Path, inputs: list[str], targets: list[str], advice: dict[str, str]
) -> None:
    make(tmp_path, *(f"input/{name}.png" for name in inputs), *(f"target/{name}.png" for name in targets))
    ((key, template),) = advice.items()
    assert refusal(pairs, "val", None, tmp_path).endswith(f"; write dataset.source.{key}={template}")
    items = pairs("val", val_root=tmp_path, **advice)  # type: ignore[arg-type]
    assert set(names(items)) == set(inputs if key == "target_name" else targets)
    make(tmp_path, "input/other.png")
    assert "other.png; add the partners" in refusal(lambda: pairs("val", val_root=tmp_path, **advice))  # type: ignore[arg-type]
    assert "NAME once" in refusal(lambda: pairs("val", val_root=tmp_path, input_name="x4"))


def test_depth_may_lie_beside_the_photos_as_npy(tmp_path: Path) -> None:
    make(tmp_path, "input/1.png", "target/1.npy", "mixed/1_rgb.png", "mixed/1_z.npy")
    (item,) = pairs("val", val_root=tmp_path)
    assert item.target.name == "1.npy"
    (item,) = layout("val", tmp_path, "mixed/NAME_z", "mixed/NAME_rgb")
    assert (item.name, item.target.name) == ("1", "1_z.npy")
    assert "holds no image" in refusal(folder, "val", None, make(tmp_path / "photos", "1.npy"))
