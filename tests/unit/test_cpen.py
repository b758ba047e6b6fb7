"""CPEN (Eqs. 5 and 12) and the denoising network against the numpy loops: order of channels, sizes, who sees what."""

import numpy as np
import pytest
import torch
from torch import nn

from diffi2i.models.cpen import CPEN, mean_of
from diffi2i.models.denoiser import Denoiser
from tests import reference as ref
from tests.conftest import awake
from tests.networks import arrays, pictures64

CHANNELS = 2


def cpen(gt: bool, scale: int = 1, in_channels: int = 3, blocks: int = 1) -> CPEN:
    torch.manual_seed(0)
    return awake(CPEN(in_channels, 3 if gt else 0, CHANNELS, blocks, scale)).double()


@pytest.mark.parametrize(("in_channels", "blocks"), [(3, 0), (3, 2), (4, 1)])
def test_s1_unshuffles_the_joined_truth_and_input(in_channels: int, blocks: int):
    net = cpen(gt=True, in_channels=in_channels, blocks=blocks)
    image, gt = pictures64(2, in_channels, 8, 12), pictures64(2, 3, 8, 12, seed=1)
    joined = [ref.pixel_unshuffle(np.concatenate([gt[i], image[i]]), 4) for i in range(2)]
    expected = [ref.cpen(x, arrays(net), blocks) for x in joined]
    np.testing.assert_allclose(net(image, gt).detach(), expected, rtol=1e-9)
    assert net.features[0].in_channels == (3 + in_channels) * 16


@pytest.mark.parametrize("scale", [1, 4])
def test_s1_may_see_the_truth_alone(scale: int):
    torch.manual_seed(0)
    net = awake(CPEN(0, 3, CHANNELS, blocks=1, scale=scale)).double()
    gt = pictures64(1, 3, 8, 12)
    expected = ref.cpen(ref.pixel_unshuffle(gt[0].numpy(), 4), arrays(net), blocks=1)
    for seed in (1, 2):
        image = pictures64(1, 3, 8 // scale, 12 // scale, seed=seed)
        np.testing.assert_allclose(net(image, gt)[0].detach(), expected, rtol=1e-9)


@pytest.mark.parametrize("in_channels", [3, 4])
def test_s2_unshuffles_the_input_alone(in_channels: int):
    net, image = cpen(gt=False, in_channels=in_channels), pictures64(1, in_channels, 8, 4)
    expected = ref.cpen(ref.pixel_unshuffle(image[0].numpy(), 4), arrays(net), blocks=1)
    np.testing.assert_allclose(net(image)[0].detach(), expected, rtol=1e-9)
    assert net.features[0].in_channels == in_channels * 16


@pytest.mark.parametrize(("scale", "channels"), [(4, 48 + 3), (2, 48 + 12)])
def test_super_resolution_joins_the_unshuffled_truth_to_the_small_input(scale: int, channels: int):
    net = cpen(gt=True, scale=scale)
    image, gt = pictures64(1, 3, 4, 2), pictures64(1, 3, 4 * scale, 2 * scale, seed=1)
    small = ref.pixel_unshuffle(image[0].numpy(), 4 // scale)
    joined = np.concatenate([ref.pixel_unshuffle(gt[0].numpy(), 4), small])
    assert joined.shape[0] == net.features[0].in_channels == channels
    np.testing.assert_allclose(net(image, gt)[0].detach(), ref.cpen(joined, arrays(net), blocks=1), rtol=1e-9)


def test_super_resolution_s2_reads_the_input_as_it_is():
    net, image = cpen(gt=False, scale=4), pictures64(1, 3, 3, 5)
    assert net.features[0].in_channels == 3
    np.testing.assert_allclose(net(image)[0].detach(), ref.cpen(image[0].numpy(), arrays(net), blocks=1), rtol=1e-9)


def test_s1_and_s2_differ_in_the_first_convolution_alone():
    first, second = (
        {name: p.shape for name, p in cpen(gt).named_parameters() if name != "features.0.weight"}
        for gt in (True, False)
    )
    assert first == second
    assert cpen(True).features[0].weight.shape != cpen(False).features[0].weight.shape


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_normalised_prior_has_mean_zero_and_variance_one(dtype: torch.dtype):
    torch.manual_seed(0)
    net = awake(CPEN(3, 3, 16, 1, 1, normalise=True)).double()
    image, gt = pictures64(2, 3, 8, 12), pictures64(2, 3, 8, 12, seed=1)
    joined = [ref.pixel_unshuffle(np.concatenate([gt[i], image[i]]), 4) for i in range(2)]
    expected = []
    for v in (ref.cpen(x, arrays(net), 1) for x in joined):
        mean = sum(v) / len(v)
        expected.append((v - mean) / np.sqrt(sum((n - mean) ** 2 for n in v) / len(v) + 1e-6))
    if dtype == torch.float64:
        np.testing.assert_allclose(net(image, gt).detach(), expected, rtol=1e-7, atol=1e-9)
        return
    with torch.autocast("cpu", dtype):
        z = net.float()(image.float(), gt.float())
    assert z.dtype == torch.float32
    torch.testing.assert_close(z.mean(1), torch.zeros(2), rtol=0, atol=1e-6)
    np.testing.assert_allclose(z.detach(), expected, atol=0.1)


def test_s1_requires_the_truth_and_s2_refuses_it():
    image = pictures64(1, 3, 4, 4)
    for net, gt in ((cpen(gt=True), None), (cpen(gt=False), image)):
        with pytest.raises(ValueError, match="CPEN_S1 needs the ground truth and CPEN_S2 must not see it"):
            net(image, gt)


def test_scale_that_does_not_divide_four_is_refused():
    with pytest.raises(ValueError, match="scale must divide 4, got 3"):
        cpen(gt=True, scale=3)


@pytest.mark.parametrize("scale", [1, 4])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (6, 1), (7, 10), (16, 4)])
def test_prior_has_four_times_the_channels_for_any_size(size: tuple[int, int], scale: int):
    image, gt = pictures64(2, 3, *size), pictures64(2, 3, size[0] * scale, size[1] * scale)
    assert cpen(gt=True, scale=scale)(image, gt).shape == (2, 4 * CHANNELS)
    assert cpen(gt=False, scale=scale)(image).shape == (2, 4 * CHANNELS)


def test_prior_of_an_odd_image_is_that_of_its_reflection():
    net, image, gt = cpen(gt=True), pictures64(1, 3, 7, 6), pictures64(1, 3, 7, 6, seed=1)
    padded = [torch.from_numpy(np.pad(x, [(0, 0), (0, 0), (0, 1), (0, 2)], mode="reflect")) for x in (image, gt)]
    torch.testing.assert_close(net(image, gt), net(*padded))


def test_prior_of_an_image_does_not_depend_on_its_batch():
    net, images, gt = cpen(gt=True), pictures64(3, 3, 8, 8), pictures64(3, 3, 8, 8, seed=1)
    alone = torch.cat([net(images[i : i + 1], gt[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(net(images, gt), alone)
    torch.testing.assert_close(net(images.flip(0), gt.flip(0)), alone.flip(0))


@pytest.mark.parametrize("scale", [1, 4])
def test_gradient_reaches_every_parameter_and_both_images(scale: int):
    torch.manual_seed(0)
    net = CPEN(3, 3, CHANNELS, 2, scale).double()
    image, gt = pictures64(2, 3, 8, 8).requires_grad_(), pictures64(2, 3, 8 * scale, 8 * scale).requires_grad_()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    net(image, gt).square().sum().backward()
    optimizer.step()  # a block starts as the identity: what lies before its zeros moves from the second step on
    for tensor in (*net.parameters(), image, gt):
        tensor.grad = None
    net(image, gt).square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert image.grad is not None
    assert gt.grad is not None
    assert image.grad.all()
    assert gt.grad.all()


@pytest.mark.parametrize("hidden", [0, 1, 4])
def test_denoiser_reads_prior_time_and_condition_in_this_order(hidden: int):
    torch.manual_seed(0)
    net = awake(Denoiser(6, hidden)).double()
    z, D, time = pictures64(2, 6), pictures64(2, 6, seed=1), torch.tensor([0.25, 1.0], dtype=torch.float64)
    expected = [ref.denoiser(z[i].numpy(), time[i].item(), D[i].numpy(), arrays(net), hidden) for i in range(2)]
    np.testing.assert_allclose(net(z, time, D).detach(), expected, rtol=1e-9)


def test_denoiser_of_the_paper_has_513_inputs_and_256_outputs():
    layers = [layer for layer in Denoiser(4 * 64, 4).layers if isinstance(layer, nn.Linear)]
    assert (layers[0].in_features, layers[-1].out_features) == (2 * 256 + 1, 256)
    assert {layer.out_features for layer in layers} == {256}


def test_denoiser_is_the_same_for_each_vector_of_a_batch():
    torch.manual_seed(0)
    net = awake(Denoiser(6, 2)).double()
    z, D, time = pictures64(3, 6), pictures64(3, 6, seed=1), pictures64(3, seed=2)
    torch.testing.assert_close(net(z, time, D)[1:2], net(z[1:2], time[1:2], D[1:2]))


@pytest.mark.parametrize("blocks", [0, 1, 9])
def test_blocks_start_as_the_identity(blocks: int):
    torch.manual_seed(0)
    net = CPEN(3, 0, 8, blocks, 1)
    image = pictures64(1, 3, 8, 8).float()
    without = nn.Sequential(net.features[0], *net.features[1 + blocks :])
    unshuffled = nn.functional.pixel_unshuffle(image, 4)
    torch.testing.assert_close(net.features(unshuffled), without(unshuffled))


def test_the_denoiser_starts_at_zero():
    torch.manual_seed(0)
    net = Denoiser(6, 2)
    assert not net(pictures64(2, 6).float(), torch.tensor([0.25, 1.0]), pictures64(2, 6, seed=1).float()).any()


@pytest.mark.parametrize("size", [(1, 7), (5, 6), (40, 9), (41, 23)])
@pytest.mark.parametrize("most", [1, 30, 100])
def test_a_large_map_is_averaged_in_strips_as_the_whole_is(size: tuple[int, int], most: int) -> None:
    torch.manual_seed(0)
    features = awake(CPEN(3, 0, 4, 2, 4)).features.double()
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        strips, whole = mean_of(features, x, most), mean_of(features, x, 10**9)
    torch.testing.assert_close(strips, whole, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(whole, features(x).mean(dim=(2, 3)))
