"""`diffi2i app`: in a real browser, against what `diffi2i predict` writes; and what its buttons do, without one."""

import os
import re
import shutil
import signal
import socket
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from diffi2i import cli
from diffi2i.commands.desk import Desk, hole_of, shown
from diffi2i.commands.train import train
from diffi2i.config import compose
from diffi2i.config.commands import AppConfig
from diffi2i.config.schema import Config, TrainerConfig
from diffi2i.data.images import read_mask, read_rgb
from diffi2i.data.photos import Photo, read_photo, write_photo
from diffi2i.data.sources import photos
from diffi2i.kinds import depth, labels
from tests.conftest import small
from tests.processes import begun
from tests.refusals import command_refusal, refusal

ON_CPU = ("trainer=cpu", "trainer.precision=fp32", "trainer.threads=1")
CPU = TrainerConfig(accelerator="cpu", precision="fp32", threads=1)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
# Without a sandbox, as root has none; the rest is what a browser asks the network for by itself.
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def runs(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished run of a method with a sampler, and one that fills holes."""
    place, found = tmp_path_factory.mktemp("runs"), {}
    for task, method in (("sisr", "pixel_diffusion"), ("inpainting", "regressor")):
        words = [*small(task, images, method), f"run_dir={place / task}"]
        found[task] = train(compose.load(Config, "train", words))
    return found


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photo with all that a PNG can hold, a mask of it, one that is larger, and a file that is no picture."""
    folder = tmp_path_factory.mktemp("pictures")
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "maker", 6
    deep = np.random.default_rng(0).integers(0, 65536, (24, 32, 4), dtype=np.uint16)
    photo = Photo(deep[..., :3], deep[..., 3] | 0x8000, icc=SRGB, exif=exif.tobytes().removeprefix(b"Exif\0\0"))
    write_photo(photo, folder / "my photo.png", "png")
    for name, size in (("mask", (24, 32)), ("larger", (25, 32))):  # the photo is turned
        mask = np.zeros(size[::-1], np.uint8)
        mask[4:20, 6:18] = 255
        Image.fromarray(mask).save(folder / f"{name}.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    return folder


def predicted(run: Path, source: Path, target: Path, *words: str) -> bytes:
    """What `diffi2i predict` writes."""
    cli.main(["predict", f"run={run}", f"input={source}", f"output={target}", *ON_CPU, *words])
    return target.read_bytes()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        opened = started.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def address(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of the page, in a process of its own. It ends by Ctrl-C, in one line, and leaves nothing behind."""
    if missing := [name for name in ("gradio", "playwright") if find_spec(name) is None]:
        pytest.skip(f"{missing[0]} is not installed")
    if shutil.which("chromium") is None:
        pytest.skip("there is no chromium: apt-get install chromium")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("app")
    several = f"run=[{runs['sisr']},{runs['inpainting']}]"
    elsewhere = {"TMPDIR": str(folder), "http_proxy": "http://127.0.0.1:9"}  # a proxy that is not there
    process = begun(["app", several, f"port={port}", *ON_CPU], folder, elsewhere)
    try:
        while not (said := (process.out.seek(0), process.out.read())[1]).endswith("ends it\n"):
            assert not process.ends_within(0.2), process.ended().stderr
        assert said == f"http://127.0.0.1:{port}/ shows the page; Ctrl-C ends it\n"
        yield f"http://127.0.0.1:{port}/"
    finally:
        os.kill(process.pid, signal.SIGINT)
        answer = process.ended()
    assert answer.returncode == 130
    assert answer.stderr.splitlines() == ["diffi2i: interrupted; give the same command again to go on"]
    assert [*folder.iterdir()] == []


@pytest.fixture
def page(address: str, browser: Any) -> Iterator[Any]:
    """The page, opened in the browser, which asks nobody else for anything."""
    opened = browser.new_page(viewport={"width": 1300, "height": 900})
    asked: list[str] = []
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(address)
    yield opened
    opened.close()
    assert len(asked) > 10
    assert [url for url in asked if not url.startswith((address, f"blob:{address}", "data:"))] == []


def choose(page: Any, run: Path, picture: Path) -> None:
    """Chooses both on the page, and waits until the picture is shown."""
    page.get_by_label("Run").click()
    page.get_by_role("option", name=str(run)).click()
    page.locator("input[type=file]").first.set_input_files(picture)
    page.locator("canvas:visible, .image-container img:visible").first.wait_for()


def pressed(page: Any) -> bytes:
    """The file that is to be downloaded after `Restore`."""
    page.get_by_role("button", name="Restore").click()
    page.wait_for_function("[...document.querySelectorAll('textarea, input')].some(e => e.value.includes(' s on cpu'))")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    return Path(download.value.path()).read_bytes()


def test_what_is_uploaded_comes_back_as_predict_writes_it(
    page: Any, runs: dict[str, Path], pictures: Path, tmp_path: Path
) -> None:
    page.get_by_role("button", name="Settings").click()
    choose(page, runs["sisr"], pictures / "my photo.png")
    page.get_by_label("Steps").fill("3")
    got = pressed(page)
    words = ("set=[method.sampler.steps=3]",)
    assert got == predicted(runs["sisr"], pictures / "my photo.png", tmp_path / "out.png", *words)
    (tmp_path / "got.png").write_bytes(got)
    photo = read_photo(tmp_path / "got.png")
    assert photo.pixels.shape == (128, 96, 4)
    assert (photo.levels, photo.icc) == (65535, SRGB)
    assert photo.exif is not None
    assert b"maker" in photo.exif


def test_holes_are_those_of_a_file_or_painted(page: Any, runs: dict[str, Path], pictures: Path, tmp_path: Path) -> None:
    """And what is wrong is said in a line."""
    photo = pictures / "my photo.png"
    choose(page, runs["inpainting"], photo)
    page.get_by_role("button", name="Restore").click()
    page.get_by_text("there is no hole: paint one, or give a mask, white = hole").wait_for()

    holes = page.locator(".block", has_text="Or a file")
    holes.locator("input[type=file]").set_input_files(pictures / "larger.png")
    holes.get_by_text("larger").wait_for()
    page.get_by_role("button", name="Restore").click()
    page.get_by_text("larger.png is 25x32, its image my photo.png is 24x32: make them equal").wait_for()
    holes.get_by_label("Clear").click()
    holes.locator("input[type=file]").set_input_files(pictures / "mask.png")
    holes.get_by_text("mask").wait_for()
    assert pressed(page) == predicted(runs["inpainting"], photo, tmp_path / "out.png", f"mask={pictures / 'mask.png'}")

    chelsea = next(item.target for item in photos("train") if item.name == "chelsea")
    with page.expect_response(lambda response: response.url.endswith("picture.png")):
        page.locator(".gallery-item", has=page.locator("img[src*=chelsea]")).click()
    page.wait_for_timeout(1000)  # until it can be painted on
    page.get_by_label("Brush").first.click()
    place = page.locator("canvas").first.bounding_box()
    x, y = place["x"] + place["width"] / 2, place["y"] + place["height"] / 2
    page.mouse.move(x - 20, y)
    page.mouse.down()
    page.mouse.move(x + 20, y)
    page.mouse.up()
    (tmp_path / "painted.png").write_bytes(pressed(page))
    changed = (read_photo(tmp_path / "painted.png").colours != read_rgb(chelsea)).any(axis=2)
    assert changed[150, 215:235].all()
    assert 0 < changed.mean() < 0.1


def test_a_file_that_is_no_picture_is_named(page: Any, runs: dict[str, Path], pictures: Path) -> None:
    page.locator("input[type=file]").first.set_input_files(pictures / "broken.png")
    said = page.get_by_text("broken.png: not a readable image")
    said.wait_for()
    assert said.is_visible()


def desk_of(runs: dict[str, Path], folder: Path) -> Desk:
    return Desk(AppConfig(run=[str(run) for run in runs.values()], trainer=CPU), folder)


def test_samplers_tiles_and_seeds_are_those_of_predict(runs: dict[str, Path], pictures: Path, tmp_path: Path) -> None:
    run, photo, desk = str(runs["sisr"]), pictures / "my photo.png", desk_of(runs, tmp_path)
    assert desk.runs[run].name == f"sisr, pixel_diffusion: {run}"
    assert (desk.runs[run].steps, desk.runs[str(runs["inpainting"])].steps) == (4, 0)
    made = desk.restored(run, photo, None, None, "dpm_solver", 2, 64, "local", 5)
    got = made.file.read_bytes()
    changed = "set=[method.sampler={_target_: diffi2i.diffusion.samplers.dpm_solver, _partial_: true, steps: 2}]"
    assert got == predicted(runs["sisr"], photo, tmp_path / "a.png", changed, "tile=64", "tiling=local", "seed=5")
    assert got != predicted(runs["sisr"], photo, tmp_path / "b.png")
    assert re.fullmatch(r"\d+\.\d\d s on cpu: 24x32 to 96x128 pixels", made.said)


def test_both_pictures_of_the_slider_are_those_of_the_file(
    runs: dict[str, Path], pictures: Path, tmp_path: Path
) -> None:
    """The one before enlarged by the bicubic kernel, which Pillow's is too, but for the borders."""
    made = desk_of(runs, tmp_path).restored(str(runs["sisr"]), pictures / "my photo.png", None, None)
    before, after = (np.asarray(Image.open(place)).astype(int) for place in (made.before, made.after))
    source, file = (read_photo(place).pixels for place in (pictures / "my photo.png", made.file))
    assert (after == np.rint(file / 257)).all()
    for channel in range(4):
        plane = Image.fromarray(np.rint(source[..., channel] / 257).astype(np.float32))
        enlarged = np.asarray(plane.resize((96, 128), Image.Resampling.BICUBIC)).clip(0, 255)
        assert np.abs(before[8:-8, 8:-8, channel] - enlarged[8:-8, 8:-8]).max() < 0.51
    assert Image.open(made.after).info["icc_profile"] == SRGB


def test_what_is_transparent_is_the_hole_where_nothing_is_painted(runs: dict[str, Path], tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (16, 20, 4), dtype=np.uint8)
    pixels[..., 3] = 255
    pixels[4:10, 5:12, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "in.png")
    made = desk_of(runs, tmp_path).restored(str(runs["inpainting"]), tmp_path / "in.png", {"layers": []}, None)
    wanted = predicted(runs["inpainting"], tmp_path / "in.png", tmp_path / "out.png", "mask=alpha")
    assert made.file.read_bytes() == wanted


def test_what_is_painted_becomes_a_mask_of_the_pictures_size(tmp_path: Path) -> None:
    photo, layers = Photo(np.zeros((40, 60, 3), np.uint8)), np.zeros((2, 20, 30, 4), np.uint8)
    layers[0, 3:7, 4:9] = layers[1, 15, 20] = (232, 71, 63, 200)
    hole_of(photo, {"layers": [*layers]}, tmp_path / "mask.png")
    wanted = layers.any(axis=(0, 3)).repeat(2, axis=0).repeat(2, axis=1)
    assert (read_mask(tmp_path / "mask.png")[0, 0].numpy() == wanted).all()
    nothing: Any
    for nothing in (None, {"layers": []}, {"layers": [np.zeros((20, 30, 4), np.uint8)]}):
        assert "there is no hole: paint one" in refusal(hole_of, photo, nothing, tmp_path / "mask.png")


def test_a_screen_shows_eight_bits_of_at_most_so_many_pixels(tmp_path: Path) -> None:
    grey = np.full((30, 100, 3), 40_000, np.uint16)
    with Image.open(shown(Photo(grey, grey=True, icc=b"for grey"), tmp_path / "a.png", scale=2, most=50)) as picture:
        assert (picture.size, picture.mode, picture.getpixel((0, 0))) == ((50, 15), "RGB", (156, 156, 156))
        assert "icc_profile" not in picture.info


def test_labels_and_depth_are_shown_in_colours(tmp_path: Path) -> None:
    depth.save(torch.linspace(1, 5, 40).expand(1, 30, 40), (30, 40), tmp_path / "depth.png")
    colours = depth.shown(tmp_path / "depth.png").colours
    assert colours.shape == (30, 40, 3)
    assert colours[0, 0].tolist() == [68, 1, 84]  # viridis' ends
    assert colours[0, -1].tolist() == [253, 231, 37]
    logits = torch.rand(5, 30, 40, generator=torch.Generator().manual_seed(0))
    labels.save(logits, (30, 40), tmp_path / "labels.png")
    wanted = (255 * labels.colour_labels(logits.argmax(0))).round().permute(1, 2, 0)
    assert (labels.shown(tmp_path / "labels.png").colours == wanted.numpy()).all()


def test_want_of_memory_is_a_line_and_no_end(
    runs: dict[str, Path], pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    desk = desk_of(runs, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("diffi2i.restorer.Restorer.photo", too_large)
        line = refusal(desk.restored, str(runs["sisr"]), pictures / "my photo.png", None, None)
    assert "my photo.png: 24x32, for which memory is wanting" in line
    assert desk.restored(str(runs["sisr"]), pictures / "my photo.png", None, None).file.is_file()
    assert desk.bare(f"{tmp_path}/page/12ab/my photo.png: a {tmp_path}/last/x") == "my photo.png: a x"


def test_several_runs_are_a_list_of_paths_as_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("[c]").mkdir()
    for word, names in (
        ("a (1),b", ["a (1),b"]),
        ("[a (1), b=2,hf:user/name@v1]", ["a (1)", "b=2", "hf:user/name@v1"]),
        ("['a,b',c]", ["a,b", "c"]),
        ("[c]", ["[c]"]),
    ):
        assert compose.load(AppConfig, "app", [f"run={word}"]).run == names


@pytest.mark.skipif(find_spec("gradio") is None, reason="gradio is not installed")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "run is missing: write run=<value>"),
        (["run=[]"], "app needs a run: diffi2i app run=<run directory>"),
        (["run=nowhere"], "nowhere is no run directory"),
        (["run=a", "port=0"], "port=0 must be above 0"),
        (["run=a", "port=70000"], "port=70000 must be above 0, at most 65535"),
    ],
)
def test_refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in command_refusal(["app", *words], capsys)


def test_a_run_that_needs_the_ground_truth_is_refused(stage1: Path, tmp_path: Path) -> None:
    assert "needs the ground truth" in refusal(Desk, AppConfig(run=[str(stage1)], trainer=CPU), tmp_path)


def test_without_gradio_there_is_advice(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "the page needs Gradio: pip install 'diffi2i[app]'" in command_refusal(["app", "run=a"], capsys)
