"""Every score of fixed inputs, to 1e-5: an upgrade of torchmetrics or torch that changes a number fails here.

Whether the numbers are right is for the other tests to say; these are what the code gave. Regenerate them, after a
change that is meant, with `python -m tests.golden.test_golden_scores`.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from skimage import data
from torch import Tensor

from diffi2i.config.schema import ProtocolConfig
from diffi2i.metrics.depth import DepthScores
from diffi2i.metrics.image import ImageScores
from diffi2i.metrics.segmentation import SegmentationScores
from diffi2i.metrics.spec import METRICS, of_kind

PER_IMAGE = [metric for metric in of_kind("image") if not METRICS[metric].of_set]

GOLDEN = {
    "psnr": 30.4684337,
    "psnr_y": 32.0580825,
    "ssim": 0.7827112,
    "ssim_y": 0.8131123,
    "ssim_3d": 0.9360628,
    "lpips_alex": 0.0693002,
    "lpips_vgg": 0.3199648,
    "dists": 0.2031851,
    "psnr_hole": 30.2875598,
    "miou": 0.3205714,
    "pixel_accuracy": 0.4854911,
    "mean_accuracy": 0.4854852,
    "abs_rel": 1.1524485,
    "rmse": 3.0896805,
    "log10": 0.3159275,
    "delta1": 0.1083477,
    "delta2": 0.3877022,
    "delta3": 0.5981936,
    "silog": 89.1298005,
    "rmse_log": 0.8920610,
}


def tensor(image: np.ndarray) -> Tensor:
    """(H, W, 3) bytes -> (1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255


def photo(top: int, left: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """A piece of scikit-image's astronaut, blurred and dithered, and as it is.

    In integers: random generators and resizing may change from one version to the next.
    """
    target = data.astronaut()[top : top + height, left : left + width].astype(np.int64)  # type: ignore[no-untyped-call]
    blurred = (target + np.roll(target, 1, 0) + np.roll(target, 1, 1) + np.roll(target, (1, 1), (0, 1))) // 4
    rows, columns = np.indices((height, width))
    pred = np.clip(blurred + (rows * 7 + columns * 13)[..., None] % 17 - 8, 0, 255)
    return tensor(pred.astype(np.uint8)), tensor(target.astype(np.uint8))


def image_scores(metric: str) -> float | None:
    scores = ImageScores(ProtocolConfig(border=1, metrics=[metric]))
    for name, (pred, target) in {"large": photo(0, 160, 96, 120), "small": photo(130, 30, 67, 51)}.items():
        mask = torch.zeros_like(target[:, :1])
        mask[..., 20:45, 10:40] = 1
        scores.update(pred, target, names=[name], mask=mask)
    if metric in scores.reasons():
        pytest.skip(scores.reasons()[metric])
    return scores.compute()[metric]


def segmentation_scores() -> dict[str, float | None]:
    rows, columns = np.indices((48, 60))
    labels = (rows // 9 + columns // 11) % 5
    labels[:, :4] = 255
    # At half the size, and often wrong; of the six classes the last neither occurs nor is predicted.
    wrong = (rows[::2, ::2] // 9 + columns[::2, ::2] // 13) % 5
    logits = torch.nn.functional.one_hot(torch.from_numpy(wrong), 6).permute(2, 0, 1)[None].float()
    scores = SegmentationScores(6)
    scores.update(logits, torch.from_numpy(labels)[None], names=["tiles"])
    return scores.compute()


def depth_scores() -> dict[str, float | None]:
    rows, columns = np.indices((40, 56))
    target = 1 + ((rows * 7 + columns * 3) % 113) / 11  # up to 11.2 m, of which 10 count
    pred = 1 + ((rows * 7 + columns * 3) % 127) / 13
    scores = DepthScores(0.001, 10.0, crop=None)
    for name, factor in {"near": 0.5, "far": 1.0}.items():
        pair = (torch.from_numpy(factor * depth)[None, None].float() for depth in (pred, target))
        scores.update(*pair, names=[name], mask=torch.from_numpy(columns > 5)[None, None].float())
    return scores.compute()


DENSE: dict[str, Callable[[], dict[str, float | None]]] = {
    "segmentation": segmentation_scores,
    "depth": depth_scores,
}


@pytest.mark.parametrize("metric", PER_IMAGE)
def test_image_scores(metric: str) -> None:
    assert image_scores(metric) == pytest.approx(GOLDEN[metric], abs=1e-5)


@pytest.mark.parametrize("task", DENSE)
def test_segmentation_and_depth_scores(task: str) -> None:
    found = DENSE[task]()
    assert found == pytest.approx({key: GOLDEN[key] for key in found}, abs=1e-5)


if __name__ == "__main__":
    for scores in ({metric: image_scores(metric) for metric in PER_IMAGE}, segmentation_scores(), depth_scores()):
        for key, score in scores.items():
            print(f'    "{key}": {score:.7f},')
