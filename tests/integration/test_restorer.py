"""`diffi2i.load`, and what `diffi2i predict` makes of photos of all kinds and sizes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

import diffi2i
from diffi2i import Restorer, cli
from diffi2i.commands import train
from diffi2i.config.schema import TrainerConfig
from diffi2i.data.photos import read_photo
from diffi2i.errors import Note, UserError
from diffi2i.methods.diffi2i_s2 import DiffI2IS2
from tests.conftest import Make
from tests.refusals import command_refusal

CPU = TrainerConfig(accelerator="cpu", precision="fp32", threads=1)
ON_CPU = ("trainer=cpu", "trainer.precision=fp32", "trainer.threads=1")
RNG = np.random.default_rng(0)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.fixture(scope="module")
def module_make(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Make:
    from diffi2i.config import compose
    from tests.conftest import composed, small

    place = tmp_path_factory.mktemp("runs")

    def build(name: str, task: str, method: str, *others: str) -> Any:
        config = composed(compose.conf_dir(), *small(task, images, method), *others, f"run_dir={place / name}")
        config.run_dir = str(place / name)
        return config

    return build


@pytest.fixture(scope="module")
def runs(module_make: Make) -> dict[str, Path]:
    """A finished stage 2 by task, and a regressor."""
    found = {}
    for task in ("sisr", "inpainting", "depth"):
        first = train.train(module_make(f"{task}-1", task, "diffi2i_s1"))
        found[task] = train.train(module_make(f"{task}-2", task, "diffi2i_s2", f"method.init={first}"))
    found["pixel"] = train.train(module_make("pixel", "deblur", "pixel_diffusion"))
    return found


@pytest.fixture(scope="module")
def restorer(runs: dict[str, Path]) -> Restorer:
    return diffi2i.load(runs["sisr"], trainer=CPU)


def test_pictures_arrays_and_tensors_are_restored_alike(restorer: Restorer) -> None:
    pixels = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    array = restorer(pixels)
    assert array.dtype == np.uint8
    assert array.shape == (80, 120, 3)
    assert (np.asarray(restorer(Image.fromarray(pixels))) == array).all()
    floats = restorer(pixels.astype(np.float32) / 255)
    assert (np.rint(255 * floats) == array).all()
    tensor = torch.from_numpy(pixels.transpose(2, 0, 1)).float() / 255
    assert torch.equal(restorer(tensor), torch.from_numpy(floats.transpose(2, 0, 1)))
    both = restorer(torch.stack([tensor, tensor.flip(-1)]))
    assert torch.equal(both[0], restorer(tensor))
    for wrong in (pixels[..., 0], pixels[..., :2]):
        with pytest.raises(ValueError, match=r"must be \(H, W, 3\)"):
            restorer(wrong)
    with pytest.raises(ValueError, match=r"must be \(3, H, W\)"):
        restorer(tensor[:2])
    sixteen = restorer(pixels.astype(np.uint16) * 257)
    assert sixteen.dtype == np.uint16
    assert np.abs(sixteen / 257 - array).max() <= 0.51


def test_a_hole_is_filled_and_the_rest_stays(runs: dict[str, Path]) -> None:
    restorer = diffi2i.load(runs["inpainting"], trainer=CPU)
    pixels, hole = RNG.integers(0, 256, (32, 40, 3), dtype=np.uint8), np.zeros((32, 40), np.uint8)
    hole[5:20, 10:30] = 255
    filled = restorer(pixels, hole)
    assert (filled[hole == 0] == pixels[hole == 0]).all()
    assert (filled[hole > 0] != pixels[hole > 0]).any()
    assert (np.asarray(restorer(Image.fromarray(pixels), Image.fromarray(hole))) == filled).all()
    tensors = [torch.from_numpy(each.transpose(2, 0, 1)).float() / 255 for each in (pixels, hole[..., None])]
    assert (np.rint(255 * restorer(*tensors).numpy()).transpose(1, 2, 0) == filled).all()
    with pytest.raises(UserError, match="needs the holes"):
        restorer(pixels)
    with pytest.raises(UserError, match="the mask is 40x31, the image 40x32"):
        restorer(pixels, hole[1:])


def test_depth_comes_in_metres(runs: dict[str, Path]) -> None:
    restorer = diffi2i.load(runs["depth"], trainer=CPU)
    pixels = RNG.integers(0, 256, (64, 80, 3), dtype=np.uint8)
    metres = restorer(pixels)
    assert metres.shape == (64, 80)
    assert metres.dtype == np.float32
    millimetres: Any = np.asarray(restorer(Image.fromarray(pixels)))
    assert np.abs(1000 * metres - millimetres).max() <= 0.51
    with pytest.raises(UserError, match="leave out the mask"):
        diffi2i.load(runs["sisr"], trainer=CPU)(pixels, pixels[..., 0])


@pytest.mark.parametrize(
    ("run", "tiling"), [("sisr", "exact"), ("inpainting", "exact"), ("sisr", "local"), ("pixel", "exact")]
)
def test_a_large_image_is_restored_in_parts(runs: dict[str, Path], run: str, tiling: Any) -> None:
    """Exactly as the whole where the network can, nearly so where tiles see another mean."""
    pixels = RNG.integers(0, 256, (25, 20, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(pixels).resize((200, 250), Image.Resampling.BICUBIC))
    mask = None
    if run == "inpainting":
        mask = np.zeros(smooth.shape[:2], np.uint8)
        mask[50:150, 30:120] = 255
    whole, parts = (diffi2i.load(runs[run], trainer=CPU, tile=tile, tiling=tiling) for tile in (100_000, 64))
    one, two = whole(smooth, mask).astype(int), parts(smooth, mask).astype(int)
    difference = np.abs(one - two)
    if tiling == "exact" and run != "pixel":
        assert (difference <= 1).mean() > 0.999
        assert difference.max() <= 2
    elif run == "sisr":
        assert difference.mean() < 5
    # No seam: across the borders of tiles neighbours differ as they do elsewhere.
    steps = np.abs(np.diff(two, axis=0)).mean((1, 2))
    assert steps.max() < 4 * max(1, np.median(steps)) or run == "inpainting"


def test_parts_are_halved_when_memory_runs_out(runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    restorer = diffi2i.load(runs["sisr"], trainer=CPU)
    pixels = RNG.integers(0, 256, (200, 160, 3), dtype=np.uint8)
    whole = restorer(pixels)

    def too_large(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(DiffI2IS2, "predict", too_large)
    with pytest.warns(Note, match="memory is wanting: restored in parts of 96 pixels"):
        parts = restorer(pixels)
    assert (np.abs(parts.astype(int) - whole) <= 1).mean() > 0.999


def test_little_free_memory_asks_for_parts(restorer: Restorer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert restorer.side(2000, 1500) is None
    monkeypatch.setattr("diffi2i.restorer.free_memory", lambda *_: 100 << 20)
    side = restorer.side(2000, 1500)
    assert side is not None
    assert 64 <= side < 1500
    assert side % 8 == 0


def test_features_that_do_not_fit_the_memory_are_not_kept(
    runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then tiles are predicted by themselves, and a note says so."""
    pixels = RNG.integers(0, 256, (120, 90, 3), dtype=np.uint8)
    exact, local = (diffi2i.load(runs["sisr"], trainer=CPU, tile=64, tiling=tiling) for tiling in ("exact", "local"))
    width: Any = exact.method.network.embed.out_channels  # type: ignore[union-attr]
    needed = 2 * width * 4 * 120 * 90
    monkeypatch.setattr("diffi2i.restorer.free_memory", lambda *_: int(needed / 0.6) - 1)
    with pytest.warns(Note, match=r"tiling=exact keeps .* GiB are free: restored as tiling=local does"):
        found = exact(pixels)
    assert (found == local(pixels)).all()
    monkeypatch.setattr("diffi2i.restorer.free_memory", lambda *_: int(needed / 0.6) + 1)
    assert not (exact(pixels) == found).all()


def predicting(run: Path, source: Path | str, output: Path, *words: str) -> list[str]:
    return ["predict", f"run={run}", f"input={source}", f"output={output}", *ON_CPU, *words]


@pytest.mark.filterwarnings("ignore::diffi2i.errors.Note")
@pytest.mark.parametrize("form", ["png", "jpeg", "webp", "tiff"])
def test_bits_alpha_grey_profile_and_exif_are_kept(runs: dict[str, Path], tmp_path: Path, form: str) -> None:
    from diffi2i.data.photos import Photo, write_photo

    photos = tmp_path / "in" / "sub"
    photos.mkdir(parents=True)
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "maker", 6
    Image.fromarray(RNG.integers(0, 256, (10, 14, 4), dtype=np.uint8)).save(
        photos / "alpha.png", icc_profile=SRGB, exif=exif
    )
    Image.fromarray(RNG.integers(0, 256, (10, 14), dtype=np.uint8)).save(photos / "grey.png")
    deep = RNG.integers(0, 65536, (10, 14, 3), dtype=np.uint16)
    write_photo(Photo(deep, icc=SRGB), photos / "deep.png", "png")
    cli.main(predicting(runs["sisr"], tmp_path / "in", tmp_path / "out", f"format={form}"))
    suffix = {"jpeg": "jpg", "tiff": "tif"}.get(form, form)
    found = {name: read_photo(tmp_path / "out" / "sub" / f"{name}.{suffix}") for name in ("alpha", "grey", "deep")}
    assert found["alpha"].colours.shape == (56, 40, 3)  # turned
    assert found["alpha"].icc == found["deep"].icc == SRGB
    assert (found["alpha"].alpha is None) == (form == "jpeg")
    assert found["alpha"].exif is not None
    assert found["grey"].grey or form == "webp"
    assert found["deep"].levels == (65535 if form in ("png", "tiff") else 255)


def test_what_is_done_is_passed_over_and_other_settings_are_refused(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(5):
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(tmp_path / "in" / f"{i}.png")
    words = predicting(runs["sisr"], tmp_path / "in", tmp_path / "out")
    cli.main([*words, "shard=2/3"])
    assert sorted(file.name for file in (tmp_path / "out").glob("[!.]*")) == ["1.png", "4.png"]
    before = (tmp_path / "out" / "1.png").stat().st_mtime_ns
    cli.main(words)
    assert "3 of 5 images restored" in (said := capsys.readouterr().out)
    assert "2 were there (overwrite=true makes them anew)" in said
    assert (tmp_path / "out" / "1.png").stat().st_mtime_ns == before
    assert "pictures of seed=0, not 1: name another" in command_refusal([*words, "seed=1"], capsys)
    cli.main([*words, "seed=1", "overwrite=true"])
    assert "5 of 5 images restored" in capsys.readouterr().out
    assert (tmp_path / "out" / "1.png").stat().st_mtime_ns > before
    Image.fromarray(RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(tmp_path / "in" / "3.png")  # younger now
    cli.main([*words, "seed=1"])
    assert "1 of 5 images restored" in capsys.readouterr().out


def test_the_same_pixels_give_the_same_output_whatever_the_name(runs: dict[str, Path], tmp_path: Path) -> None:
    pixels = RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    for name in ("a.png", "b.bmp"):
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "in" / name)
    cli.main(predicting(runs["pixel"], tmp_path / "in", tmp_path / "out"))
    one, two = ((tmp_path / "out" / f"{name}.png").read_bytes() for name in "ab")
    assert one == two
    cli.main(predicting(runs["pixel"], tmp_path / "in" / "a.png", tmp_path / "other.png", "seed=1"))
    assert (tmp_path / "other.png").read_bytes() != one


def test_patterns_and_lists(runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a/1.png", "a/b/2.jpg", "c/1.png", "a/note.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("txt"):
            (tmp_path / name).write_text("x")
        else:
            Image.fromarray(RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(tmp_path / name)
    cli.main(predicting(runs["sisr"], f"{tmp_path}/a/**/*", tmp_path / "one"))
    assert sorted(str(file.relative_to(tmp_path / "one")) for file in (tmp_path / "one").rglob("*.png")) == [
        "1.png",
        "b/2.png",
    ]
    (tmp_path / "list.txt").write_text("a/1.png\n\nc/1.png\n")
    cli.main(predicting(runs["sisr"], tmp_path / "list.txt", tmp_path / "two"))
    assert sorted(str(file.relative_to(tmp_path / "two")) for file in (tmp_path / "two").rglob("*.png")) == [
        "a/1.png",
        "c/1.png",
    ]
    (tmp_path / "list.txt").write_text(f"../{tmp_path.name}/a/1.png\n../{tmp_path.name}/c/1.png\n")
    assert "has the name of" in command_refusal(
        predicting(runs["sisr"], tmp_path / "list.txt", tmp_path / "three"), capsys
    )
    for source in ("nothing/*.png", "list2.txt"):
        assert "no such file" in command_refusal(predicting(runs["sisr"], tmp_path / source, tmp_path / "four"), capsys)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tile=50"], "multiple of 8 from 64 on"),
        (["tile=100"], "multiple of 8 from 64 on"),
        (["shard=0/4"], "shard=0/4: write <which>/<of how many>"),
        (["shard=5/4"], "shard=5/4: write <which>/<of how many>"),
        (["format=gif"], "format=gif: choose one of png, jpeg, webp, tiff"),
        (["alpha=drop"], "alpha=drop: choose one of copy, restore"),
        (["tiling=none"], "tiling=none: choose one of exact, local"),
    ],
)
def test_settings_that_cannot_be(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in command_refusal(predicting(Path("run"), "in", Path("out"), *words), capsys)


def test_a_mask_may_be_the_alpha(runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pixels = RNG.integers(0, 256, (16, 20, 4), dtype=np.uint8)
    pixels[..., 3] = 255
    pixels[4:10, 5:12, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "in.png")
    cli.main(predicting(runs["inpainting"], tmp_path / "in.png", tmp_path / "out.png", "mask=alpha"))
    filled = np.asarray(Image.open(tmp_path / "out.png"))
    assert filled.shape == (16, 20, 3)
    assert (filled[pixels[..., 3] > 0] == pixels[..., :3][pixels[..., 3] > 0]).all()
    Image.fromarray(pixels[..., :3]).save(tmp_path / "plain.png")
    words = predicting(runs["inpainting"], tmp_path / "plain.png", tmp_path / "no.png", "mask=alpha")
    assert "has no alpha that could be its mask" in command_refusal(words, capsys)


def test_alpha_may_be_restored(runs: dict[str, Path], tmp_path: Path) -> None:
    Image.fromarray(RNG.integers(0, 256, (8, 8, 4), dtype=np.uint8)).save(tmp_path / "in.png")
    for alpha in ("copy", "restore"):
        cli.main(predicting(runs["sisr"], tmp_path / "in.png", tmp_path / f"{alpha}.png", f"alpha={alpha}"))
    one, two = (np.asarray(Image.open(tmp_path / f"{alpha}.png")) for alpha in ("copy", "restore"))
    assert (one[..., :3] == two[..., :3]).all()
    assert one.shape == two.shape == (32, 32, 4)
    assert (one[..., 3] != two[..., 3]).any()


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """A second of moving pictures, 32x26, and of sound."""
    av = pytest.importorskip("av")
    place = tmp_path / "film.mp4"
    with av.open(str(place), "w") as made:
        pictures, sound = made.add_stream("mpeg4", rate=10), made.add_stream("aac", rate=8000)
        pictures.width, pictures.height, pictures.pix_fmt = 32, 26, "yuv420p"
        base = np.random.default_rng(1).integers(0, 256, (4, 5, 3), dtype=np.uint8)
        for i in range(10):
            still = np.asarray(Image.fromarray(np.roll(base, i, 1)).resize((32, 26), Image.Resampling.BICUBIC))
            made.mux(pictures.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(still), format="rgb24")))
        wave = (8000 * np.sin(np.arange(8000) / 5)).astype(np.int16)[None]
        heard = av.AudioFrame.from_ndarray(wave, format="s16", layout="mono")
        heard.sample_rate, heard.pts = 8000, 0
        for packet in (*sound.encode(heard), *sound.encode(None), *pictures.encode(None)):
            made.mux(packet)
    return place


def of_film(file: Path) -> tuple[list[Any], bytes, Any]:
    """Its pictures, its sound as it is packed, and its pictures a second."""
    import av

    with av.open(str(file)) as opened:
        pictures = [frame.to_ndarray(format="rgb24") for frame in opened.decode(video=0)]
        rate = opened.streams.video[0].average_rate
    with av.open(str(file)) as opened:
        return pictures, b"".join(bytes(packet) for packet in opened.demux(audio=0)), rate


def test_a_film_is_restored_frame_by_frame_and_keeps_its_sound(
    runs: dict[str, Path], film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = predicting(runs["sisr"], film, tmp_path / "out" / "film.mkv")
    cli.main(words)
    (before, sound, rate), (after, same, again) = of_film(film), of_film(tmp_path / "out" / "film.mkv")
    assert len(after) == len(before) == 10
    assert (same, again) == (sound, rate)
    assert after[0].shape == (104, 128, 3)
    restorer = diffi2i.load(runs["sisr"], trainer=CPU)
    for one, other in zip(before, after, strict=True):
        assert np.abs(restorer.pixels(one, None, 0, "film").astype(float) - other).mean() < 6  # what the codec loses
    assert "is there already" in command_refusal(words, capsys)
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["film.mkv"]


def test_films_that_cannot_be_restored_are_refused_in_one_line(
    runs: dict[str, Path], film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.mp4").write_bytes(film.read_bytes()[:200])
    for run, source, output, said in (
        ("sisr", tmp_path / "broken.mp4", "a.mp4", "cannot be restored as a film"),
        ("sisr", film, "a.png", "name a film, such as"),
        ("depth", film, "a.mp4", "give a folder of its frames"),
        ("inpainting", film, "a.mp4", "needs the holes"),
    ):
        assert said in command_refusal(predicting(runs[run], source, tmp_path / output), capsys)
    assert not (tmp_path / "a.mp4").exists()


@pytest.mark.parametrize("name", ["a.heic", "a.gif", "a.avif"])
def test_a_file_of_a_format_that_is_not_written_is_refused(
    runs: dict[str, Path], images: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = predicting(runs["sisr"], images / "image00.png", tmp_path / name)
    assert "no such picture is written: name a .png" in command_refusal(words, capsys)
    assert not (tmp_path / name).exists()
