"""Where the files of each public dataset lie, and that each file of conf/dataset finds them there."""

import re
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from diffi2i.config import compose
from diffi2i.config.commands import EvalConfig
from diffi2i.data.images import read_size
from diffi2i.data.manifest import manifest_hash
from diffi2i.data.sources import IncompleteError, Split, layout, listed, pairs
from diffi2i.errors import UserError
from tests.listed import make, names
from tests.places import DATA

CONF = compose.conf_dir() / "dataset"
DATASETS = sorted(CONF.rglob("*.yaml"))
EVALUATION_ONLY = {
    "aim2019_track2",
    "div2k100",
    "general100",
    "hide",
    "manga109",
    "ntire2020_track1",
    "realsrset",
    "set14",
    "set5",
    "urban100",
}

# The files of each dataset in miniature, and the names its splits should have.
TREES: dict[str, tuple[list[str], list[str], list[str]]] = {
    "ade20k": (
        [
            f"{folder}/{split}/ADE_{split}_1.png"
            for folder in ("images", "annotations")
            for split in ("training", "validation")
        ],
        ["ADE_training_1"],
        ["ADE_validation_1"],
    ),
    "aim2019_track2": (["valid-gt-clean/0801.png", "valid-input-noisy/0801.png"], [], ["0801"]),
    "camvid": (
        [f"{folder}/{split}/{split}.png" for folder in ("images", "labels") for split in ("train", "val", "test")],
        ["train"],
        ["test"],
    ),
    "celebahq": (
        ["train_256/1.jpg", "val_source_256/2.jpg", "visual_test_source_256/3.jpg"],
        ["1"],
        ["3"],
    ),
    "celebahq_lists": (["data256x256/0.jpg", "data256x256/1.jpg", "data256x256/2.jpg"], ["0", "2"], ["1"]),
    "df2k": (
        ["DIV2K_train_HR/0001.png", "DIV2K_valid_HR/0801.png", "Flickr2K_HR/0001.png"],
        ["DIV2K_train_HR/0001", "Flickr2K_HR/0001"],
        ["0801"],
    ),
    "div2k100": (["DIV2K_valid_HR/0801.png"], [], ["0801"]),
    "general100": (["im_1.bmp"], [], ["im_1"]),
    "gopro": (
        [
            f"{split}/GOPR{split}/{kind}/{number}.png"
            for split in ("train", "test")
            for kind in ("blur", "blur_gamma", "sharp")
            for number in ("1", "2")
        ],
        ["GOPRtrain/1", "GOPRtrain/2"],
        ["GOPRtest/1", "GOPRtest/2"],
    ),
    "hide": (
        [
            "train/9.png",
            "test/test-close-ups/1.MP4.png",
            "test/test-long-shot/2.png",
            "GT/1.MP4.png",
            "GT/2.png",
            "GT/9.png",
        ],
        [],
        ["test-close-ups/1.MP4", "test-long-shot/2"],
    ),
    "manga109": (["HR/ARMS.png"], [], ["ARMS"]),
    "ntire2020_track1": (["Corrupted-va-x/0801.png", "DIV2K_valid_HR/0801.png"], [], ["0801"]),
    "nyu": (
        [
            "sync/kitchen/rgb_1.jpg",
            "sync/kitchen/sync_depth_1.png",
            "official_splits/test/bath/rgb_2.jpg",
            "official_splits/test/bath/sync_depth_2.png",
        ],
        ["kitchen/rgb_1"],
        ["bath/rgb_2"],
    ),
    "places": (["data_large/a/airfield/1.jpg", "val_large/Places365_val_1.jpg"], ["a/airfield/1"], ["Places365_val_1"]),
    "realsrset": (
        [f"{camera}/Test/4/{camera}_001_{role}.png" for camera in ("Canon", "Nikon") for role in ("HR", "LR4")],
        [],
        ["Canon_001"],
    ),
    "set14": (["HR/baboon.png"], [], ["baboon"]),
    "set5": (["HR/baby.png", "HR/bird.png"], [], ["baby", "bird"]),
    "sevenscenes": (
        [f"{split}/{kind}/frame-{split}.png" for split in ("train", "val") for kind in ("rgb", "depth")],
        ["frame-train"],
        ["frame-val"],
    ),
    "urban100": (["HR/img_001.png"], [], ["img_001"]),
}
LISTS = {
    "celebahq_lists": {"train_shuffled.flist": "2.jpg\n0.jpg\n", "val_shuffled.flist": "1.jpg\n"},
    "nyu": {
        "nyudepthv2_train_files_with_gt.txt": "/kitchen/rgb_1.jpg /kitchen/sync_depth_1.png 518.8579\n",
        "nyudepthv2_test_files_with_gt.txt": "bath/rgb_2.jpg bath/sync_depth_2.png 518.8579\n",
    },
}


def read(file: Path, root: Path | str = "somewhere") -> DictConfig:
    loaded = OmegaConf.merge(OmegaConf.load(file), {})
    assert isinstance(loaded, DictConfig)
    return OmegaConf.create({"root": str(root), "dataset": loaded})


def shared(name: str) -> Path:
    if not (DATA / name).is_dir():
        pytest.skip(f"needs the real data in shared/data/{name}")
    return DATA / name


@pytest.mark.parametrize("file", DATASETS, ids=lambda file: file.stem)
def test_every_dataset_file_can_be_used(file: Path) -> None:
    assert file.read_text().startswith("# ")
    node = compose.load(EvalConfig, "eval", ["run=.", f"dataset={file.stem}", "root=."]).dataset
    assert node is not None
    assert node.name == file.stem
    assert callable(instantiate(node.source))
    assert node.target is None or callable(instantiate(node.target).read)


def test_every_public_dataset_has_a_tree_here() -> None:
    own = {"depth_pairs", "folder", "label_pairs", "lists", "motorcycle", "pairs", "photos", "shapes", "shards"}
    assert {file.stem for file in DATASETS} - own == TREES.keys()
    expected = {name: read(CONF / f"{name}.yaml").dataset.expected for name in TREES}
    assert {name for name in TREES if "train" not in expected[name]} == EVALUATION_ONLY
    assert all("val" in counts for counts in expected.values())


@pytest.mark.parametrize("name", TREES)
def test_layout_of(name: str, tmp_path: Path) -> None:
    files, train, val = TREES[name]
    make(tmp_path, *files)
    for file, text in LISTS.get(name, {}).items():
        (tmp_path / file).write_text(text)
    source = instantiate(read(CONF / f"{name}.yaml", tmp_path).dataset.source)
    assert names(source("val")) == val
    if name in EVALUATION_ONLY:
        with pytest.raises(UserError, match="has no train split; train on another one"):
            source("train")
    else:
        assert names(source("train")) == train
    for item in source("val"):
        assert item.target.is_file()
        assert item.input is None or item.input.is_file()


@pytest.mark.parametrize(
    ("name", "input", "target"),
    [
        ("ade20k", "images/validation/ADE_validation_1.png", "annotations/validation/ADE_validation_1.png"),
        ("gopro", "test/GOPRtest/blur/1.png", "test/GOPRtest/sharp/1.png"),
        ("hide", "test/test-close-ups/1.MP4.png", "GT/1.MP4.png"),
        ("nyu", "official_splits/test/bath/rgb_2.jpg", "official_splits/test/bath/sync_depth_2.png"),
        ("realsrset", "Canon/Test/4/Canon_001_LR4.png", "Canon/Test/4/Canon_001_HR.png"),
    ],
)
def test_inputs_and_targets_are_not_confused(name: str, input: str, target: str, tmp_path: Path) -> None:
    make(tmp_path, *TREES[name][0])
    for file, text in LISTS.get(name, {}).items():
        (tmp_path / file).write_text(text)
    item = instantiate(read(CONF / f"{name}.yaml", tmp_path).dataset.source)("val")[0]
    assert item.input == tmp_path / input
    assert item.target == tmp_path / target


@pytest.mark.parametrize(
    ("target", "input", "files"),
    [
        ("HR/NAME", "LR_bicubic/X4/NAMEx4", ["HR/baby.png", "LR_bicubic/X4/babyx4.png"]),
        ("HR/NAME", "LRBI/NAME_LRBI_x4", ["HR/baby.png", "LRBI/baby_LRBI_x4.png"]),
        ("GTmod12/NAME", "LRbicx4/NAME", ["GTmod12/baby.png", "LRbicx4/baby.png"]),
        ("image_SRF_4/NAME_HR", "image_SRF_4/NAME_LR", ["image_SRF_4/baby_HR.png", "image_SRF_4/baby_LR.png"]),
        ("NAME", None, ["baby.png"]),
        ("img_NAME", None, ["img_baby.png", "other.png"]),
    ],
)
def test_benchmark_layouts(target: str, input: str | None, files: list[str], tmp_path: Path) -> None:
    (item,) = layout("val", make(tmp_path, *files), target, input)
    assert item.name == "baby"
    assert item.target == tmp_path / files[0]
    assert item.input == (tmp_path / files[1] if input else None)


def test_templates_can_be_written_as_overrides() -> None:
    overrides = ["run=.", "dataset=set5", "root=.", "dataset.source.input=LR_bicubic/X4/NAMEx4"]
    dataset = compose.load(EvalConfig, "eval", overrides).dataset
    assert dataset is not None
    assert dataset.source["input"] == "LR_bicubic/X4/NAMEx4"


def test_links_are_followed(tmp_path: Path) -> None:
    real = make(tmp_path / "real", "blur/1.png", "sharp/1.png")
    (tmp_path / "set/test").mkdir(parents=True)
    (tmp_path / "set/test/sequence").mkdir()
    for kind in ("blur", "sharp"):
        (tmp_path / "set/test/sequence" / kind).mkdir()
        (tmp_path / "set/test/sequence" / kind / "1.png").symlink_to(real / kind / "1.png")
    (tmp_path / "linked").symlink_to(tmp_path / "set/test")
    for part in ("set/test", "linked"):
        (item,) = layout("val", tmp_path, "SPLIT/FOLDER/sharp/NAME", "SPLIT/FOLDER/blur/NAME", val=[part])
        assert item.name == "sequence/1"


def test_parts_may_hold_the_words_of_templates(tmp_path: Path) -> None:
    make(tmp_path, "FOLDER_A/1.png", "B_A/2.png", "RENAMED/3.png")
    assert names(layout("val", tmp_path, val=["FOLDER_A"])) == ["1"]
    assert names(layout("val", tmp_path, val=["RENAMED"])) == ["3"]


def test_layout_refusals(tmp_path: Path) -> None:
    make(tmp_path, "a/1.png", "a/b/1.png", "c/1.png")
    with pytest.raises(UserError, match="root=<folder>"):
        layout("val")
    with pytest.raises(UserError, match="gone: no such folder"):
        layout("val", tmp_path, val=["gone"])
    with pytest.raises(UserError, match="c: no image there fits c/NAME_HR; check root"):
        layout("val", tmp_path, "c/NAME_HR")
    for template in ("c", "NAME/NAME"):
        with pytest.raises(UserError, match="must hold the word NAME once"):
            layout("val", tmp_path, template)
    for train, val in [(["a"], ["a"]), (["a"], ["a/b"]), (["a/b"], ["a"])]:
        with pytest.raises(UserError, match="train and val splits share images"):
            layout("val", tmp_path, train=train, val=val)
    with pytest.raises(UserError, match="train and val splits share images"):
        layout("val", tmp_path, "c/NAME", train=["train"])
    with pytest.raises(UserError, match="the parts a, a/b overlap"):
        layout("val", tmp_path, val=["a", "a/b"])
    (tmp_path / "c/1.jpg").write_bytes((tmp_path / "c/1.png").read_bytes())
    with pytest.raises(UserError, match=r"1\.png: has the same name as 1\.jpg"):
        layout("val", tmp_path, val=["c"])
    with pytest.raises(UserError, match=r"no val split; write dataset\.source\.val=\[<folder>\]"):
        layout("val", tmp_path, val=[])


def test_unpaired_files_leave_the_complete_items(tmp_path: Path) -> None:
    make(tmp_path, "val/lq/1.png", "val/lq/2.png", "val/gt/1.png", "val/gt/3.png")
    with pytest.raises(IncompleteError, match=r"2 file\(s\) without a partner .* such as .*2\.png, .*3\.png") as error:
        layout("val", tmp_path, "SPLIT/gt/NAME", "SPLIT/lq/NAME")
    assert "\n" not in str(error.value)
    assert names(error.value.items) == ["1"]
    assert error.value.files == [tmp_path / "val/lq/2.png", tmp_path / "val/gt/3.png"]
    with pytest.raises(IncompleteError, match=r"1 file\(s\).*2\.png") as error:
        layout("val", tmp_path, "SPLIT/gt/NAME", "SPLIT/lq/NAME", spare_targets=True)
    with pytest.raises(IncompleteError) as error:
        pairs("val", val_root=tmp_path / "val", input_dir="lq", target_dir="gt")
    assert names(error.value.items) == ["1"]


def test_list_refusals(tmp_path: Path) -> None:
    make(tmp_path, "a.png", "b.png")
    path = tmp_path / "list.txt"
    with pytest.raises(UserError, match="root=<folder>"):
        listed("val")
    with pytest.raises(UserError, match=r"no train split; write dataset\.source\.train=<list file>"):
        listed("train", tmp_path, val="list.txt")
    with pytest.raises(UserError, match=r"list\.txt: not a readable list; put"):
        listed("val", tmp_path, val="list.txt")
    for text, paired, message in [
        ("\n \n", False, "the list is empty"),
        ("a.png b.png 1\n\na.png\n", True, r"line 3: 'a\.png' must name an input and a target"),
        ("a.png\nb.png\n/a.png\n", False, "line 3: a is listed twice"),
    ]:
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            listed("val", tmp_path, val="list.txt", paired=paired)
    path.write_text("a.png\nfolder with blanks/c.png\n")
    with pytest.raises(IncompleteError, match=r"1 listed file\(s\) are missing, such as .*c\.png") as error:
        listed("val", tmp_path, val="list.txt")
    assert names(error.value.items) == ["a"]
    assert error.value.files == [tmp_path / "folder with blanks/c.png"]


def test_one_list_for_both_splits_is_refused(tmp_path: Path) -> None:
    make(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "list.txt").write_text("1.png\n")
    for split in ("train", "val"):
        with pytest.raises(UserError, match=r"train and val splits share the list list\.txt"):
            listed(split, tmp_path, train="list.txt", val="list.txt")
    assert names(listed("val", tmp_path, "list.txt", "list.txt", train_dir="a", val_dir="b")) == ["1"]


def test_lists_from_windows(tmp_path: Path) -> None:
    make(tmp_path, "a.png", "b.png")
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfa.png\r\nb.png\r\n")
    assert names(listed("val", tmp_path, val="list.txt")) == ["a", "b"]


def test_sizes_in_lists_are_passed_over(tmp_path: Path) -> None:
    make(tmp_path, "a.png", "b (1).png", "c (1,2,3).png")
    (tmp_path / "train.txt").write_text("a.png (4,4,3)\nb (1).png\n")
    (tmp_path / "val.txt").write_text("c (1,2,3).png (4, 4, 3)\n")
    source = instantiate(read(CONF / "lists.yaml", tmp_path).dataset.source)
    assert [item.target.is_file() for split in ("train", "val") for item in source(split)] == [True] * 3


def test_lists_give_the_order_of_names(tmp_path: Path) -> None:
    make(tmp_path, "a.png", "b.png")
    (tmp_path / "list.txt").write_text("b.png\na.png\n")
    assert names(listed("val", tmp_path, val="list.txt")) == ["a", "b"]
    assert names(listed("val", tmp_path, val=str(tmp_path / "list.txt"))) == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "train", "val"), [("camvid", 367, 233), ("sevenscenes", 160, 40)], ids=lambda value: str(value)
)
def test_real_dense_data(name: str, train: int, val: int) -> None:
    dataset = read(CONF / f"{name}.yaml", shared(name)).dataset
    source, reader = instantiate(dataset.source), instantiate(dataset.target)
    assert dict(dataset.expected) == {"train": train, "val": val}
    for split, count in (("train", train), ("val", val)):
        items = source(split)
        assert len(items) == count == len(set(names(items)))
        assert read_size(items[0].input) == reader.read(items[0].target).shape
    if name == "camvid":
        assert len(instantiate(dataset.source, val=["val"])("val")) == 101


def test_real_benchmark_pairs() -> None:
    items = instantiate(read(CONF / "set5.yaml", shared("set5")).dataset.source, input="LRx4/NAME")("val")
    assert len(items) == 5
    for item in items:
        assert item.input is not None
        assert [n // 4 for n in read_size(item.target)] == list(read_size(item.input))


@pytest.mark.parametrize(
    ("name", "input_dir", "target_dir", "count", "scale"),
    [("realsr_val", "lq", "gt", 32, 4), ("gopro_sample", "blur", "sharp", 1, 1)],
)
def test_real_pairs(name: str, input_dir: str, target_dir: str, count: int, scale: int) -> None:
    items = pairs("val", val_root=shared(name), input_dir=input_dir, target_dir=target_dir)
    assert len(items) == count
    for item in items:
        assert item.input is not None
        assert [n // scale for n in read_size(item.target)] == list(read_size(item.input))


def test_real_photos_in_folders() -> None:
    splits: list[tuple[Split, int]] = [("train", 200), ("val", 100)]
    for split, count in splits:
        items = layout(split, shared("bsds500"), train=["train"], val=["val"])
        assert len(items) == count
        assert re.fullmatch("[0-9a-f]{64}", manifest_hash(items[:2]))
