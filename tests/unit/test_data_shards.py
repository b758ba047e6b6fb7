"""Images inside tars: the same samples as from folders, and every odd tar refused in one line."""

import gzip
import io
import os
import pickle
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffi2i.commands.train import train
from diffi2i.config.compose import load
from diffi2i.config.schema import Config
from diffi2i.data.build import build_data
from diffi2i.data.dataset import Draw
from diffi2i.data.manifest import ChangedError, manifest_hash
from diffi2i.data.shards import shards
from diffi2i.data.sources import IncompleteError, folder
from diffi2i.errors import UserError
from tests.conftest import Make
from tests.interruption import InterruptedRunError, stop_before_step
from tests.runs import weights


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DIFFI2I_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def picture(seed: int, side: int = 40) -> bytes:
    written = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(written, "PNG")
    return written.getvalue()


def pack(tar: Path, files: Mapping[str, bytes]) -> Path:
    tar.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(tar, "w") as opened:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            opened.addfile(entry, io.BytesIO(content))
    return tar


@pytest.fixture
def both(tmp_path: Path) -> tuple[Path, Path]:
    """The same images as folders, train/ and val/, and as tars, two of them for training."""
    pictures = {f"a/{i:02}.png": picture(i) for i in range(8)}
    names = sorted(pictures)
    for part, some in (("train", names[:6]), ("val", names[6:])):
        for name in some:
            file = tmp_path / "folders" / part / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(pictures[name])
    other = {"a/00.json": b"{}", "a/._01.png": b"x", ".hidden.png": b"x"}
    pack(tmp_path / "tars" / "train-0.tar", {name: pictures[name] for name in names[:3]} | other)
    pack(tmp_path / "tars" / "train-1.tar", {f"./{name}": pictures[name] for name in names[3:6]})
    pack(tmp_path / "tars" / "val.tar", {name: pictures[name] for name in names[6:]})
    return tmp_path / "folders", tmp_path / "tars"


def of(config: Config, tars: Path) -> Config:
    config.dataset.source = load(Config, "train", ["dataset=shards", f"root={tars}"]).dataset.source
    return config


def test_they_are_the_folders_images(both: tuple[Path, Path]) -> None:
    folders, tars = both
    for split in ("train", "val"):
        ours, theirs = shards(split, tars), folder(split, folders / "train", folders / "val")
        assert [item.name for item in ours] == [item.name for item in theirs]
        assert manifest_hash(ours) == manifest_hash(theirs)
    assert pickle.loads(pickle.dumps(ours)) == ours  # as loader workers get them


def test_samples_and_a_resumed_training_are_the_same_in_every_bit(
    both: tuple[Path, Path], make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders, tars = both
    of_folders = make("of-folders", f"root={folders / 'train'}", f"dataset.source.val_root={folders / 'val'}")
    of_tars = of(make("of-tars", "dataset.workers=1"), tars)
    data = [build_data(config) for config in (of_folders, of_tars)]
    for each in data:
        each.setup("fit")
    for draw in (Draw(0, 0, 32), Draw(3, 1, 32)):
        one, two = (each.train_set[draw] for each in data)
        assert one["name"] == two["name"]
        assert torch.equal(one["input"], two["input"])
        assert torch.equal(one["target"], two["target"])
    with monkeypatch.context() as patch:
        stop_before_step(3, patch)
        with pytest.raises(InterruptedRunError):
            train(of_tars)
    ours, theirs = weights(train(of_tars)), weights(train(of_folders))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_pairs_lie_side_by_side(tmp_path: Path) -> None:
    files = {"01.input.jpg": picture(1), "01.gt.png": picture(2), "02.gt.png": picture(4), "02.input.png": picture(3)}
    pack(tmp_path / "train.tar", files | {"01.caption.txt": b"a"})
    items = shards("train", tmp_path, val=[], target="NAME.gt", input="NAME.input")
    assert [(item.name, str(item.input), str(item.target)) for item in items] == [
        (name, f"{tmp_path}/train.tar:{name}.input.{suffix}", f"{tmp_path}/train.tar:{name}.gt.png")
        for name, suffix in (("01", "jpg"), ("02", "png"))
    ]
    pack(tmp_path / "val.tar", {"03.gt.png": picture(1), **files})
    with pytest.raises(IncompleteError, match=r"1 file\(s\) without a partner .*03\.gt\.png") as caught:
        shards("val", tmp_path, target="NAME.gt", input="NAME.input")
    assert [item.name for item in caught.value.items] == ["01", "02"]


def test_what_lies_in_a_tar_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tar = pack(tmp_path / "train.tar", {"1.png": picture(1)})
    first = shards("train", tmp_path, val=[])
    with monkeypatch.context() as patch:
        patch.setattr(tarfile, "open", None)
        assert shards("train", tmp_path, val=[]) == first
    pack(tar, {"2.png": picture(2), "3.png": picture(3)})
    os.utime(tar, ns=(1, 1))
    assert [item.name for item in shards("train", tmp_path, val=[])] == ["2", "3"]
    for kept in (tmp_path / "cache" / "tars").iterdir():
        kept.write_text("[1")  # damaged
    assert [item.name for item in shards("train", tmp_path, val=[])] == ["2", "3"]


def test_a_tar_that_changes_while_it_is_used_is_named(both: tuple[Path, Path], make: Make) -> None:
    _, tars = both
    data = build_data(of(make("run"), tars))
    data.setup("fit")
    tar = tars / "train-1.tar"
    content = bytearray(tar.read_bytes())
    content[600:700] = bytes(100)
    tar.write_bytes(content)
    (tars / "train-0.tar").unlink()
    with pytest.raises(ChangedError, match=r"train-[01]\.tar:.*has been changed or removed"):
        _ = [data.train_set[Draw(0, index, 32)] for index in range(8)]


ONE = {"1.png": picture(1)}


@pytest.mark.parametrize(
    ("files", "words", "said"),
    [
        ({}, {}, r"no tar file fits train\*\.tar; put it there or write dataset\.source\.train="),
        ({"train.tar": b"no tar"}, {}, r"train\.tar is no whole tar file .*copy it again"),
        ({"train.tar": b""}, {}, r"train\.tar is no whole tar file"),
        ({"train.tar": gzip.compress(b"x" * 999)}, {}, r"train\.tar is compressed.*unpack it"),
        ({"train.tar": "cut"}, {}, r"train\.tar is no whole tar file .*copy it again"),
        ({"train.tar": {"1.txt": b"x"}}, {}, r"no image is called NAME, but nothing"),
        ({"train.tar": {"1.hr.png": b"x"}}, {}, r"no image is called NAME, but NAME\.hr"),
        ({"train.tar": ONE, "train2.tar": ONE}, {}, r"train2\.tar:1\.png has the name of .*train\.tar:1\.png"),
        ({"train.tar": ONE}, {"val": ["*.tar"]}, r"train\.tar is of both splits"),
        ({"train.tar": ONE}, {"train": ["../*.tar"]}, r"leads out of"),
        ({"train.tar": ONE}, {"train": ["/*.tar"]}, r"leads out of"),
        ({"train.tar": ONE}, {"train": []}, r"has no train split"),
        ({"train.tar": {"a\nb.png": b"x"}}, {}, r"cannot be printed"),
    ],
)
def test_odd_tars_are_refused_in_one_line(tmp_path: Path, files: dict, words: dict, said: str) -> None:  # type: ignore[type-arg]
    for name, content in files.items():
        if isinstance(content, bytes):
            (tmp_path / name).write_bytes(content)
        elif content == "cut":
            whole = pack(tmp_path / name, {"1.png": picture(1), "2.png": picture(2, 200)}).read_bytes()
            (tmp_path / name).write_bytes(whole[:50_000])
        else:
            pack(tmp_path / name, content)
    with pytest.raises(UserError, match=said) as caught:
        shards("train", tmp_path, **({"val": []} | words))
    assert "\n" not in str(caught.value)


def test_a_root_is_asked_for() -> None:
    with pytest.raises(UserError, match="write root=<folder of tar files>"):
        shards("train")
