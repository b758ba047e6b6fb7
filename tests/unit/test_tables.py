"""Tables and pictures made from finished runs."""

from math import inf
from typing import Any

import pytest
import torch
from PIL import Image

from diffi2i.callbacks.panels import HEADER, Pictures
from diffi2i.run.record import Score
from diffi2i.tables.runs import few_images, runs_table
from tests.records import record

SISR = {
    "psnr_y": Score(28.5555, 2, baseline=27.2, gains={"prior_dependence": 0.0123}),
    "ssim_y": Score(0.81239, 2, baseline=0.79),
    "lpips_alex": Score(None, 0, why_not="no weights"),
}
ASKED = {"protocol": {"border": 4, "metrics": ["psnr_y", "ssim_y", "lpips_alex"]}}


def sisr(**changes: Any) -> Any:
    return record(**{"task": "sisr", "main_metric": "psnr_y", "scores": SISR, **ASKED, **changes})


def test_the_table_holds_the_baseline_and_one_row_a_run() -> None:
    lines = runs_table([sisr(label="stage 1 (sees GT)"), sisr()]).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    head = ["", "PSNR-Y ↑", "SSIM-Y ↑", "LPIPS ↓", "prior dependence", "parameters", "s / image"]
    assert cells[0] == head
    assert cells[2] == ["input itself", "27.20", "0.7900", "n/a", "", "", ""]
    assert cells[3][0] == "stage 1 (sees GT)"
    assert cells[4] == ["stage 2", "28.56", "0.8124", "n/a", "0.01", "2.60 M", "0.046"]
    assert len({len(line) for line in lines}) == 1


@pytest.mark.parametrize(
    ("task", "main", "scores", "expected"),
    [
        (
            "segmentation",
            "miou",
            {"miou": (0.5678, 0.16), "pixel_accuracy": (0.9, 0.8), "mean_accuracy": (0.6, 0.2)},
            {
                "mIoU ↑": ["0.1600", "0.5678"],
                "pixel accuracy ↑": ["0.8000", "0.9000"],
                "class accuracy ↑": ["0.2000", "0.6000"],
                "prior dependence": ["", "0.0123"],
            },
        ),
        (
            "depth",
            "rmse",
            {
                "abs_rel": (0.1, 0.5),
                "rmse": (0.315, 1.2),
                "log10": (0.038, 0.2),
                "delta1": (0.933, 0.4),
                "silog": (9.0, 30.0),
            },
            {
                "Rel ↓": ["0.5000", "0.1000"],
                "RMSE ↓": ["1.2000", "0.3150"],
                "log10 ↓": ["0.2000", "0.0380"],
                "δ1 ↑": ["0.4000", "0.9330"],
            },
        ),
    ],
)
def test_labels_and_depth_stand_beside_a_constant(
    task: str, main: str, scores: dict[str, tuple[float, float]], expected: dict[str, list[str]]
) -> None:
    gains = {"prior_dependence": 0.01234} if task == "segmentation" else {}
    found = {
        key: Score(value, 2, baseline=naive, gains=gains if key == main else {})
        for key, (value, naive) in scores.items()
    }
    made = record(
        task=task,
        main_metric=main,
        scores=found,
        baseline="constant",
        constant=0,
        degrade=None,
        protocol={"metrics": []},
    )
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in runs_table([made]).splitlines()]
    assert [line[0] for line in rows] == ["constant", "stage 2"]
    assert {key: [line[head.index(key)] for line in rows] for key in head[1:-2]} == expected


def test_scores_that_were_not_asked_for_have_no_column() -> None:
    scores = {key: SISR[key] for key in ("psnr_y", "lpips_alex")} | {"psnr_hole": Score(None, 0)}
    text = runs_table([sisr(protocol={"border": 4, "metrics": ["psnr_y"]}, scores=scores)])
    assert "LPIPS" not in text
    assert "hole" not in text
    assert "PSNR-Y" in text


def test_a_run_without_a_prior_has_no_dependence_on_it() -> None:
    without = sisr(scores=SISR | {"psnr_y": Score(28.0, 2)})
    lines = runs_table([sisr(), without]).splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [row[rows[0].index("prior dependence")] for row in rows[2:]] == ["", "0.01", ""]
    assert "prior dependence" not in runs_table([without])


def test_an_infinite_score_is_shown_as_such() -> None:
    assert "inf" in runs_table([sisr(scores=SISR | {"psnr_y": Score(inf, 2)})])


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
    found = {"psnr": Score(30.0, 5), "fid": Score(12.0, 2047), "kid": Score(None, 0), "fd_lite0": Score(3.0, 2048)}
    lines = few_images(found)
    assert len(lines) == 1
    assert lines[0].startswith("FID ↓ of fewer than 2048 images is biased")
