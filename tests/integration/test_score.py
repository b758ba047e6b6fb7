"""`diffi2i score`: folders of each kind against independent numbers, files that do not fit, the record and the CSV."""

import csv
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from diffi2i import cli
from diffi2i.commands import train
from diffi2i.data.images import to_tensor
from diffi2i.data.resize import imresize
from diffi2i.run.record import Record
from diffi2i.weights import lpips_trunk
from tests.conftest import Make
from tests.refusals import command_refusal

PLAIN = ("task=deblur", "task.protocol.metrics=[psnr,psnr_y,ssim,ssim_y]", "trainer=cpu")
LABELS = ("task=segmentation", "trainer=cpu")
DEPTH = ("task=depth", "trainer=cpu")
Array = npt.NDArray[Any]
# Untyped in scikit-image.
psnr_of: Callable[..., float] = peak_signal_noise_ratio
ssim_of: Callable[..., tuple[float, Array]] = structural_similarity


def picture(seed: int, height: int = 24, width: int = 30) -> Array:
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def noisy(image: Array, seed: int, sigma: float = 8) -> Array:
    return (image + np.random.default_rng(seed).normal(0, sigma, image.shape)).clip(0, 255).round().astype(np.uint8)


def save(file: Path, array: Array) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".npy":
        np.save(file, array)
    else:
        Image.fromarray(array).save(file, lossless=True)  # WebP; other formats know no such option
    return file


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """`pred` and `target` with three pairs of photos, one of them in a folder of its own."""
    for seed, name in enumerate(("a", "b", "sub/c")):
        save(tmp_path / "target" / f"{name}.png", picture(seed))
        save(tmp_path / "pred" / f"{name}.png", noisy(picture(seed), seed + 10))
    return tmp_path


def command(root: Path, *arguments: str) -> list[str]:
    output = root / "out" / "scores.json"
    return ["score", f"pred={root / 'pred'}", f"target={root / 'target'}", f"output={output}", *arguments]


def score(root: Path, *arguments: str) -> Any:
    """The `Record` that is written."""
    cli.main(command(root, *arguments))
    return Record.read(root / "out" / "scores.json")


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """`refused(root, ...)` gives the one line on stderr."""

    def run(root: Path, *arguments: str) -> str:
        line = command_refusal(command(root, *arguments), capsys)
        assert not (root / "out" / "scores.json").exists()
        return line

    return run


def names(record: Record) -> list[str | float]:
    return [image["name"] for image in record.images]


def test_images_have_scikit_images_scores(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = score(folders, *PLAIN)
    assert names(record) == ["a", "b", "sub/c"]
    for image in record.images:
        pred, target = (
            np.asarray(Image.open(folders / side / f"{image['name']}.png")).astype(np.float64) / 255
            for side in ("pred", "target")
        )
        assert image["psnr"] == pytest.approx(psnr_of(target, pred, data_range=1), abs=1e-5)
        options: dict[str, Any] = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "full": True}
        full = ssim_of(target, pred, data_range=1, channel_axis=2, **options)[1]
        assert image["ssim"] == pytest.approx(full[5:-5, 5:-5].mean(), abs=1e-4)
    psnr = [image["psnr"] for image in record.images]
    assert record.scores["psnr"].value == pytest.approx(np.mean(psnr))
    assert record.scores["psnr"].n == 3
    low, high = record.scores["psnr"].low, record.scores["psnr"].high
    # Of three images, one in 27 resamples is three times the worst: more than the 2.5 % that are cut off.
    assert [low, high] == pytest.approx([min(psnr), max(psnr)])
    assert record.scores["psnr"].baseline is None
    assert (record.task, record.main_metric) == ("deblur", "psnr")
    assert (record.method, record.cost, record.training, record.budget, record.seed) == (None,) * 5
    assert len(record.data.val) == 64
    assert record.provenance.versions["torch"] == torch.__version__.partition("+")[0]
    printed = capsys.readouterr().out
    assert re.search(rf"\| PSNR ↑ +\| +{record.scores['psnr'].value:.2f} \|", printed)
    assert f"[{low:.2f}, {high:.2f}]" in printed


def test_each_image_is_a_line_of_the_csv(folders: Path) -> None:
    save(folders / "pred" / "small.png", picture(5, 8, 8))  # too small for SSIM
    save(folders / "target" / "small.png", picture(6, 8, 8))
    record = score(folders, *PLAIN)
    with (folders / "out" / "scores.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["name"] for line in lines] == ["a", "b", "small", "sub/c"] == names(record)
    assert list(lines[0]) == ["name", "psnr", "psnr_y", "ssim", "ssim_y"]
    for line, image in zip(lines, record.images, strict=True):
        assert {key: float(value) for key, value in line.items() if key != "name" and value} == {
            key: value for key, value in image.items() if key != "name"
        }
    assert lines[2]["ssim"] == ""


def test_the_protocol_is_the_tasks_and_can_be_changed(folders: Path) -> None:
    metrics = PLAIN[1]
    own = score(folders, "task=sisr", metrics, "trainer=cpu")
    assert own.data.protocol["border"] == 4
    cropped = score(folders, "task=sisr", metrics, "trainer=cpu", "task.protocol.border=7")
    pred, target = (np.asarray(Image.open(folders / side / "a.png"))[7:-7, 7:-7] for side in ("pred", "target"))
    expected = psnr_of(target, pred)
    assert cropped.images[0]["psnr"] == pytest.approx(expected, abs=1e-5)
    assert own.images[0]["psnr"] != cropped.images[0]["psnr"]


def test_without_output_nothing_is_written(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(folders.rglob("*"))
    cli.main(["score", f"pred={folders / 'pred'}", f"target={folders / 'target'}", *PLAIN])
    assert "PSNR" in capsys.readouterr().out
    assert sorted(folders.rglob("*")) == before


def test_formats_and_depths_of_files_do_not_matter(tmp_path: Path) -> None:
    grey = picture(0)[..., 0]
    rgb = np.repeat(grey[..., None], 3, axis=2)
    save(tmp_path / "target" / "sixteen.png", grey.astype(np.uint16) * 257)
    save(tmp_path / "pred" / "sixteen.webp", rgb)
    save(tmp_path / "target" / "alpha.png", np.dstack([rgb, np.full_like(grey, 7)]))
    save(tmp_path / "pred" / "alpha.png", grey)
    record = score(tmp_path, *PLAIN)
    assert [image["psnr"] for image in record.images] == [math.inf, math.inf]
    assert record.scores["psnr"].value == math.inf
    assert record.scores["psnr"].low is record.scores["psnr"].high is None
    assert record.scores["psnr"].why_not == "an image has an infinite score"


def test_jpeg_is_scored_as_it_is_decoded(tmp_path: Path) -> None:
    save(tmp_path / "target" / "a.png", picture(0))
    file = save(tmp_path / "pred" / "a.JPG", picture(0))
    expected = psnr_of(picture(0), np.asarray(Image.open(file)))
    assert score(tmp_path, *PLAIN).scores["psnr"].value == pytest.approx(expected, abs=1e-5)


def test_the_input_is_the_baseline(folders: Path) -> None:
    for name in ("a", "b", "sub/c"):
        save(folders / "input" / f"{name}.png", np.asarray(Image.open(folders / "target" / f"{name}.png"))[::2, ::2])
    record = score(folders, *PLAIN, f"input={folders / 'input'}")
    small = to_tensor(np.asarray(Image.open(folders / "input" / "a.png")))
    large = (imresize(small, 2).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    assert record.scores["psnr"].baseline < record.scores["psnr"].value
    save(folders / "again" / "pred" / "a.png", large)
    save(folders / "again" / "target" / "a.png", picture(0))
    save(folders / "again" / "input" / "a.png", np.asarray(Image.open(folders / "input" / "a.png")))
    again = score(folders / "again", *PLAIN, f"input={folders / 'again' / 'input'}")
    assert all(score.baseline == score.value for score in again.scores.values())


def test_masks_give_the_score_inside_the_hole(folders: Path) -> None:
    mask = np.zeros((24, 30), np.uint8)
    mask[4:12, 5:20] = 255
    for name in ("a", "b", "sub/c"):
        save(folders / "mask" / f"{name}.png", mask)
    metrics = "task.protocol.metrics=[psnr,psnr_hole]"
    record = score(folders, "task=inpainting", metrics, "trainer=cpu", f"mask={folders / 'mask'}")
    pred, target = (np.asarray(Image.open(folders / side / "a.png"))[4:12, 5:20] for side in ("pred", "target"))
    expected = psnr_of(target, pred)
    assert record.images[0]["psnr_hole"] == pytest.approx(expected, abs=1e-5)
    without = score(folders, "task=inpainting", metrics, "trainer=cpu")
    assert without.scores["psnr_hole"].value is None
    assert "mask" in without.scores["psnr_hole"].why_not


def test_missing_weights_are_null_with_a_reason(
    folders: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DIFFI2I_OFFLINE", "1")
    monkeypatch.setenv("DIFFI2I_CACHE", str(folders / "cache"))
    monkeypatch.setattr("diffi2i.metrics.image._trunk", lpips_trunk)  # what an earlier test loaded is kept otherwise
    record = score(folders, "task=deblur", "task.protocol.metrics=[psnr,lpips_alex]", "trainer=cpu")
    assert record.scores["lpips_alex"].value is None
    assert {key: score.n for key, score in record.scores.items()} == {"psnr": 3, "lpips_alex": 0}
    assert "DIFFI2I_OFFLINE" in record.scores["lpips_alex"].why_not
    printed = capsys.readouterr().out
    assert "lpips_alex n/a: " in printed
    assert [cell.strip() for cell in printed.split("LPIPS")[1].splitlines()[0].split("|")][1:3] == ["n/a", ""]


def test_files_without_a_partner_are_named_and_the_rest_is_scored(
    folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(5):
        save(folders / "pred" / "more" / f"x{i}.png", picture(i))
    save(folders / "target" / "y.webp", picture(0))
    (folders / "pred" / "notes.txt").write_text("not an image")
    record = score(folders, *PLAIN)
    assert names(record) == ["a", "b", "sub/c"]
    assert [str(image["name"]) for image in record.images] == ["a", "b", "sub/c"]
    printed = capsys.readouterr().out
    assert "5 file(s) of pred without a partner: more/x0.png, more/x1.png, more/x2.png, ..." in printed
    assert "1 file(s) of target without a partner: y.webp\n" in printed


def test_names_that_never_agree_are_refused_with_one_of_each_side(tmp_path: Path, refused: Callable[..., str]) -> None:
    save(tmp_path / "pred" / "a_SR.png", picture(0))
    save(tmp_path / "target" / "a.png", picture(0))
    assert "such as a_SR.png and a.png" in refused(tmp_path, *PLAIN)


def test_two_files_of_one_name_are_refused(folders: Path, refused: Callable[..., str]) -> None:
    save(folders / "pred" / "a.jpg", picture(0))
    line = refused(folders, *PLAIN)
    assert "a.png" in line
    assert "a.jpg" in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pred=nowhere"], "pred=nowhere is no folder"),
        (["mask=somewhere"], "mask belongs to task=inpainting"),
        (["task=segmentation"], "task=segmentation needs its classes"),
        (["task=segmentation", "dataset=camvid", "task.classes=5"], "dataset=camvid has 11 classes, not 5"),
        (["task=depth", "dataset=camvid"], "holds no depth"),
        (["task=depth", "input=somewhere"], "input belongs to tasks that predict images"),
        (["output=scores.txt"], "ends in .json"),
        (["task.protocol.boarder=4"], "did you mean 'task.protocol.border'"),
        (["task.protocol.border=12"], "border of 12 pixels leaves nothing"),
        (["budget=demo"], "unknown key 'budget'"),
    ],
)
def test_settings_that_cannot_be(folders: Path, refused: Callable[..., str], arguments: list[str], words: str) -> None:
    kinds = [text for text in arguments if text.startswith("task=")]
    assert words in refused(folders, *(kinds or PLAIN), *(text for text in arguments if text not in kinds))


def test_an_empty_folder_is_refused(folders: Path, refused: Callable[..., str]) -> None:
    (folders / "empty").mkdir()
    assert "holds no file to score" in refused(folders, *PLAIN, f"target={folders / 'empty'}")


def test_files_that_do_not_fit_are_named(folders: Path, refused: Callable[..., str]) -> None:
    save(folders / "input" / "a.png", picture(0, 10, 10))
    assert "has none for 2 image(s): b, sub/c" in refused(folders, *PLAIN, f"input={folders / 'input'}")
    save(folders / "input" / "b.png", picture(0, 10, 10))
    save(folders / "input" / "sub" / "c.png", picture(0, 10, 10))
    line = refused(folders, *PLAIN, f"input={folders / 'input'}")
    assert "a.png is 10x10" in line
    assert "a whole multiple" in line
    save(folders / "pred" / "b.png", picture(0, 20, 30))
    line = refused(folders, *PLAIN)
    assert f"{folders / 'pred' / 'b.png'} is 30x20, its target {folders / 'target' / 'b.png'} is 30x24" in line
    (folders / "pred" / "b.png").write_bytes(b"no picture")
    assert f"{folders / 'pred' / 'b.png'}: not a readable image" in refused(folders, *PLAIN)


@pytest.fixture
def labelled(tmp_path: Path) -> tuple[Path, Array, Array]:
    """Folders with one pair of label maps of 3 classes, some ignored, and the two maps."""
    rng = np.random.default_rng(0)
    target = rng.integers(0, 3, (12, 14), dtype=np.uint8)
    pred = np.where(rng.random(target.shape) < 0.7, target, rng.integers(0, 3, target.shape, dtype=np.uint8))
    target[:2] = 255
    palette = Image.fromarray(pred, mode="P")
    palette.putpalette([0, 0, 0, 9, 9, 9, 200, 0, 0])
    for folder in ("pred", "target"):
        (tmp_path / folder).mkdir()
    palette.save(tmp_path / "pred" / "a.png")
    save(tmp_path / "target" / "a.png", target)
    return tmp_path, pred, target


def mean_iou(pred: Array, target: Array) -> float:
    kept = target != 255
    ious = [((pred == c) & (target == c) & kept).sum() / (((pred == c) | (target == c)) & kept).sum() for c in range(3)]
    return float(np.mean(ious))


def test_labels_are_class_numbers(labelled: tuple[Path, Array, Array]) -> None:
    root, pred, target = labelled
    record = score(root, *LABELS, "task.classes=3")
    assert record.scores["miou"].value == pytest.approx(mean_iou(pred, target))
    assert record.scores["pixel_accuracy"].value == pytest.approx((pred == target)[2:].mean())
    assert all(score.low is None for score in record.scores.values())
    assert record.scores["miou"].why_not.startswith("a score of the whole set")
    assert len(record.classes) == 3


def test_a_dataset_says_how_its_targets_hold_classes(labelled: tuple[Path, Array, Array]) -> None:
    root, pred, target = labelled
    save(root / "target" / "a.png", np.where(target == 255, 0, target + 1).astype(np.uint8))
    record = score(root, *LABELS, "dataset=ade20k")
    assert record.scores["miou"].value == pytest.approx(mean_iou(pred, target))
    assert len(record.classes) == 150


def test_labels_outside_the_classes_are_named(labelled: tuple[Path, Array, Array], refused: Callable[..., str]) -> None:
    root, pred, target = labelled
    line = refused(root, *LABELS, "task.classes=2")
    assert f"{root / 'pred' / 'a.png'}: value 2 is none of the 2 classes 0 to 1" in line
    save(root / "pred" / "a.png", pred.clip(0, 1))
    assert f"{root / 'target' / 'a.png'}: value 2 is none of the 2" in refused(root, *LABELS, "task.classes=2")
    save(root / "pred" / "a.png", target)  # 255 is no class to predict
    assert "value 255 is none of the 3" in refused(root, *LABELS, "task.classes=3")
    save(root / "pred" / "a.png", np.zeros((6, 7), np.uint8))
    assert "is 7x6, its target" in refused(root, *LABELS, "task.classes=3")


def test_depth_is_read_in_metres_and_millimetres(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    target = rng.uniform(1, 5, (10, 12)).astype(np.float32)
    target[0] = 0
    pred = rng.uniform(1, 5, target.shape).astype(np.float32)
    save(tmp_path / "target" / "metres.npy", target)
    save(tmp_path / "pred" / "metres.npy", pred)
    save(tmp_path / "target" / "millimetres.png", (1000 * target).round().astype(np.uint16))
    save(tmp_path / "pred" / "millimetres.png", (1000 * pred).round().astype(np.uint16))
    record = score(tmp_path, *DEPTH)
    rmse = np.sqrt(np.mean((pred[1:].astype(np.float64) - target[1:]) ** 2))
    metres, millimetres = record.images
    assert metres["rmse"] == pytest.approx(rmse, abs=1e-5)
    assert millimetres["rmse"] == pytest.approx(rmse, abs=1e-3)
    assert record.scores["rmse"].low <= record.scores["rmse"].value <= record.scores["rmse"].high


@pytest.mark.parametrize(
    ("side", "depth", "words"),
    [
        ("target", np.zeros((10, 12), np.uint16), "no pixel has a valid depth"),
        ("pred", np.zeros((10, 12), np.uint16), "no depth above 0"),
        ("pred", np.full((10, 12), 7, np.uint8), "wrong dtype for depth"),
        ("pred", np.full((10, 11), 7, np.uint16), "is 11x10, its target"),
    ],
)
def test_depth_that_cannot_be_is_named(
    tmp_path: Path, refused: Callable[..., str], side: str, depth: Array, words: str
) -> None:
    for folder in ("pred", "target"):
        save(tmp_path / folder / "a.png", depth if folder == side else np.full((10, 12), 2000, np.uint16))
    line = refused(tmp_path, *DEPTH)
    assert words in line
    assert str(tmp_path / side / "a.png") in line


def test_targets_whose_unit_cannot_be_are_refused_and_the_advice_works(
    tmp_path: Path, refused: Callable[..., str]
) -> None:
    metres = np.arange(1, 9, dtype=np.uint16).repeat(15).reshape(10, 12)
    save(tmp_path / "target" / "a.png", metres)
    save(tmp_path / "pred" / "a.npy", metres.astype(np.float32))
    line = refused(tmp_path, *DEPTH)
    assert (
        "depths from 0.001 to 0.008 m, median 0.004, all nearer than a thirtieth of task.protocol.max_depth=10" in line
    )
    assert "write dataset=nyu dataset.target.unit=<metres per stored number>, 0.001 now; 1 (metres) gives" in line
    assert score(tmp_path, *DEPTH, "dataset=nyu", "dataset.target.unit=1").scores["rmse"].value == 0


@pytest.mark.parametrize(("factor", "words"), [(1.0, ""), (1000.0, "near 1000:"), (0.256, "near 256/1000:")])
def test_the_range_is_printed_and_predictions_in_another_unit_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], factor: float, words: str
) -> None:
    depth = np.random.default_rng(0).uniform(1, 8, (10, 12)).astype(np.float32)
    save(tmp_path / "target" / "a.npy", depth)
    save(tmp_path / "pred" / "a.npy", depth * np.float32(factor))
    score(tmp_path, *DEPTH)
    printed = capsys.readouterr().out
    assert "targets, depth: 1" in printed
    assert ("times their targets" in printed) == bool(words)
    assert words in printed


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_a_predicted_depth_that_is_none_is_named(tmp_path: Path, refused: Callable[..., str], value: float) -> None:
    depth = np.full((10, 12), 2, np.float32)
    save(tmp_path / "target" / "a.npy", depth)
    depth[3, 4] = value
    save(tmp_path / "pred" / "a.npy", depth)
    assert "a.npy: the prediction has negative, NaN or infinite depth" in refused(tmp_path, *DEPTH)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_the_saved_images_of_a_run_score_as_the_run_did(make: Make, tmp_path: Path) -> None:
    run_dir = train.train(make("run", "train.steps=2", "train.epoch_steps=2"))
    trained = Record.read(run_dir)
    for role, folder in (("output", "pred"), ("target", "target"), ("input", "input")):
        for file in (run_dir / "images").glob(f"*_{role}.png"):
            save(tmp_path / "saved" / folder / file.name.replace(f"_{role}", ""), np.asarray(Image.open(file)))
    metrics = f"task.protocol.metrics=[{','.join(trained.data.protocol['metrics'])}]"
    inputs = f"input={tmp_path / 'saved' / 'input'}"
    record = score(tmp_path / "saved", "task=sisr", metrics, "trainer=cpu", inputs)
    assert record.data.protocol == trained.data.protocol
    # The mean of an image in another memory layout differs in its last digit.
    assert len(record.images) == len(trained.images)
    for ours, theirs in zip(record.images, trained.images, strict=True):
        assert ours.pop("name") == theirs.pop("name")
        assert ours == pytest.approx(theirs, rel=1e-12)
    assert record.scores.keys() == trained.scores.keys()
    for key, score_of in record.scores.items():
        expected = trained.scores[key]
        assert (score_of.n, score_of.why_not) == (expected.n, expected.why_not)
        for field in ("value", "baseline", "low", "high"):
            value = getattr(expected, field)
            assert getattr(score_of, field) == (value if value is None else pytest.approx(value, rel=1e-9))
    assert record.comparable(trained) is None
