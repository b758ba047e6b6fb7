"""Tables and pictures made from finished runs."""

from typing import Any

import pytest
import torch
from PIL import Image

from diffi2i.callbacks.panels import HEADER, Pictures
from diffi2i.tables.runs import few_images, label, runs_table


def record(**changes: Any) -> dict[str, Any]:
    base = {
        "task": "sisr",
        "stage": "joint",
        "prior": "joint",
        "init": {"weights": "d", "config_hash": "89abcdef", "network_steps": 100},
        "timesteps": None,
        "protocol": {"border": 4, "metrics": ["psnr_y", "ssim_y", "lpips_alex"]},
        "dataset": {"name": "photos", "val": "abc"},
        "metrics": {"psnr_y": 28.5555, "ssim_y": 0.81239, "lpips_alex": None, "prior_dependence": 0.0123},
        "baseline": {"psnr_y": 27.2, "ssim_y": 0.79},
        "main_metric": "psnr_y",
        "constant": None,
        "parameters": 2_600_000,
        "seconds_per_image": 0.0456,
    }
    return base | changes


def test_the_table_holds_the_baseline_and_one_row_a_run() -> None:
    lines = runs_table([record(stage="pretrain", prior="truth", init=None), record()]).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    head = ["", "PSNR-Y ↑", "SSIM-Y ↑", "LPIPS ↓", "prior dependence", "parameters", "s / image"]
    assert cells[0] == head
    assert cells[2] == ["input itself", "27.20", "0.7900", "n/a", "", "", ""]
    assert cells[3][0] == "stage 1 (sees GT)"
    assert cells[4] == ["stage 2", "28.56", "0.8124", "n/a", "0.01", "2.60 M", "0.046"]
    assert len({len(line) for line in lines}) == 1


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"task": "segmentation", "main_metric": "miou", "constant": 0}
            | {"metrics": {"miou": 0.5678, "pixel_accuracy": 0.9, "mean_accuracy": 0.6, "prior_dependence": 0.01234}}
            | {"baseline": {"miou": 0.16, "pixel_accuracy": 0.8, "mean_accuracy": 0.2}},
            {
                "mIoU ↑": ["0.1600", "0.5678"],
                "pixel accuracy ↑": ["0.8000", "0.9000"],
                "class accuracy ↑": ["0.2000", "0.6000"],
                "prior dependence": ["", "0.0123"],
            },
        ),
        (
            {"task": "depth", "main_metric": "rmse", "constant": 2.5}
            | {"metrics": {"abs_rel": 0.1, "rmse": 0.315, "log10": 0.038, "delta1": 0.933, "silog": 9.0}}
            | {"baseline": {"abs_rel": 0.5, "rmse": 1.2, "log10": 0.2, "delta1": 0.4, "silog": 30.0}},
            {
                "Rel ↓": ["0.5000", "0.1000"],
                "RMSE ↓": ["1.2000", "0.3150"],
                "log10 ↓": ["0.2000", "0.0380"],
                "δ1 ↑": ["0.4000", "0.9330"],
            },
        ),
    ],
)
def test_labels_and_depth_stand_beside_a_constant(changes: dict[str, Any], expected: dict[str, list[str]]) -> None:
    lines = runs_table([record(**changes)]).splitlines()
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [line[0] for line in rows] == ["constant", "stage 2"]
    assert {key: [line[head.index(key)] for line in rows] for key in head[1:-2]} == expected


def test_scores_that_were_not_asked_for_have_no_column() -> None:
    metrics = {"psnr_y": 28.5555, "lpips_alex": None, "psnr_hole": None, "prior_dependence": 0.0123}
    text = runs_table([record(protocol={"border": 4, "metrics": ["psnr_y"]}, metrics=metrics)])
    assert "LPIPS" not in text
    assert "PSNR-Y" in text


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"stage": "pretrain", "prior": "truth", "init": None}, "stage 1 (sees GT)"),
        ({"stage": "pretrain", "prior": "truth"}, "stage 1 (sees GT), trained on"),
        ({"stage": "pretrain", "prior": "zero", "init": None}, "no prior"),
        ({"stage": "pretrain", "prior": "zero"}, "no prior, trained on"),
        ({}, "stage 2"),
        ({"prior": "none"}, "stage 2, no diffusion"),
        ({"prior": "traditional"}, "stage 2, traditional"),
        ({"timesteps": [2, 4]}, "stage 2, time steps 2,4"),
        ({"timesteps": [4], "tlc_window": 96}, "stage 2, time steps 4, TLC 96"),
    ],
)
def test_a_run_is_called_by_its_method_and_its_settings(changes: dict[str, Any], expected: str) -> None:
    assert label(record(**changes)) == expected
    # They differ in the method alone, so they compare.
    assert f"| {expected} " in runs_table([record(), record(**changes)])


def test_an_infinite_score_is_shown_as_such() -> None:
    assert "inf" in runs_table([record(metrics={"psnr_y": "inf"})])


def test_pictures_of_any_size_share_one_panel(tmp_path: Any) -> None:
    pictures = Pictures(tmp_path)
    for name, (height, width) in {"pixel": (1, 1), "wide": (3, 50), "sub/tall": (400, 20)}.items():
        image = torch.rand(3, height, width)
        pictures.add(name, image, 1.5 * image - 0.2, image, 1 - image)
    panel = pictures.panel()
    rows = [2, 6, 320]  # small images are doubled, tall ones are brought to 320 rows
    assert panel.height == sum(rows) + 3 * HEADER
    assert panel.width == 4 * 100 + 3 * 4
    assert Image.open(tmp_path / "sub" / "tall_target.png").size == (20, 400)
    assert len(list(tmp_path.rglob("*.png"))) == 9


def test_distances_between_small_sets_are_marked() -> None:
    metrics = {"psnr": 30.0, "fid": 12.0, "kid": None, "fd_lite0": 3.0}
    lines = few_images(metrics, {"psnr": 5, "fid": 2047, "kid": 0, "fd_lite0": 2048})
    assert len(lines) == 1
    assert lines[0].startswith("FID ↓ of fewer than 2048 images is biased")
