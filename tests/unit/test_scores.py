"""The validation's callback: the gain by the prior, the baselines, and the pictures of each kind of target."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from diffi2i.callbacks.scores import ValidationScores
from diffi2i.config.schema import ProtocolConfig, TaskConfig
from diffi2i.data.resize import imresize
from diffi2i.kinds import depth, image, labels
from diffi2i.kinds.kind import kind_of
from diffi2i.kinds.labels import colour_labels
from diffi2i.metrics.depth import DepthScores
from diffi2i.metrics.image import ImageScores
from diffi2i.metrics.segmentation import SegmentationScores
from diffi2i.metrics.spec import of_kind
from tests.networks import pictures
from tests.settings import task_config

PLAIN = ["psnr", "psnr_y", "ssim", "ssim_y", "ssim_3d", "psnr_hole"]
IMAGE = task_config(name="deblur", main_metric="psnr", protocol=ProtocolConfig(metrics=PLAIN))
LABELS = task_config(name="segmentation", kind="labels", classes=3, main_metric="miou")
DEPTH = task_config(name="depth", kind="depth", main_metric="rmse")


class Module(SimpleNamespace):
    """What the callback asks of a LightningModule."""

    def log(self, key: str, value: Tensor, **_: Any) -> None:
        self.logged[key] = value.item()


def validate(scores: ValidationScores, *batches: tuple[dict[str, Tensor], Any]) -> dict[str, float]:
    """Runs the callback over (outputs, batch); returns what it logged."""
    data = SimpleNamespace(val_share=range(len(batches)))
    trainer: Any = SimpleNamespace(is_global_zero=True, global_step=7, datamodule=data)
    module: Any = Module(device=torch.device("cpu"), logged={})
    scores.on_validation_start(trainer, module)
    for i, (outputs, batch) in enumerate(batches):
        scores.on_validation_batch_end(trainer, module, outputs, batch, i)
    scores.on_validation_epoch_end(trainer, module)
    logged: dict[str, float] = module.logged
    return logged


def image_batch(**more: Tensor) -> dict[str, Any]:
    return {"target": pictures(1, 3, 16, 20), "input": pictures(1, 3, 16, 20, seed=1), "name": ["a"], **more}


def label_batch() -> dict[str, Any]:
    target = torch.zeros(1, 8, 10, dtype=torch.int64)
    target[:, :, 5:] = 1
    target[:, 0] = 255
    return {"target": target, "input": pictures(1, 3, 4, 5), "name": ["a"]}


def logits(target: Tensor, classes: int = 3) -> Tensor:
    return torch.nn.functional.one_hot(target.clamp(max=classes - 1), classes).movedim(-1, 1).float()


def depth_batch() -> dict[str, Any]:
    target = 1 + 4 * pictures(1, 1, 8, 10)
    target[..., 0, :] = 0
    return {"target": target, "valid": (target > 0).float(), "input": pictures(1, 3, 4, 5), "name": ["a"]}


@pytest.mark.parametrize(("task", "kind"), [(IMAGE, ImageScores), (LABELS, SegmentationScores), (DEPTH, DepthScores)])
def test_each_kind_has_its_score_sheet(task: TaskConfig, kind: type) -> None:
    assert isinstance(kind_of(task).sheet(task, task.protocol), kind)


def test_the_gain_is_positive_where_the_own_prior_is_better() -> None:
    batch = image_batch()
    near, far = ((batch["target"] + step).clamp(0, 1) for step in (0.02, 0.2))
    logged = validate(ValidationScores(IMAGE, "set"), ({"output": near, "prior_dependence": far}, batch))
    assert logged["val/set/prior_dependence"] > 0
    swapped = validate(ValidationScores(IMAGE, "set"), ({"output": far, "prior_dependence": near}, batch))
    assert swapped["val/set/prior_dependence"] == pytest.approx(-logged["val/set/prior_dependence"])

    scene = depth_batch()
    close, off = scene["target"] + 0.1, scene["target"] + 1.0
    logged = validate(ValidationScores(DEPTH, "set"), ({"output": close, "prior_dependence": off}, scene))
    assert logged["val/set/prior_dependence"] == pytest.approx(0.9, abs=1e-5)  # of the error, which is to be small
    assert logged["val/set/rmse"] == pytest.approx(0.1, abs=1e-5)

    labelled = label_batch()
    right, wrong = logits(labelled["target"]), logits(torch.zeros_like(labelled["target"]))
    logged = validate(ValidationScores(LABELS, "set"), ({"output": right, "prior_dependence": wrong}, labelled))
    assert logged["val/set/miou"] == 1
    assert logged["val/set/prior_dependence"] == pytest.approx(1 - 0.25)


def test_without_another_image_there_is_no_gain(capsys: Any) -> None:
    batch = image_batch()
    logged = validate(ValidationScores(IMAGE, "set"), ({"output": batch["input"]}, batch))
    assert "val/set/prior_dependence" not in logged
    assert capsys.readouterr().out.startswith("step 7: psnr ")


def test_a_main_metric_that_is_not_scored_is_shown_as_such(capsys: Any) -> None:
    task = replace(IMAGE, main_metric="psnr_hole")
    batch = image_batch()
    logged = validate(
        ValidationScores(task, "set"), ({"output": batch["input"], "prior_dependence": batch["input"]}, batch)
    )
    assert "val/set/psnr" in logged
    assert capsys.readouterr().out == "step 7: psnr_hole n/a\n"


@pytest.mark.parametrize(("main", "more"), [("psnr", []), ("dists", ["dists"]), ("fid", ["fid"])])
def test_training_scores_what_is_cheap_and_the_main_metric(
    main: str, more: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffi2i.metrics.image._trunk", lambda net: {})
    task = replace(IMAGE, main_metric=main, protocol=ProtocolConfig(metrics=of_kind("image")))

    def asked(scores: ValidationScores) -> list[list[str]]:
        # As on a rank without images: a probe's sheet is made when its first output comes.
        trainer: Any = SimpleNamespace(datamodule=SimpleNamespace(val_share=[]))
        module: Any = Module(device=torch.device("cpu"))
        nothing: Any = {}
        scores.on_validation_batch_end(trainer, module, dict.fromkeys(("output", "prior_dependence")), nothing, 0)
        sheets = (scores.own, scores.probes["prior_dependence"], scores.baseline)
        return [sheet.protocol.metrics for sheet in sheets if isinstance(sheet, ImageScores)]

    assert asked(ValidationScores(task, "set")) == [[m for m in of_kind("image") if m in (*PLAIN, *more)]] * 2
    final = asked(ValidationScores(task, "set", pictures=tmp_path))
    assert final[0] == final[2] == of_kind("image")
    assert final[1] == [m for m in of_kind("image") if m in (*PLAIN, *more)]


def test_each_validation_starts_anew() -> None:
    scores, batch = ValidationScores(IMAGE, "set"), image_batch()
    good, bad = ({"output": (batch["target"] + step).clamp(0, 1)} for step in (0.02, 0.2))
    first = validate(scores, (bad, batch))
    assert validate(scores, (good, batch))["val/set/psnr"] > first["val/set/psnr"] + 10
    assert len(scores.own.per_image) == 1


def test_known_pixels_are_put_back_before_scoring() -> None:
    mask = torch.zeros(1, 1, 16, 20)
    mask[..., :8, :] = 1
    batch = image_batch(mask=mask)
    batch["input"] = batch["target"] * (1 - mask)
    output = torch.where(mask > 0, batch["target"], torch.zeros(1))  # wrong where it is known
    assert validate(ValidationScores(IMAGE, "set"), ({"output": output}, batch))["val/set/psnr"] == float("inf")


def test_ignored_labels_and_invalid_depths_do_not_count() -> None:
    labelled, scene = label_batch(), depth_batch()
    wrong = torch.where(labelled["target"] == 255, 2, labelled["target"])
    assert validate(ValidationScores(LABELS, "set"), ({"output": logits(wrong)}, labelled))["val/set/miou"] == 1
    off = torch.where(scene["valid"] > 0, scene["target"], torch.full((1,), 9.0))
    assert validate(ValidationScores(DEPTH, "set"), ({"output": off}, scene))["val/set/rmse"] == pytest.approx(0)


def test_the_baseline_of_images_is_the_input_enlarged() -> None:
    batch = image_batch()
    assert image.naive(batch, IMAGE, None) is batch["input"]
    sisr = task_config(name="sisr", scale=4)
    expected = imresize(batch["input"], 4).clamp(0, 1)
    assert torch.equal(image.naive(batch, sisr, None), expected)
    assert expected.shape == (1, 3, 64, 80)


def test_the_baseline_of_labels_and_depth_is_a_constant(tmp_path: Path) -> None:
    labelled, scene = label_batch(), depth_batch()
    assert torch.equal(labels.naive(labelled, LABELS, 1).argmax(1), torch.ones_like(labelled["target"]))
    assert labels.naive(labelled, LABELS, 1).shape == (1, 3, 8, 10)
    assert torch.equal(depth.naive(scene, DEPTH, 2.5), torch.full((1, 1, 8, 10), 2.5))

    scores = ValidationScores(LABELS, "set", pictures=tmp_path, constant=1)
    validate(scores, ({"output": logits(labelled["target"])}, labelled))
    assert scores.baseline is not None
    assert scores.baseline.compute()["pixel_accuracy"] == pytest.approx(0.5)
    scores = ValidationScores(DEPTH, "set", pictures=tmp_path, constant=2.5)
    validate(scores, ({"output": scene["target"]}, scene))
    assert scores.baseline is not None
    valid = scene["target"][scene["valid"] > 0]
    assert scores.baseline.compute()["rmse"] == pytest.approx(float((valid - 2.5).square().mean().sqrt()))


def pictures_of(task: TaskConfig, batch: dict[str, Any], output: Tensor, folder: Path) -> dict[str, np.ndarray]:
    scores = ValidationScores(task, "set", pictures=folder, constant=1)
    validate(scores, ({"output": output}, batch))
    assert scores.pictures is not None
    assert scores.pictures.panel().width > 0
    return {role: np.asarray(Image.open(folder / f"a_{role}.png")) for role in ("input", "output", "target")}


def test_pictures_of_labels_are_coloured_and_their_errors_white(tmp_path: Path) -> None:
    batch = label_batch()
    wrong = batch["target"].clone()
    wrong[:, 7] = 2
    saved = pictures_of(LABELS, batch, logits(wrong), tmp_path)
    assert all(picture.shape == (8, 10, 3) for picture in saved.values())
    colours = (colour_labels(batch["target"][0]).permute(1, 2, 0) * 255).round().byte().numpy()
    np.testing.assert_array_equal(saved["target"], colours)
    assert (saved["target"][0] == 0).all()  # ignored
    np.testing.assert_array_equal(saved["output"][1:7], colours[1:7])
    assert (saved["output"][7] != colours[7]).any(1).all()
    error = labels.pictures(logits(wrong), batch, LABELS)[3]
    expected = torch.zeros(8, 10)
    expected[7] = 1
    assert torch.equal(error, expected.expand(3, -1, -1))


def test_pictures_of_depth_share_one_scale_and_hide_what_was_not_measured(tmp_path: Path) -> None:
    batch = depth_batch()
    saved = pictures_of(DEPTH, batch, batch["target"].clamp(min=1), tmp_path)
    assert (saved["target"][0] == 0).all()
    np.testing.assert_array_equal(saved["output"][1:], saved["target"][1:])
    error = depth.pictures(1.1 * batch["target"], batch, DEPTH)[3]
    expected = 4 * 0.1 * batch["valid"][0].expand(3, -1, -1)
    torch.testing.assert_close(error, expected)


def test_a_scene_without_any_depth_has_a_picture_too() -> None:
    batch = depth_batch()
    batch["target"], batch["valid"] = torch.zeros(1, 1, 8, 10), torch.zeros(1, 1, 8, 10)
    images = depth.pictures(torch.ones(1, 1, 8, 10), batch, DEPTH)
    assert all(shown.shape == (3, 8, 10) and shown.isfinite().all() for shown in images)
    assert not images[3].any()


@pytest.mark.parametrize("task", [LABELS, DEPTH])
def test_outputs_of_another_size_are_brought_to_the_targets(task: TaskConfig) -> None:
    batch = label_batch() if task is LABELS else depth_batch()
    output = pictures(1, 3 if task is LABELS else 1, 4, 5) + 1
    assert all(shown.shape == (3, 8, 10) for shown in kind_of(task).pictures(output, batch, task))
    assert validate(ValidationScores(task, "set"), ({"output": output}, batch))
