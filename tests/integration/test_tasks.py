"""Each task from the command line: both stages, eval and predict, as small as they go."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from torch.utils.data import default_collate

from diffi2i import cli
from diffi2i.config.run import read_run_config
from diffi2i.data.build import build_data
from diffi2i.kinds import depth, labels
from diffi2i.kinds.kind import Kind
from diffi2i.methods.diffi2i_s2 import DiffI2IS2
from diffi2i.methods.noise import Noise
from diffi2i.run.directory import load_method, save_weights
from diffi2i.weights import cache_dir
from tests.conftest import small
from tests.refusals import command_refusal
from tests.runs import result
from tests.settings import TASKS

KINDS = {"segmentation": "labels", "depth": "depth"}
ON_CPU = ("trainer=cpu", "trainer.precision=fp32")
MORE = {"realsr": ("train.loss=l1",)}  # the weights of its own loss may be missing
Runs = Callable[[str], tuple[Path, Path]]


@pytest.fixture(scope="module")
def runs(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """`runs(task)` gives the run directories of both stages, trained once."""
    trained: dict[str, tuple[Path, Path]] = {}

    def both(task: str) -> tuple[Path, Path]:
        if task not in trained:
            folder = tmp_path_factory.mktemp(task)
            settings = [*small(task, images), "train.steps=2", *MORE.get(task, ())]
            first, second = folder / "s1", folder / "s2"
            cli.main(["train", *settings, "method=diffi2i_s1", f"run_dir={first}"])
            cli.main(["train", *settings, "method=diffi2i_s2", f"method.init={first}", f"run_dir={second}"])
            trained[task] = first, second
        return trained[task]

    return both


@pytest.fixture
def telling(runs: Runs, tmp_path: Path) -> Path:
    """Stage 2 of segmentation, made to tell classes apart, which two steps do not teach it."""
    run_dir = tmp_path / "telling"
    shutil.copytree(runs("segmentation")[1], run_dir)
    method = load_method(run_dir)
    assert isinstance(method, DiffI2IS2)
    data = build_data(method.config)
    data.setup("validate")
    torch.manual_seed(0)
    for module in method.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        batch = default_collate([data.val_set[i] for i in range(3)])
        method.train().predict(batch, method.noise(batch))
        method.state_dict()["network.head.3.weight"].normal_()
    save_weights(method, run_dir / "weights.safetensors")
    (run_dir / "training.json").unlink()  # which has the hash of the others
    cli.main(["eval", f"run={run_dir}", *ON_CPU, f"output={tmp_path / 'told'}"])
    shutil.copytree(tmp_path / "told", run_dir, dirs_exist_ok=True)
    return run_dir


@pytest.mark.parametrize("task", TASKS)
def test_both_stages_train_and_eval_scores_them_again(runs: Runs, task: str, tmp_path: Path, capsys: Any) -> None:
    for method, run_dir in zip(("diffi2i_s1", "diffi2i_s2"), runs(task), strict=True):
        record = result(run_dir)
        assert (record.task, record.method.name, record.budget) == (task, method, "smoke")
        assert record.training.steps == 2
        assert record.scores[record.main_metric].n
        assert (run_dir / "panel.png").is_file()
        assert len(list((run_dir / "images").iterdir())) == 3 * len(record.images)
        cli.main(["eval", f"run={run_dir}", *ON_CPU, f"output={tmp_path / method}"])
        again = result(tmp_path / method)
        assert (again.scores, again.data) == (record.scores, record.data)
        assert (record.data.constant is None) == (task not in KINDS)
        assert record.data.baseline == ("constant" if task in KINDS else "input itself")
        printed = capsys.readouterr().out
        assert {"segmentation": "mIoU", "depth": "RMSE"}.get(task, "PSNR") in printed
        assert ("| constant" in printed) == (task in KINDS)


@pytest.mark.parametrize("task", KINDS)
def test_weights_alone_have_no_constant_to_compare_with(runs: Runs, task: str, tmp_path: Path, capsys: Any) -> None:
    run, bare = runs(task)[1], tmp_path / "bare"
    bare.mkdir()
    for name in ("config.yaml", "weights.safetensors"):
        shutil.copy(run / name, bare)
    capsys.readouterr()
    cli.main(["eval", f"run={bare}", *ON_CPU, f"output={tmp_path / 'again'}"])
    printed, record, known = capsys.readouterr().out, result(tmp_path / "again"), result(run)
    assert (record.data.baseline, record.data.constant, record.baseline_images) == (None, None, [])
    assert {score.baseline for score in record.scores.values()} == {None}
    assert (record.images, record.data.inputs) == (known.images, known.data.inputs)
    assert known.comparable(record) is None
    assert "| constant" not in printed
    assert "input itself" not in printed
    cli.main(["table", str(tmp_path / "again"), str(run)])
    assert "| constant" in capsys.readouterr().out


@pytest.mark.parametrize("task", TASKS)
def test_the_main_metric_is_scored(runs: Runs, task: str) -> None:
    for run_dir in runs(task):
        record = result(run_dir)
        score = record.scores[record.main_metric]
        assert isinstance(score.value, float)
        assert isinstance(score.baseline, float)
        assert isinstance(score.gains["prior_dependence"], float)


@pytest.mark.parametrize("task", KINDS)
def test_eval_can_average_over_flips_and_sizes(runs: Runs, telling: Path, task: str, tmp_path: Path) -> None:
    run_dir = telling if task == "segmentation" else runs(task)[1]
    views = "set=[task.protocol.flip=true,task.protocol.sizes=[0.5,1]]"
    cli.main(["eval", f"run={run_dir}", views, *ON_CPU, f"output={tmp_path / 'averaged'}"])
    plain, averaged = result(run_dir), result(tmp_path / "averaged")
    assert averaged.images != plain.images
    assert averaged.baseline_images == plain.baseline_images
    assert (averaged.data.protocol["flip"], averaged.data.protocol["sizes"]) == (True, [0.5, 1.0])
    assert (plain.data.protocol["flip"], plain.data.protocol["sizes"]) == (False, [1.0])


def test_eval_refuses_what_does_not_fit_the_run(runs: Runs, capsys: Any) -> None:
    labels, deblur = f"run={runs('segmentation')[1]}", f"run={runs('deblur')[1]}"
    for views in ("set=[task.protocol.flip=true]", "set=[task.protocol.sizes=[0.5,1]]"):
        assert "flip and sizes belong to labels and depth" in command_refusal(["eval", deblur, views], capsys)
    assert "factors above 0" in command_refusal(["eval", labels, "set=[task.protocol.sizes=[0,1]]"], capsys)
    assert "holds no labels" in command_refusal(["eval", labels, "dataset=photos"], capsys)
    assert "holds no labels" in command_refusal(["eval", labels, "dataset=motorcycle"], capsys)
    assert "holds no image" in command_refusal(["eval", deblur, "dataset=shapes"], capsys)
    assert "has 11 classes, the run 6" in command_refusal(["eval", labels, "dataset=camvid", "root=."], capsys)


def odd_photos(folder: Path) -> dict[str, tuple[int, int]]:
    folder.mkdir()
    rng, sizes = np.random.default_rng(0), {"odd": (41, 67), "thin": (1, 30), "large": (130, 90)}
    for name, size in sizes.items():
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    return sizes


def test_predicted_labels_are_class_numbers_in_a_palette(telling: Path, tmp_path: Path) -> None:
    sizes = odd_photos(tmp_path / "in")
    cli.main(["predict", f"run={telling}", f"input={tmp_path / 'in'}", f"output={tmp_path / 'out'}", *ON_CPU])
    seen = set()
    for name, (height, width) in sizes.items():
        with Image.open(tmp_path / "out" / f"{name}.png") as image:
            assert (image.mode, image.size) == ("P", (width, height))
            labels = np.asarray(image)
            seen |= set(labels.ravel().tolist())
            # Every class has its own colour, and the picture shows it.
            palette = np.array(image.getpalette()).reshape(256, 3)
            assert len({tuple(colour) for colour in palette[:6].tolist()}) == 6
            np.testing.assert_array_equal(np.asarray(image.convert("RGB")), palette[labels])
    assert len(seen) > 2
    assert seen <= set(range(6))


def test_predicted_labels_are_those_of_the_evaluation(telling: Path, tmp_path: Path) -> None:
    item = build_data(read_run_config(telling)).val_items[0]
    assert item.input is not None
    assert Path(item.input).stem == item.name  # from which the noise at inference comes
    cli.main(["predict", f"run={telling}", f"input={item.input}", f"output={tmp_path / 'out'}", *ON_CPU])
    labels = np.asarray(Image.open(tmp_path / "out" / f"{item.name}.png"))
    accuracy = float((labels == np.asarray(Image.open(item.target))).mean())
    scored = next(image for image in result(telling).images if image["name"] == item.name)
    assert 0 < accuracy < 1
    assert accuracy == pytest.approx(scored["pixel_accuracy"])


def test_predicted_depth_is_in_millimetres(runs: Runs, tmp_path: Path) -> None:
    sizes = odd_photos(tmp_path / "in")
    run_dir = runs("depth")[1]
    cli.main(["predict", f"run={run_dir}", f"input={tmp_path / 'in'}", f"output={tmp_path / 'out'}", *ON_CPU])
    for name, (height, width) in sizes.items():
        with Image.open(tmp_path / "out" / f"{name}.png") as image:
            assert image.mode.startswith("I")
            assert image.size == (width, height)
            depth = np.asarray(image)
        assert depth.dtype == np.uint16
        assert 1 <= depth.min() <= depth.max() <= 10_000
        assert np.ptp(depth) > 0 or height == 1


def test_saved_depth_is_the_networks_to_the_millimetre(tmp_path: Path) -> None:
    metres = torch.tensor([[[0.0014, 1.2345678], [70.0, 9.9996]]])
    depth.save(metres, (2, 2), tmp_path / "a.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), [[1, 1235], [65534, 10000]])


def test_predict_and_eval_show_the_network_the_runs_short_side(telling: Path, tmp_path: Path, monkeypatch: Any) -> None:
    run_dir = tmp_path / "short"
    shutil.copytree(telling, run_dir)
    saved = OmegaConf.load(run_dir / "config.yaml")
    saved.task.scenes.short_side, saved.task.scenes.long_side = 24, 60
    OmegaConf.save(saved, run_dir / "config.yaml")
    seen = []
    predict = DiffI2IS2.predict

    def watched(self: DiffI2IS2, batch: Any, noise: Noise) -> torch.Tensor:
        seen.append(tuple(batch["input"].shape[-2:]))
        return predict(self, batch, noise)

    monkeypatch.setattr(DiffI2IS2, "predict", watched)
    sizes = odd_photos(tmp_path / "in")
    cli.main(["predict", f"run={run_dir}", f"input={tmp_path / 'in'}", f"output={tmp_path / 'out'}", *ON_CPU])
    assert set(seen) == {(24, 39), (2, 60), (35, 24)}
    for name, (height, width) in sizes.items():
        assert Image.open(tmp_path / "out" / f"{name}.png").size == (width, height)
    seen.clear()
    cli.main(["eval", f"run={run_dir}", *ON_CPU, f"output={tmp_path / 'scores'}"])
    assert set(seen) == {(24, 24)}
    assert result(tmp_path / "scores").scores.keys() == result(telling).scores.keys()


@pytest.mark.parametrize(("kind", "channels"), [(labels, 4), (depth, 1)])
def test_saved_maps_have_the_photos_size(kind: Kind, channels: int, tmp_path: Path) -> None:
    kind.save(torch.rand(channels, 5, 7), (10, 21), tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").size == (21, 10)


@pytest.mark.skipif(not (cache_dir() / "lpips_vgg_trunk.safetensors").is_file(), reason="VGG-16 is not in the cache")
def test_realsr_goes_on_with_its_adversarial_loss(runs: Runs, images: Path, tmp_path: Path) -> None:
    stage1, stage2 = runs("realsr")
    settings = [*small("realsr", images), "train.steps=2", "method=diffi2i_s2", "train.loss=real_esrgan_vgg16"]
    for name, init in (("from-1", stage1), ("from-2", stage2)):
        cli.main(["train", *settings, f"method.init={init}", f"run_dir={tmp_path / name}"])
        record = result(tmp_path / name)
        assert (record.training.loss, record.training.steps) == ("real_esrgan_vgg16", 2)
        assert record.cost.parameters == result(stage2).cost.parameters, "the discriminator was counted"


def test_the_record_names_the_loss(runs: Runs) -> None:
    for task, loss in (("segmentation", "cross_entropy"), ("depth", "silog"), ("deblur", "l1")):
        assert result(runs(task)[0]).training.loss == loss


def test_segmentation_records_an_iou_for_each_class(runs: Runs) -> None:
    record = result(runs("segmentation")[1])
    known = [value for value in record.classes if value is not None]
    assert len(record.classes) == 6
    assert record.scores["miou"].value == pytest.approx(np.mean(known))
    assert record.data.constant in range(6)
