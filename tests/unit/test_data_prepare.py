"""`diffi2i data prepare`: what is made of images, and how a batch of them goes on, ends and is refused."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from diffi2i import cli
from diffi2i.config.commands import ACTIONS, PREPARED, DataConfig
from diffi2i.data import workers
from diffi2i.data.dataset import EvalImages, ImageCache
from diffi2i.data.degrade import Bicubic, Inpaint
from diffi2i.data.given import images_at
from diffi2i.data.images import read_mask, read_rgb
from diffi2i.data.masks import FreeFormMask, narrow, wide
from diffi2i.data.photos import Photo, read_photo, write_photo
from diffi2i.data.prepare import PREPARATIONS, SubImages
from diffi2i.data.resize import to_uint8
from diffi2i.data.sources import folder, listed, pairs
from diffi2i.errors import LostProcessError, Note
from tests.examples import quick
from tests.refusals import command_refusal
from tests.unit.test_data_resize import matlab_rows

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def noise(path: Path, *shape: int, dtype: str = "uint8") -> Path:
    """A picture of random pixels, (H, W) or (H, W, 3 or 4)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng([*path.name.encode()]).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    colours = np.repeat(pixels[..., None], 3, 2) if len(shape) == 2 else pixels[..., :3]
    alpha = pixels[..., 3] if shape[2:] == (4,) else None
    write_photo(Photo(colours, alpha, grey=len(shape) == 2, icc=SRGB if len(shape) == 3 else None), path, "png")
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Pictures of odd sizes, one of them in a folder, one grey."""
    for name, shape in {"a": (41, 60, 3), "sub/b": (33, 25, 3), "grey": (40, 37)}.items():
        noise(tmp_path / "photos" / f"{name}.png", *shape)
    return tmp_path / "photos"


def prepare(what: str, source: Path | str, output: Path, *words: str) -> None:
    cli.main(["data", "prepare", what, f"input={source}", f"output={output}", *words])


def files(folder: Path) -> dict[str, bytes]:
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in sorted(folder.rglob("[!.]*"))
        if file.is_file()
    }


@quick
@given(length=st.integers(1, 400), size=st.integers(1, 130), step=st.integers(1, 130), thresh=st.integers(0, 60))
def test_crops_lie_where_basicsr_has_them(length: int, size: int, step: int, thresh: int) -> None:
    """Of all the places where a crop fits: every `step`th, and the last one unless `thresh` pixels may be lost."""
    step = min(step, size)
    starts = SubImages(size, step, thresh).starts(length)
    seen = np.zeros(length, bool)
    for start in starts:
        seen[start : start + size] = True
    places = [place for place in range(length) if place + size <= length]
    assert starts == sorted({*starts})
    if not places:
        assert starts == [0]
        return
    regular = [place for place in places if place % step == 0]
    lost = length - (max(regular) + size)
    assert starts == regular + ([max(places)] if lost > thresh else [])
    assert seen.all() or (~seen).sum() == lost <= thresh


@quick
@given(height=st.integers(8, 300), width=st.integers(8, 300), scale=st.sampled_from([2, 3, 4]))
def test_crops_of_large_and_small_images_show_the_same(height: int, width: int, scale: int) -> None:
    large, small = SubImages(24 * scale, 12 * scale, 6 * scale, scale), SubImages(24, 12, 6)
    corners = small.corners((height // scale, width // scale))
    assert large.corners((height, width)) == [(top * scale, left * scale) for top, left in corners]


def test_sub_images_are_cut_row_by_row_and_pair_by_their_names(photos: Path, tmp_path: Path) -> None:
    prepare("downsample", photos, tmp_path / "small", "scale=2")
    prepare("subimages", photos, tmp_path / "p" / "target", "size=24", "step=16", "scale=2")
    prepare("subimages", tmp_path / "small", tmp_path / "p" / "input", "size=12", "step=8", "name=NAMEx2")
    whole, small = read_rgb(photos / "a.png"), read_rgb(tmp_path / "small" / "ax2.png")
    found = {item.name: item for item in pairs("val", val_root=tmp_path / "p")}
    assert [name for name in found if name.startswith("a_")] == [f"a_s{i:03d}" for i in range(1, 9)]
    assert {"sub/b_s001", "sub/b_s002", "grey_s001"} <= found.keys()
    corners = [(top, left) for top in (0, 16) for left in (0, 16, 32, 36)]
    for i, (top, left) in enumerate(corners, start=1):
        item = found[f"a_s{i:03d}"]
        assert item.input is not None
        assert (read_rgb(item.target) == whole[top : top + 24, left : left + 24]).all()
        top, left = top // 2, left // 2
        assert (read_rgb(item.input) == small[top : top + 12, left : left + 12]).all()


def test_bits_alpha_grey_and_profile_stay(tmp_path: Path) -> None:
    source = tmp_path / "in"
    noise(source / "deep.png", 30, 40, 4, dtype="uint16")
    noise(source / "grey16.png", 30, 40, dtype="uint16")
    noise(source / "grey.png", 30, 40)
    Image.fromarray(read_rgb(source / "grey.png")).save(source / "j.jpg", exif=Image.Exif().tobytes() + b"x" * 9)
    prepare("subimages", source, tmp_path / "out", "size=24", "step=16")
    for name in ("deep", "grey16", "grey", "j"):
        (before,), after = source.glob(f"{name}.*"), read_photo(tmp_path / "out" / f"{name}_s004.png")
        photo = read_photo(before)
        assert (after.colours == photo.colours[6:30, 16:40]).all()
        assert (after.colours.dtype, after.grey, after.icc) == (photo.colours.dtype, photo.grey, photo.icc)
        assert after.exif is None
    deep = read_photo(tmp_path / "out" / "deep_s004.png")
    assert deep.alpha is not None
    assert (deep.alpha == read_photo(source / "deep.png").alpha[6:30, 16:40]).all()  # type: ignore[index]


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_small_images_are_the_inputs_that_the_task_makes(photos: Path, tmp_path: Path, scale: int) -> None:
    prepare("downsample", photos, tmp_path / "out", f"scale={scale}")
    items = folder("val", val_root=photos)
    made = EvalImages(items, Bicubic(scale), 0, ImageCache(1))
    for item, sample in zip(items, (made[i] for i in range(3)), strict=True):
        file = tmp_path / "out" / f"{item.name}x{scale}.png"
        assert torch.equal(to_uint8(sample["input"]), torch.from_numpy(read_rgb(file).transpose(2, 0, 1)))
    assert read_photo(tmp_path / "out" / f"greyx{scale}.png").grey


def test_sixteen_bits_are_downsampled_in_all_of_them(tmp_path: Path) -> None:
    photo = read_photo(noise(tmp_path / "deep.png", 26, 33, 4, dtype="uint16"))
    prepare("downsample", tmp_path / "deep.png", tmp_path / "out", "scale=4", "name=LR_NAME")
    small = read_photo(tmp_path / "out" / "LR_deep.png")
    for before, after in ((photo.colours, small.colours), (photo.alpha[..., None], small.alpha[..., None])):  # type: ignore[index]
        rows = matlab_rows(before[:24, :32].astype(np.float64), 1 / 4)
        exact = matlab_rows(rows.transpose(1, 0, 2), 1 / 4).transpose(1, 0, 2)
        assert after.dtype == np.uint16
        assert np.abs(after - exact.clip(0, 65535)).max() < 0.5 + 1e-6


@pytest.mark.parametrize(("words", "kinds"), [("masks=narrow", [narrow]), ("masks=[wide,narrow]", [wide, narrow])])
def test_masks_are_those_that_an_evaluation_draws(
    photos: Path, tmp_path: Path, words: str, kinds: list[Callable[[int], FreeFormMask]]
) -> None:
    prepare("masks", photos, tmp_path / "masks", words, "side=512", "seed=3")
    items = folder("val", val_root=photos)
    drawn = EvalImages(items, Inpaint([kind(512) for kind in kinds]), 3, ImageCache(1))
    for i, item in enumerate(items):
        assert torch.equal(read_mask(tmp_path / "masks" / f"{item.name}.png")[0], drawn[i]["mask"])
        with Image.open(tmp_path / "masks" / f"{item.name}.png") as mask:
            assert mask.mode == "L"


def test_lists_are_basicsrs_and_read_again(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (7, 5)).save(photos / "turned.png", exif=exif_turned())
    prepare("meta", photos, photos / "list.txt")
    text = (photos / "list.txt").read_text()
    assert text == "a.png (41,60,3)\ngrey.png (40,37,1)\nsub/b.png (33,25,3)\nturned.png (7,5,3)\n"
    assert [item.target for item in listed("val", photos, val="list.txt")] == [
        photos / name for name in ("a.png", "grey.png", "sub/b.png", "turned.png")
    ]
    assert images_at(str(photos / "list.txt")) == images_at(str(photos))
    words = ["data", "prepare", "meta", f"input={photos}"]
    assert "is there already" in command_refusal([*words, f"output={photos}/list.txt"], capsys)
    assert "ends in .txt" in command_refusal([*words, f"output={photos}/list"], capsys)
    (photos / "broken.png").write_bytes(b"x")
    with pytest.warns(Note, match=r"broken\.png"), pytest.raises(SystemExit, match="1"):
        cli.main([*words, f"output={photos}/list.txt", "overwrite=true"])
    assert (photos / "list.txt").read_text() == text


def exif_turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def test_a_batch_goes_on_where_it_stopped(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, words = tmp_path / "out", ("size=24", "step=16")
    prepare("subimages", photos, out, *words)
    first = files(out)
    kept, gone = out / "sub/b_s001.png", out / "a_s007.png"
    gone.unlink()
    before = kept.stat().st_mtime_ns
    prepare("subimages", photos, out, *words)
    assert "1 of 3 images prepared" in (said := capsys.readouterr().out)
    assert "2 were there (overwrite=true makes them anew)" in said
    assert kept.stat().st_mtime_ns == before
    os.utime(photos / "sub/b.png")  # younger now
    prepare("subimages", photos, out, *words)
    assert "1 of 3 images prepared" in capsys.readouterr().out
    assert kept.stat().st_mtime_ns > before
    assert files(out) == first
    prepare("subimages", photos, out, *words, "overwrite=true")
    assert "3 of 3 images prepared" in capsys.readouterr().out
    assert files(out) == first


def test_what_is_there_stays_as_it_is(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    prepare("downsample", photos, out)
    before = files(out)

    def refused(what: str, *words: str, output: Path = out) -> str:
        return command_refusal(["data", "prepare", what, f"input={photos}", f"output={output}", *words], capsys)

    capsys.readouterr()
    assert "has pictures of scale=4, not 2: name another" in refused("downsample", "scale=2")
    assert "has pictures of action=prepare downsample, not prepare masks" in refused("masks", "masks=wide")
    (out / ".diffi2i.json").unlink()
    assert "made with unknown settings" in refused("downsample")
    for output in (photos, photos / "sub", photos / "new"):
        assert "name another" in refused("masks", "masks=wide", output=output)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "sub").symlink_to(tmp_path)
    assert "leads out of" in refused("masks", "masks=wide", output=tmp_path / "mine")
    assert files(out) == before
    assert files(photos).keys() == {"a.png", "grey.png", "sub/b.png"}


def test_broken_files_are_named_at_the_end(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (photos / "cut.png").write_bytes((photos / "a.png").read_bytes()[:-60])
    (photos / "empty.png").touch()
    (photos / "dead.png").symlink_to("nowhere")
    with pytest.warns(Note) as notes, pytest.raises(SystemExit, match="1"):
        prepare("subimages", photos, tmp_path / "out", "size=24", "step=16")
    said = [str(note.message) for note in notes]
    assert len(said) == 3
    assert "dead.png: a link that leads nowhere" in said[0]
    assert "empty.png: the file is empty" in said[1]
    assert "cut.png: not a readable image" in said[2]
    assert "3 of 6 images prepared" in capsys.readouterr().out
    assert {name.partition("_")[0] for name in files(tmp_path / "out")} == {"a", "grey", "sub/b"}
    noise(photos / "tiny.png", 2, 30, 3)
    with pytest.warns(Note, match=r"tiny\.png: smaller than 4 pixels"), pytest.raises(SystemExit):
        prepare("downsample", photos / "tiny.png", tmp_path / "small")
    with pytest.warns(Note, match=r"a\.png: is not called NAMEx2"), pytest.raises(SystemExit):
        prepare("subimages", photos / "a.png", tmp_path / "named", "name=NAMEx2")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("subimages size=24 masks=wide", "masks belongs to data prepare masks, not to data prepare subimages"),
        ("masks masks=wide thresh=0", "thresh belongs to data prepare subimages, not to data prepare masks"),
        ("downsample dataset=photos", "dataset belongs to data check, not to data prepare downsample"),
        ("meta scale=2", "scale belongs to data prepare subimages and data prepare downsample"),
        ("masks", "masks is missing: write masks=narrow, medium or wide"),
        ("masks masks=training", "masks=training: choose one of narrow, medium, wide"),
        ("masks masks=wide side=300", "write side=256 or side=512"),
        ("masks masks=wide seed=-1", "seed=-1 lies from 0"),
        ("subimages size=24", "step=240 leaves gaps between sub-images of size=24"),
        ("subimages size=24 step=0", "step=0 must be above 0"),
        ("subimages size=24 step=12 scale=5", "must be multiples of scale=5"),
        ("subimages thresh=-1", "thresh=-1 must be 0 or more"),
        ("subimages name=x4", "write a name that holds the word NAME once"),
        ("downsample name=a/NAME", "write a name that holds the word NAME once"),
        ("downsample scale=1", "scale=1 makes nothing smaller"),
        ("downsample scale=x", "scale: "),
        ("downsample jobs=0", "jobs=0 must be above 0"),
        ("shrink", "data needs its action: write diffi2i data check"),
    ],
)
def test_settings_that_cannot_be(
    words: str, said: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = command_refusal(["data", "prepare", *words.split(), f"input={photos}", f"output={tmp_path / 'x'}"], capsys)
    assert said in line
    assert not (tmp_path / "x").exists()


def test_what_is_missing_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in ((["check"], "dataset"), (["prepare", "meta", "output=a"], "input")):
        assert f"{said} is missing: write diffi2i data" in command_refusal(["data", *words], capsys)
    assert "no such file or folder" in command_refusal(["data", "prepare", "meta", "input=x", "output=a.txt"], capsys)


def test_each_preparation_takes_the_keys_that_are_said_to_be_its_own() -> None:
    own = {action: tuple(field.name for field in fields(kind)) for action, kind in PREPARATIONS.items()}
    assert own | {"prepare meta": ()} == PREPARED
    assert {key for keys in ACTIONS.values() for key in keys} == {field.name for field in fields(DataConfig)} - {
        "action"
    }


@pytest.fixture
def forking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes are forked off this one, which has imported what they need."""
    monkeypatch.setattr(workers, "get_context", lambda _: multiprocessing.get_context("fork"))


@pytest.mark.usefixtures("forking")
def test_processes_make_the_same(photos: Path, tmp_path: Path) -> None:
    (photos / "cut.png").write_bytes((photos / "a.png").read_bytes()[:-60])
    for jobs in ("1", "2"):
        with pytest.warns(Note, match=r"cut\.png"), pytest.raises(SystemExit, match="1"):
            prepare("subimages", photos, tmp_path / jobs, "size=24", "step=16", f"jobs={jobs}")
    assert files(tmp_path / "1") == files(tmp_path / "2")


@pytest.mark.usefixtures("forking")
def test_processes_keep_the_order_and_end_with_the_work(tmp_path: Path) -> None:
    with workers.working(2) as run:
        assert list(run(slowly, range(9))) == [number**2 for number in range(9)]
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        give_up(tmp_path)
    assert time.monotonic() - start < 20
    assert multiprocessing.active_children() == []
    assert [*tmp_path.iterdir()] == []
    with pytest.raises(LostProcessError, match="perhaps for want of memory"), workers.working(2) as run:
        [*run(dies, [1])]


def give_up(folder: Path) -> None:
    with workers.working(2) as run:
        for _ in run(clears_up, [folder / str(i) for i in range(9)]):
            raise KeyboardInterrupt


def slowly(number: int) -> int:
    time.sleep(0.02 * (number % 3))
    return number**2


def clears_up(file: Path) -> None:
    """The first piece waits for the others, which are at it when they are told to end."""
    if file.name == "0":
        while not file.with_name("1").exists():
            time.sleep(0.02)
        return
    file.touch()
    try:
        time.sleep(60)
    finally:
        file.unlink()


def dies(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
