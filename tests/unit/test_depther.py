"""The depth network: adaptive bins and the pyramid."""

from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from diffi2i.models.axial import SeaEncoder
from diffi2i.models.depther import Depther, bin_centres
from diffi2i.models.encoders import TimmEncoder
from tests.networks import pictures

PRIOR = 5
NEAR, FAR = 0.5, 8.0
SEA = partial(
    SeaEncoder,
    widths=[4, 4, 8, 8, 12],
    convs=[1, 1, 1, 1],
    ratios=[1, 2, 2, 2],
    attention=[0, 0, 1, 1],
    heads=2,
    key_dim=3,
    expansion=1.0,
)
ENCODERS: dict[str, Any] = {
    "sea": SEA,
    "lite0": partial(TimmEncoder, "tf_efficientnet_lite0"),
    "swin": partial(TimmEncoder, "swin_tiny_patch4_window7_224"),
}


def depther(encoder: str = "sea", **kwargs: Any) -> Depther:
    torch.manual_seed(0)
    options: dict[str, Any] = {"width": 8, "bins": 10, "min_depth": NEAR, "max_depth": FAR, "prior_dim": PRIOR}
    return Depther(ENCODERS[encoder], **(options | kwargs)).eval()


def softmax(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    e = np.exp(x - x.max())
    return np.asarray(e / e.sum())


def test_bin_centres_are_the_middles_of_bins_that_tile_the_range():
    logits = torch.randn(3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for row, centres in zip(logits.numpy(), bin_centres(logits, NEAR, FAR).numpy(), strict=True):
        edges = [NEAR]
        for share in softmax(row):
            edges.append(edges[-1] + share * (FAR - NEAR))
        assert edges[-1] == pytest.approx(FAR)
        np.testing.assert_allclose(centres, [(a + b) / 2 for a, b in pairwise(edges)], rtol=1e-12)


def test_equal_logits_give_equal_bins():
    np.testing.assert_allclose(bin_centres(torch.zeros(1, 4), 0.0, 8.0), [[1, 3, 5, 7]], rtol=1e-6)


def test_depth_is_the_expectation_over_the_bins():
    net, generator = depther(bins=4), torch.Generator().manual_seed(0)
    scores, widths = torch.randn(2, 4, 2, 3, generator=generator), torch.randn(2, 4, generator=generator)
    centres = bin_centres(widths.double(), NEAR, FAR).numpy()
    expected = np.zeros((2, 1, 2, 3))
    for b in range(2):
        for i in range(2):
            for j in range(3):
                expected[b, 0, i, j] = sum(softmax(scores[b, :, i, j].double().numpy()) * centres[b])
    np.testing.assert_allclose(net.expected_depth(scores, widths), expected, rtol=1e-5)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("size", [(1, 1), (33, 31), (64, 96)])
def test_depth_has_the_size_of_the_image_and_stays_in_range(encoder: str, size: tuple[int, int]):
    depth = depther(encoder)(pictures(2, 3, *size), 100 * pictures(2, PRIOR))
    assert depth.shape == (2, 1, *size)
    assert depth.dtype == torch.float32
    assert ((depth >= NEAR) & (depth <= FAR)).all()


@pytest.mark.parametrize("sign", [-1, 1])
def test_extreme_scores_stay_in_range(sign: int):
    net = depther(bins=64)
    scores = torch.zeros(1, 64, 2, 2)
    scores[:, -1 if sign > 0 else 0] = 1e4
    widths = torch.zeros(1, 64)
    widths[:, 0 if sign > 0 else -1] = 1e4  # all other bins have no width: their centres lie on the border
    depth = net.expected_depth(scores, widths)
    assert ((depth >= NEAR) & (depth <= FAR)).all()
    np.testing.assert_allclose(depth, FAR if sign > 0 else NEAR, rtol=1e-5)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_another_prior_gives_another_depth_and_the_same_one_the_same(encoder: str):
    net, image, z = depther(encoder), pictures(1, 3, 40, 50), pictures(1, PRIOR, seed=1)
    assert (net(image, z) - net(image, -z)).abs().max() > 1e-4
    assert torch.equal(net(image, z), net(image, z))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_every_parameter_and_the_prior_get_a_gradient_from_the_start(encoder: str):
    net, z = depther(encoder).train(), pictures(2, PRIOR).requires_grad_()
    (net(pictures(2, 3, 64, 96), z) * pictures(2, 1, 64, 96)).mean().backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert z.grad is not None
    assert (z.grad != 0).all()


@pytest.mark.parametrize("encoder", ENCODERS)
def test_output_is_float32_and_close_under_bfloat16_autocast(encoder: str):
    net, image, z = depther(encoder), pictures(1, 3, 40, 40), pictures(1, PRIOR)
    with torch.autocast("cpu", torch.bfloat16):
        depth = net(image.contiguous(memory_format=torch.channels_last), z)
    assert depth.dtype == torch.float32
    assert len(depth.unique()) > 100  # bfloat16 would leave few values
    torch.testing.assert_close(depth, net(image, z), rtol=0.05, atol=0.05)


@pytest.mark.parametrize(("near", "far"), [(1.0, 1.0), (2.0, 1.0), (-1.0, 1.0)])
def test_empty_range_is_refused(near: float, far: float):
    with pytest.raises(ValueError, match="0 <= min_depth < max_depth"):
        depther(min_depth=near, max_depth=far)


def test_batch_norms_become_synchronised_ones():
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(depther("lite0"))  # type: ignore[no-untyped-call]
    assert any(isinstance(m, nn.SyncBatchNorm) for m in converted.modules())
    assert not any(type(m) is nn.BatchNorm2d for m in converted.modules())


def test_a_few_steps_fit_a_step_in_depth():
    net = depther().train()
    image, target = torch.full((2, 3, 32, 64), 0.2), torch.full((2, 1, 32, 64), 1.0)
    image[..., 32:], target[..., 32:] = 0.8, 4.0
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-2)
    for _ in range(30):
        loss = (net(image, torch.zeros(2, PRIOR)).log() - target.log()).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.1  # one depth for all gives (log 4 / 2)^2 = 0.48


def test_a_few_steps_find_what_the_prior_alone_tells():
    """The image is noise; the depth, one for each image, stands in Z."""
    net, generator = depther(bins=16).train(), torch.Generator().manual_seed(0)
    optimiser = torch.optim.AdamW(net.parameters(), lr=5e-3)
    losses = []
    for _ in range(100):
        image, z = (torch.rand(*s, generator=generator) for s in ((8, 3, 32, 64), (8, PRIOR)))
        target = (1 + 5 * z[:, 0])[:, None, None, None]
        loss = (net(image, 2 * z - 1).log() - target.log()).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) / 10 < 0.1  # the best depth for all gives 0.24


@pytest.mark.parametrize("encoder", ENCODERS)
@torch.no_grad()
def test_without_a_prior_it_is_the_network_under_z_of_zeros(encoder: str):
    guided, plain = depther(encoder), depther(encoder, prior_dim=None)
    weights = {name: value for name, value in guided.state_dict().items() if "W_l" not in name}
    assert len(weights) < len(guided.state_dict())
    plain.load_state_dict(weights)
    image = pictures(1, 3, 40, 70)
    assert torch.equal(plain(image), guided(image, torch.zeros(1, PRIOR)))
