"""Numbers of small seeded networks, so that no change of the networks is silent; a meant change updates them here."""

import pytest
import torch
from torch import Tensor

from diffi2i.models.cpen import CPEN
from diffi2i.models.denoiser import Denoiser
from diffi2i.models.di2iformer import DI2Iformer, Projection
from tests.conftest import awake


def pictures(*shape: int) -> Tensor:
    return torch.linspace(0, 1, torch.Size(shape).numel()).reshape(shape).mul(37).sin().mul(0.5).add(0.5)


def check(output: Tensor, mean: float, std: float) -> None:
    assert output.mean().item() == pytest.approx(mean, abs=1e-4)
    assert output.std().item() == pytest.approx(std, abs=1e-4)


@pytest.mark.parametrize(
    ("scale", "projection", "mean", "std"),
    [
        (1, "depthwise", 4.74047, 3.48667),
        (1, "pointwise", 5.24845, 3.59734),
        (4, "depthwise", 5.02399, 3.57082),
        (4, "pointwise", 4.94991, 3.55862),
    ],
)
@torch.no_grad()
def test_di2iformer_is_unchanged(scale: int, projection: Projection, mean: float, std: float):
    torch.manual_seed(0)
    net = DI2Iformer(3, 8, [1, 1, 1, 1], 1, prior_dim=16, expansion=1.0, projection=projection, scale=scale)
    check(10 * net(pictures(2, 3, 13, 18), 4 * pictures(2, 16)), mean, std)


@pytest.mark.parametrize(
    ("gt", "scale", "mean", "std"),
    [(3, 1, -3.6611, 44.38659), (3, 4, -18.05638, 127.85146), (0, 1, -44.72962, 121.85526), (0, 4, 12.1189, 111.82793)],
)
@torch.no_grad()
def test_cpen_is_unchanged(gt: int, scale: int, mean: float, std: float):
    torch.manual_seed(0)
    net = awake(CPEN(3, gt, channels=8, blocks=2, scale=scale))
    image, target = pictures(2, 3, 13, 18), pictures(2, 3, 13 * scale, 18 * scale) ** 2
    check(10 * net(10 * image, 10 * target if gt else None), mean, std)


@torch.no_grad()
def test_denoiser_is_unchanged():
    torch.manual_seed(0)
    net = awake(Denoiser(16, 4))
    check(10 * net(4 * pictures(2, 16), torch.tensor([0.25, 1]), pictures(2, 16)), -0.1673, 0.96426)
