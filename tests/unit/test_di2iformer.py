"""DynamicLayer and DI2Iformer against the numpy loops, every image size, and the arrangement of the U-shape."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from diffi2i.data.resize import imresize
from diffi2i.models.di2iformer import (
    DI2Iformer,
    DynamicBlock,
    DynamicLayer,
    GlobalMean,
    Modulation,
    Projection,
    local_mean,
)
from diffi2i.models.padding import pad_to_multiple, reflect_index
from diffi2i.models.streaming import streamed
from tests import reference as ref
from tests.examples import quick
from tests.networks import arrays, pictures64, randomise

PROJECTIONS: list[Projection] = ["depthwise", "pointwise"]
PRIOR = 5


def former(scale: int = 1, in_channels: int = 3, projection: Projection = "depthwise", **kwargs: Any) -> DI2Iformer:
    sizes: dict[str, Any] = {"width": 2, "blocks": [1, 2, 1, 1], "refinement": 1, "prior_dim": PRIOR, "expansion": 1.0}
    return randomise(DI2Iformer(in_channels, **(sizes | kwargs), projection=projection, scale=scale)).double()


def silence(module: nn.Module) -> None:
    for parameter in module.parameters():
        nn.init.zeros_(parameter)


def difference(net: DI2Iformer, image: Tensor, z: Tensor) -> Tensor:
    """What the network adds to the (enlarged) input image."""
    base = image[:, :3].float()
    added: Tensor = net(image, z) - (base if net.scale == 1 else imresize(base, net.scale))
    return added


def test_the_mean_over_all_pixels_has_a_gradient_in_its_inputs_memory_layout():
    x = pictures64(2, 3, 5, 4).contiguous(memory_format=torch.channels_last).requires_grad_()
    weights = torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]], dtype=torch.float64)
    mean = GlobalMean()(x)
    (slope,) = torch.autograd.grad((mean * weights[:, :, None, None]).sum(), x)
    assert mean.shape == (2, 3, 1, 1)
    np.testing.assert_allclose(mean[:, :, 0, 0].detach(), np.asarray(x.detach()).mean(axis=(2, 3)), rtol=1e-13)
    assert slope.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(slope, np.broadcast_to(weights[:, :, None, None] / 20, x.shape), rtol=1e-13)


@pytest.mark.parametrize("attention", [True, False])
@pytest.mark.parametrize(("projection", "expansion"), [("depthwise", 1.0), ("pointwise", 1.0), ("pointwise", 1.5)])
def test_dynamic_layer_equals_the_equations(projection: Projection, expansion: float, attention: bool):
    layer = randomise(DynamicLayer(4, PRIOR, expansion, projection, attention)).double()
    x, z = pictures64(2, 4, 5, 3), pictures64(2, PRIOR, seed=1)
    expected = [ref.dynamic_layer(x[i].numpy(), z[i].numpy(), arrays(layer), attention) for i in range(2)]
    np.testing.assert_allclose(layer(x, z).detach(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("attention", [True, False])
@pytest.mark.parametrize(("modulation", "weights"), [("scale", {"W_m"}), ("both", {"W_m", "W_l"})])
def test_a_prior_may_scale_what_a_layer_adds(modulation: Modulation, weights: set[str], attention: bool):
    layer = randomise(DynamicLayer(4, PRIOR, 1.0, "pointwise", attention, modulation)).double()
    assert {name.partition(".")[0] for name in layer.state_dict() if name.startswith("W_") and "W_c" not in name} == {
        "W_d",
        *weights,
    }
    x, z = pictures64(2, 4, 5, 3), pictures64(2, PRIOR, seed=1)
    for i in range(2):
        w, F, Z = arrays(layer), x[i].numpy(), z[i].numpy()
        still = w | {"W_l.weight": np.zeros((4, PRIOR))}
        added = ref.dynamic_layer(F, Z, still, attention) - F
        scale = 1 + np.einsum("cp,p->c", w["W_m.weight"], Z)
        shift = np.einsum("cp,p->c", w["W_l.weight"], Z) if modulation == "both" else np.zeros(4)
        expected = F + added * scale[:, None, None] + shift[:, None, None]
        np.testing.assert_allclose(layer(x, z)[i].detach(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("modulation", ["scale", "both"])
def test_a_modulated_network_starts_near_the_one_that_is_not_and_is_streamed_alike(modulation: Modulation):
    torch.manual_seed(0)
    layer = DynamicLayer(4, PRIOR, 1.0, "pointwise", True, modulation)
    assert layer.W_m is not None
    assert layer.W_m.weight.abs().max() <= 0.1 * PRIOR**-0.5
    net, z = former(modulation=modulation), pictures64(1, PRIOR).requires_grad_()
    image = pictures64(1, 3, 24, 16)
    net(image, z).square().mean().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []
    with torch.no_grad():
        strips = torch.cat([*streamed(net, image, z, 8, torch.device("cpu"))], dim=-2)
        torch.testing.assert_close(strips, net(image, z))
        plain = former()
        plain.load_state_dict({name: value for name, value in net.state_dict().items() if "W_m" not in name}, False)
        zero = torch.zeros_like(z)
        torch.testing.assert_close(plain(image, zero), net(image, zero))


def test_block_is_dynamic_attention_then_dynamic_feed_forward():
    block = randomise(DynamicBlock(4, PRIOR, 1.0, "depthwise")).double()
    x, z = pictures64(1, 4, 3, 4), pictures64(1, PRIOR, seed=1)
    weights = {f"0.{name}": value for name, value in arrays(block).items()}
    np.testing.assert_allclose(block(x, z)[0].detach(), ref.stack(x[0].numpy(), z[0].numpy(), weights), rtol=1e-10)
    assert block.attention.attention
    assert not block.feed_forward.attention


@pytest.mark.parametrize("attention", [True, False])
def test_prior_reaches_each_channel_equally_at_all_pixels(attention: bool):
    layer = randomise(DynamicLayer(4, PRIOR, 1.0, "depthwise", attention)).double()
    x, z = pictures64(1, 4, 5, 6), pictures64(2, PRIOR, seed=1)
    moved = layer(x, z[:1]) - layer(x, z[1:])
    assert layer.W_l is not None
    torch.testing.assert_close(moved, (layer.W_l(z[:1] - z[1:]))[..., None, None].expand_as(moved))


def test_depthwise_projection_refuses_to_expand():
    with pytest.raises(ValueError, match=r"expansion must be 1, got 1\.5"):
        DynamicLayer(4, PRIOR, 1.5, "depthwise", True)


@pytest.mark.parametrize("projection", PROJECTIONS)
@pytest.mark.parametrize(("scale", "in_channels"), [(1, 3), (1, 4), (2, 3), (4, 3)])
def test_whole_network_equals_the_loops(scale: int, in_channels: int, projection: Projection):
    net = former(scale, in_channels, projection)
    image, z = pictures64(1, in_channels, 8, 16), pictures64(1, PRIOR, seed=1)
    expected = ref.di2iformer(image[0].numpy(), z[0].numpy(), arrays(net), scale)
    np.testing.assert_allclose(difference(net, image, z)[0].detach(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale", [1, 4])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (9, 1), (2, 3), (8, 8), (11, 13), (17, 8)])
def test_any_size_keeps_its_shape_times_the_scale(size: tuple[int, int], scale: int):
    output = former(scale)(pictures64(2, 3, *size), pictures64(2, PRIOR))
    assert output.shape == (2, 3, size[0] * scale, size[1] * scale)
    assert output.isfinite().all()


@pytest.mark.parametrize("scale", [1, 4])
@pytest.mark.parametrize("size", [(9, 11), (5, 16), (8, 13)])
def test_network_adds_to_an_odd_image_what_it_adds_to_the_reflected_one(size: tuple[int, int], scale: int):
    net, image, z = former(scale), pictures64(1, 3, *size), pictures64(1, PRIOR, seed=1)
    padded = np.pad(image, [(0, 0), (0, 0), *((0, -side % 8) for side in size)], mode="reflect")
    whole = difference(net, torch.from_numpy(padded), z)[..., : size[0] * scale, : size[1] * scale]
    torch.testing.assert_close(difference(net, image, z), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale", [1, 4])
def test_another_prior_gives_another_output(scale: int):
    net, image = former(scale), pictures64(1, 3, 9, 9)
    assert (net(image, pictures64(1, PRIOR, seed=1)) - net(image, pictures64(1, PRIOR, seed=2))).abs().max() > 1e-3


def test_each_image_of_a_batch_is_guided_by_its_own_prior():
    net, images, z = former(), pictures64(3, 3, 9, 7), pictures64(3, PRIOR, seed=1)
    alone = torch.cat([net(images[i : i + 1], z[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(net(images, z), alone, rtol=1e-5, atol=1e-6)


def test_every_layer_is_guided_by_the_same_attached_prior():
    net, z, priors = former(), pictures64(1, PRIOR).requires_grad_(), []
    for layer in net.modules():
        if isinstance(layer, DynamicLayer):
            layer.register_forward_hook(lambda _, inputs, __: priors.append(inputs[1]))
    net(pictures64(1, 3, 8, 8), z)
    assert len(priors) == 2 * (1 + 2 + 1 + 1 + 1 + 2 + 1 + 1)  # DA and DFFN of encoder, bottom, decoder, refinement
    assert all(prior is z for prior in priors)


@pytest.mark.parametrize("projection", PROJECTIONS)
@pytest.mark.parametrize(("scale", "in_channels"), [(1, 4), (4, 3)])
def test_every_parameter_and_the_prior_get_a_gradient(scale: int, in_channels: int, projection: Projection):
    net, z = former(scale, in_channels, projection), pictures64(2, PRIOR).requires_grad_()
    net(pictures64(2, in_channels, 16, 16), z).square().mean().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert z.grad is not None
    assert (z.grad != 0).all()


@pytest.mark.parametrize("in_channels", [3, 4])
def test_zero_tail_leaves_the_input_image_without_its_mask(in_channels: int):
    net, image = former(1, in_channels), pictures64(2, in_channels, 9, 5)
    silence(net.tail)
    assert torch.equal(net(image, pictures64(2, PRIOR)), image[:, :3].float())


@pytest.mark.parametrize("scale", [2, 4])
def test_zero_tail_leaves_the_bicubic_image(scale: int):
    net, image = former(scale), pictures64(2, 3, 9, 5)
    silence(net.tail)
    assert torch.equal(net(image, pictures64(2, PRIOR)), imresize(image.float(), scale))


def test_output_is_float32_under_bfloat16_autocast_and_keeps_the_image_exact():
    net, image = former().float(), pictures64(1, 3, 8, 8).float()
    silence(net.tail)
    with torch.autocast("cpu", torch.bfloat16):
        output = net(image, pictures64(1, PRIOR).float())
    assert output.dtype == torch.float32
    assert torch.equal(output, image)


def test_levels_have_one_two_four_eight_widths_and_halve_the_sides():
    net, seen = former(width=4, blocks=[1, 1, 1, 1]), []
    for stack in (*net.encoder, net.bottom, *net.decoder, net.refine):
        stack.register_forward_hook(
            lambda _, inputs, output: seen.append((tuple(inputs[0].shape), tuple(output.shape)))
        )
    net(pictures64(1, 3, 16, 24), pictures64(1, PRIOR))
    levels = [(1, 4, 16, 24), (1, 8, 8, 12), (1, 16, 4, 6), (1, 32, 2, 3)]
    assert [before for before, _ in seen] == [*levels, *levels[2::-1], levels[0]]
    assert all(before == after for before, after in seen)


def test_each_join_gets_the_upsampled_features_and_the_skip_of_its_level():
    net, kept, joined, raised = former(), [], [], []
    for level in net.encoder:
        level.register_forward_hook(lambda _, __, output: kept.append(output))
    for up in net.up:
        up.register_forward_hook(lambda _, __, output: raised.append(output))
    for join in net.join:
        join.register_forward_hook(lambda _, inputs, __: joined.append(inputs[0]))
    net(pictures64(1, 3, 8, 8), pictures64(1, PRIOR))
    for features, skip, both in zip(raised, reversed(kept), joined, strict=True):
        assert torch.equal(both, torch.cat([features, skip], dim=1))
    assert [both.shape[1] for both in joined] == [16, 8, 4]


def test_block_counts_are_mirrored_by_the_decoder():
    net = former(blocks=[1, 2, 3, 4], refinement=5)
    assert [len(list(level.children())) for level in net.encoder] == [1, 2, 3]
    assert len(net.bottom) == 4
    assert [len(list(level.children())) for level in net.decoder] == [3, 2, 1]
    assert len(net.refine) == 5


def test_zero_blocks_at_a_level_are_allowed():
    assert former(blocks=[0, 0, 0, 0], refinement=0)(pictures64(1, 3, 5, 5), pictures64(1, PRIOR)).shape == (1, 3, 5, 5)


def test_other_than_four_levels_are_refused():
    with pytest.raises(ValueError, match="blocks must name 4 levels"):
        former(blocks=[1, 1, 1])


@given(height=st.integers(2, 20), width=st.integers(2, 20), multiple=st.sampled_from([1, 2, 4, 8]))
@quick
def test_padding_equals_numpys_reflection(height: int, width: int, multiple: int):
    image = pictures64(1, 2, height, width)
    spare = [(0, 0), (0, 0), (0, -height % multiple), (0, -width % multiple)]
    np.testing.assert_array_equal(pad_to_multiple(image, multiple), np.pad(image, spare, mode="reflect"))


@given(height=st.integers(1, 9), width=st.integers(1, 9), multiple=st.sampled_from([4, 8]))
@quick
def test_padding_keeps_the_image_and_adds_less_than_a_multiple(height: int, width: int, multiple: int):
    image = pictures64(1, 1, height, width)
    padded = pad_to_multiple(image, multiple)
    assert torch.equal(padded[..., :height, :width], image)
    assert all(side % multiple == 0 for side in padded.shape[-2:])
    assert 0 <= padded.shape[-2] - height < multiple
    assert 0 <= padded.shape[-1] - width < multiple


@given(side=st.integers(1, 9), multiple=st.sampled_from([4, 8]))
@quick
def test_one_pixel_side_is_repeated(side: int, multiple: int):
    image = pictures64(1, 2, 1, side)
    rows = pad_to_multiple(image, multiple)
    assert torch.equal(rows, rows[..., :1, :].expand_as(rows))
    assert torch.equal(pad_to_multiple(image.mT, multiple), rows.mT)


@given(size=st.integers(2, 9), padded=st.integers(1, 60))
@quick
def test_reflection_walks_to_and_fro(size: int, padded: int):
    index = reflect_index(size, padded, torch.device("cpu")).tolist()
    assert index[:size] == list(range(min(size, padded)))
    assert set(index) <= set(range(size))
    assert all(abs(a - b) == 1 for a, b in pairwise(index))


def mean_at(picture: ref.Array, row: int, column: int, side: int) -> float:
    """Of the window around a pixel, moved until it lies inside."""
    bounds = []
    for place, length in ((row, picture.shape[0]), (column, picture.shape[1])):
        inside = [start for start in range(length) if start + min(side, length) <= length]
        start = min(inside, key=lambda start: abs(start - (place - (min(side, length) - 1) // 2)))
        bounds.append(slice(start, start + min(side, length)))
    return float(picture[bounds[0], bounds[1]].mean())


@pytest.mark.parametrize("side", [1, 2, 3, 6, 7, 100])
def test_local_means_are_those_of_a_window_around_each_pixel(side: int) -> None:
    x = pictures64(2, 1, 6, 9)
    expected = [[[mean_at(image[0], i, j, side) for j in range(9)] for i in range(6)] for image in x.numpy()]
    np.testing.assert_allclose(local_mean(x, side)[:, 0], expected, rtol=1e-12)


def test_local_means_of_a_large_bright_image_keep_their_digits() -> None:
    x = 1 + 1e-3 * torch.rand(1, 1, 700, 900, generator=torch.Generator().manual_seed(0))
    exact = x.double()[0, 0, 600:632, 800:832].mean()
    assert local_mean(x, 32)[0, 0, 615, 815].double() == pytest.approx(exact.item(), rel=1e-7)


def test_tlc_pools_over_the_same_part_of_the_image_at_every_level() -> None:
    net, image, z = former(), pictures64(1, 3, 32, 48), pictures64(1, PRIOR)
    plain = net(image, z)
    net.use_tlc(16)
    layers = {name: layer for name, layer in net.named_modules() if isinstance(layer, DynamicLayer)}
    sides = {name.split("attention")[0].split("feed_forward")[0]: layer.window for name, layer in layers.items()}
    assert sides == {
        **{"encoder.0.0.": 16, "encoder.1.0.": 8, "encoder.1.1.": 8, "encoder.2.0.": 4, "bottom.0.": 2},
        **{"decoder.0.0.": 4, "decoder.1.0.": 8, "decoder.1.1.": 8, "decoder.2.0.": 16, "refine.0.": 16},
    }
    assert not torch.allclose(net(image, z), plain)
    net.use_tlc(64)
    torch.testing.assert_close(net(image, z), plain)


@pytest.mark.parametrize(("scale", "projection"), [(1, "depthwise"), (4, "pointwise")])
@torch.no_grad()
def test_without_a_prior_it_is_the_network_under_z_of_zeros(scale: int, projection: Projection):
    guided, plain = former(scale, projection=projection), former(scale, projection=projection, prior_dim=None)
    weights = {name: value for name, value in guided.state_dict().items() if "W_l" not in name}
    assert len(weights) < len(guided.state_dict())
    plain.load_state_dict(weights)
    image = pictures64(1, 3, 9, 14)
    assert torch.equal(plain(image), guided(image, torch.zeros(1, PRIOR, dtype=torch.float64)))
