"""Each score stands once: what follows from the list, and what a new score costs."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage import data
from torch import Tensor
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from diffi2i.config.compose import load
from diffi2i.config.schema import Config, ProtocolConfig
from diffi2i.errors import UserError
from diffi2i.metrics.image import ImageScores
from diffi2i.metrics.spec import COLUMNS, COSTS, GAINS, METRICS, Metric
from diffi2i.run.record import Score
from diffi2i.tables.runs import few_images

SSIM_POWERS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def ms_ssim(pred: Tensor, target: Tensor) -> Tensor:
    """A new score's one function."""
    return multiscale_structural_similarity_index_measure(pred, target, sigma=1.5, data_range=1.0)


@pytest.fixture
def with_ms_ssim(monkeypatch: pytest.MonkeyPatch) -> None:
    metric = Metric("ms_ssim", "MS-SSIM", "image", f"{__name__}:ms_ssim", "cropped", smallest=161)
    monkeypatch.setitem(METRICS, "ms_ssim", metric)


def multiscale(a: np.ndarray, b: np.ndarray) -> float:
    """Wang et al. 2003 on (H, W, 3) in [0, 1]: contrast of five scales, inside the border, and all of the last."""

    def smooth(x: np.ndarray) -> np.ndarray:
        for axis in range(2):
            x = ndimage.gaussian_filter1d(x, 1.5, axis=axis, mode="mirror", radius=5)
        return x

    product = 1.0
    for scale, power in enumerate(SSIM_POWERS):
        mean_a, mean_b = smooth(a), smooth(b)
        variances = smooth(a**2) - mean_a**2 + smooth(b**2) - mean_b**2
        contrast = (2 * (smooth(a * b) - mean_a * mean_b) + 9e-4) / (variances + 9e-4)
        luminance = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
        last = scale == len(SSIM_POWERS) - 1
        product *= float((luminance * contrast if last else contrast[5:-5, 5:-5]).mean()) ** power
        rows, columns = a.shape[0] // 2 * 2, a.shape[1] // 2 * 2
        a, b = (x[:rows, :columns].reshape(rows // 2, 2, columns // 2, 2, 3).mean((1, 3)) for x in (a, b))
    return product


@pytest.mark.usefixtures("with_ms_ssim")
def test_a_new_score_is_one_entry_and_one_function() -> None:
    photo = data.astronaut() / 255.0  # type: ignore[no-untyped-call]
    scores, expected = ImageScores(ProtocolConfig(border=2, metrics=["ms_ssim", "psnr"])), []
    for name, noise in {"a": 0.05, "b": 0.2}.items():
        target = photo[:180, 100:290] if name == "a" else photo[200:400, 50:230]
        pred = np.clip(target + noise * np.random.default_rng(0).standard_normal(target.shape), 0, 1)
        target, pred = (np.rint(image * 255) / 255 for image in (target, pred))
        tensors = (torch.from_numpy(image).permute(2, 0, 1)[None].float() for image in (pred, target))
        scores.update(*tensors, names=[name])
        expected.append(multiscale(pred[2:-2, 2:-2], target[2:-2, 2:-2]))
    assert [image["ms_ssim"] for image in scores.per_image] == pytest.approx(expected, abs=1e-5)
    assert scores.compute()["ms_ssim"] == pytest.approx(np.mean(expected), abs=1e-5)
    assert list(scores.compute()) == ["psnr", "ms_ssim"]
    scores.reset()
    small = torch.rand(1, 3, 164, 170)  # 160 without the border
    scores.update(small, small, names=["small"])
    assert scores.reasons() == {"ms_ssim": "no image has 161 pixels on each side"}


@pytest.mark.usefixtures("with_ms_ssim")
def test_a_task_may_list_a_new_score(images: Path) -> None:
    asked = ["task=deblur", f"root={images}", "task.protocol.metrics=[ms_ssim,psnr]", "task.main_metric=ms_ssim"]
    assert load(Config, "train", asked).task.main_metric == "ms_ssim"
    with pytest.raises(UserError, match=r"choose from psnr, .*, ms_ssim"):
        load(Config, "train", ["task=deblur", f"root={images}", "task.protocol.metrics=[mssim]"])


@pytest.mark.parametrize("key", METRICS)
def test_every_score_has_its_function(key: str) -> None:
    assert callable(METRICS[key].make())


def test_directions_are_those_of_the_literature() -> None:
    lower = {"lpips_alex", "lpips_vgg", "dists", "fid", "kid", "fd_lite0"}
    lower |= {"abs_rel", "rmse", "log10", "silog", "rmse_log", *COSTS}
    assert {key for key, metric in COLUMNS.items() if metric.lower} == lower
    assert METRICS["psnr_y"].titled == "PSNR-Y ↑"
    assert METRICS["abs_rel"].titled == "Rel ↓"
    assert not any(re.search("[↑↓]", metric.titled) for metric in (*COSTS.values(), *GAINS.values()))


def test_only_distances_of_image_sets_need_many_images() -> None:
    found = few_images(dict.fromkeys(METRICS, Score(1.0, 2047)))
    assert [line.partition(" ↓ of fewer than 2048 images")[0] for line in found] == ["FID", "KID", "FD-Lite0"]


@pytest.mark.parametrize("task", ["segmentation", "depth"])
def test_a_main_metric_that_does_not_exist_is_refused(task: str, images: Path) -> None:
    with pytest.raises(UserError, match=r"^task.main_metric=psnr: choose one of (miou|abs_rel), "):
        load(Config, "train", [f"task={task}", f"root={images}", "task.main_metric=psnr"])
