"""Squeeze-enhanced axial attention and the segmentation network."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from diffi2i.models.axial import AxialBlock, AxialLayer, AxisAttention, SeaEncoder, SqueezeAxialAttention
from diffi2i.models.cpen import CPEN
from diffi2i.models.denoiser import Denoiser
from diffi2i.models.encoders import TimmEncoder
from diffi2i.models.segmenter import Fusion, Segmenter
from tests import reference as ref
from tests.networks import pictures64, randomise

PRIOR = 5
TINY: dict[str, Any] = {
    "widths": [4, 4, 8, 8, 12],
    "convs": [1, 2, 1, 1],
    "ratios": [1, 2, 2, 2],
    "attention": [0, 0, 1, 2],
    "heads": 2,
    "key_dim": 3,
    "expansion": 1.5,
}
SMALL: dict[str, Any] = {
    "widths": [16, 24, 48, 96, 160, 192],
    "convs": [2, 2, 2, 1, 1],
    "ratios": [4, 3, 3, 4, 6],
    "attention": [0, 0, 0, 3, 3],
    "heads": 6,
    "key_dim": 16,
    "expansion": 2.5,
}
LARGE: dict[str, Any] = {
    "widths": [32, 64, 128, 192, 256, 320],
    "convs": [2, 2, 2, 1, 1],
    "ratios": [4, 4, 4, 4, 6],
    "attention": [0, 0, 3, 3, 3],
    "heads": 8,
    "key_dim": 16,
    "expansion": 2.0,
}


def network(encoder: str = "sea", prior_dim: int | None = PRIOR) -> Segmenter:
    torch.manual_seed(0)
    make = partial(SeaEncoder, **TINY) if encoder == "sea" else partial(TimmEncoder, "tf_efficientnet_lite0")
    return Segmenter(make, classes=7, head_width=6, prior_dim=prior_dim).eval()


# --- the attention in loops ------------------------------------------------------------------------------------------


def weights_of(module: nn.Module, path: str) -> dict[str, ref.Array]:
    found = {
        k.removeprefix(path + "."): v.double().numpy() for k, v in module.state_dict().items() if k.startswith(path)
    }
    assert found
    return found


def conv_norm(x: ref.Array, w: dict[str, ref.Array], pad: int = 0) -> ref.Array:
    """Convolution (dense 1x1, or depth-wise 3x3) of (C, H, W), then batch normalisation with the stored statistics."""
    kernel = w["0.weight"]
    if pad:
        padded = np.pad(x, [(0, 0), (pad, pad), (pad, pad)])
        y = np.zeros_like(x)
        for dy in range(3):
            for dx in range(3):
                y += kernel[:, 0, dy, dx, None, None] * padded[:, dy : dy + x.shape[1], dx : dx + x.shape[2]]
    else:
        y = np.einsum("oc,chw->ohw", kernel[:, :, 0, 0], x)
    mean, variance, scale, shift = (
        w[f"1.{name}"][:, None, None] for name in ("running_mean", "running_var", "weight", "bias")
    )
    return np.asarray((y - mean) / np.sqrt(variance + 1e-5) * scale + shift)


def stretch(position: ref.Array, length: int) -> ref.Array:
    """Linear interpolation between the centres of equal cells; beyond the outermost centres the value stays."""
    cells = position.shape[-1]
    at = (np.arange(length) + 0.5) * cells / length - 0.5
    return np.stack([np.interp(at, np.arange(cells), row) for row in position[0]])


def axis_attention(q: ref.Array, k: ref.Array, v: ref.Array, w: dict[str, ref.Array], heads: int) -> ref.Array:
    length = q.shape[1]
    q, k = q + stretch(w["position_q"], length), k + stretch(w["position_k"], length)
    d, e = len(q) // heads, len(v) // heads
    out = np.zeros_like(v)
    for head in range(heads):
        for i in range(length):
            scores = np.array(
                [q[head * d : (head + 1) * d, i] @ k[head * d : (head + 1) * d, j] / np.sqrt(d) for j in range(length)]
            )
            p = np.exp(scores - scores.max())
            out[head * e : (head + 1) * e, i] = v[head * e : (head + 1) * e] @ (p / p.sum())
    projection = {key.removeprefix("project.1."): value for key, value in w.items() if key.startswith("project.1.")}
    return conv_norm(np.clip(out, 0, 6)[:, :, None], projection)[:, :, 0]


def sea(x: ref.Array, module: nn.Module, heads: int) -> ref.Array:
    q, k, v = (conv_norm(x, weights_of(module, name)) for name in "qkv")
    rows = axis_attention(q.mean(2), k.mean(2), v.mean(2), weights_of(module, "rows"), heads)
    columns = axis_attention(q.mean(1), k.mean(1), v.mean(1), weights_of(module, "columns"), heads)
    total = np.clip(v + rows[:, :, None] + columns[:, None, :], 0, 6)
    gate = np.clip(conv_norm(total, weights_of(module, "gate.1")) / 6 + 0.5, 0, 1)
    detail = np.clip(conv_norm(np.concatenate([q, k, v]), weights_of(module, "detail.0"), pad=1), 0, 6)
    return np.asarray(gate * conv_norm(detail, weights_of(module, "detail.2")))


def layer_norm(x: ref.Array, w: dict[str, ref.Array]) -> ref.Array:
    centred = x - x.mean(0)
    scaled = centred / np.sqrt((centred**2).mean(0) + 1e-5)
    return np.asarray(scaled * w["weight"][:, None, None] + w["bias"][:, None, None])


@pytest.mark.parametrize("size", [(4, 3), (1, 1), (5, 20)])
def test_squeeze_axial_attention_equals_the_loops(size: tuple[int, int]):
    module = randomise(SqueezeAxialAttention(6, heads=2, key_dim=3)).double().eval()
    x = pictures64(2, 6, *size)
    expected = [sea(x[i].numpy(), module, heads=2) for i in range(2)]
    np.testing.assert_allclose(module(x).detach(), expected, rtol=1e-9, atol=1e-11)


def test_axial_layer_is_eq_8_with_axial_attention():
    layer = randomise(AxialLayer(6, PRIOR, heads=2, key_dim=3)).double().eval()
    x, z = pictures64(1, 6, 4, 5), pictures64(1, PRIOR, seed=1)
    attended = sea(layer_norm(x[0].numpy(), weights_of(layer, "norm")), layer.attention, heads=2)
    shift = weights_of(layer, "W_l")["weight"] @ z[0].numpy()
    np.testing.assert_allclose(
        layer(x, z)[0].detach(), attended + shift[:, None, None] + x[0].numpy(), rtol=1e-9, atol=1e-11
    )


def test_block_is_axial_attention_then_eq_9():
    block = randomise(AxialBlock(6, PRIOR, heads=2, key_dim=3, expansion=1.5)).double().eval()
    x, z = pictures64(1, 6, 4, 5), pictures64(1, PRIOR, seed=1)
    feed_forward = {name: value.numpy() for name, value in block.feed_forward.state_dict().items()}
    between = block.attention(x, z)[0].detach().numpy()
    expected = ref.dynamic_layer(between, z[0].numpy(), feed_forward, False)
    np.testing.assert_allclose(block(x, z)[0].detach(), expected, rtol=1e-9, atol=1e-11)


def test_positions_are_interpolated_to_the_length_of_the_axis():
    module = AxisAttention(1, 2)
    nn.init.zeros_(module.position_q)
    seen: list[tuple[int, ...]] = []
    module.project.register_forward_hook(lambda _, inputs, __: seen.append(tuple(inputs[0].shape)))
    module.eval()(torch.zeros(2, 2, 37), torch.zeros(2, 2, 37), torch.zeros(2, 4, 37))
    assert seen == [(2, 4, 37, 1)]


def test_fusion_weights_the_fine_map_by_the_coarse_gate():
    module = randomise(Fusion(3, 4, 5)).double().eval()
    fine, coarse = pictures64(1, 3, 4, 6), pictures64(1, 4, 2, 3)
    gate = np.clip(conv_norm(coarse[0].numpy(), weights_of(module, "gate.0")) / 6 + 0.5, 0, 1)
    wide = np.stack([stretch(gate[:, row][None], 6) for row in range(2)], axis=1)
    tall = np.stack([stretch(wide[:, :, column][None], 4) for column in range(6)], axis=2)
    expected = conv_norm(fine[0].numpy(), weights_of(module, "local")) * tall
    np.testing.assert_allclose(module(fine, coarse)[0].detach(), expected, rtol=1e-9, atol=1e-11)


# --- the network -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (31, 33), (32, 64), (65, 47)])
def test_logits_have_the_size_of_the_image(size: tuple[int, int]):
    logits = network()(pictures64(2, 3, *size).float(), pictures64(2, PRIOR).float())
    assert logits.shape == (2, 7, *size)
    assert logits.isfinite().all()


def test_encoder_maps_halve_from_stride_4():
    encoder = SeaEncoder(**TINY, prior_dim=PRIOR).eval()
    maps = encoder(pictures64(1, 3, 64, 96).float(), pictures64(1, PRIOR).float())
    assert [tuple(m.shape) for m in maps] == [(1, 4, 16, 24), (1, 8, 8, 12), (1, 8, 4, 6), (1, 12, 2, 3)]
    assert (encoder.channels, encoder.multiple) == ([4, 8, 8, 12], 32)


def test_only_stages_with_attention_see_the_prior():
    encoder, image = SeaEncoder(**TINY, prior_dim=PRIOR).eval(), pictures64(1, 3, 64, 64).float()
    one, two = (encoder(image, pictures64(1, PRIOR, seed=seed).float()) for seed in (1, 2))
    assert [torch.equal(a, b) for a, b in zip(one, two, strict=True)] == [True, True, False, False]


def test_normalisation_is_that_of_imagenet():
    seen: list[Tensor] = []
    encoder = SeaEncoder(**TINY, prior_dim=PRIOR).eval()
    encoder.stem.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    encoder(torch.full((1, 3, 32, 32), 0.5), torch.zeros(1, PRIOR))
    expected = (0.5 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(seen[0][0, :, 3, 3], expected, rtol=1e-5)


def test_stages_that_disagree_are_refused():
    with pytest.raises(ValueError, match="must name the 4 stages"):
        SeaEncoder(**(TINY | {"attention": [0, 1]}), prior_dim=PRIOR)


@pytest.mark.parametrize("encoder", ["sea", "timm"])
def test_another_prior_gives_other_logits_and_the_same_one_the_same(encoder: str):
    net = randomise(network(encoder)).double().eval()
    image, z = pictures64(1, 3, 40, 50), pictures64(1, PRIOR, seed=1)
    assert (net(image, z) - net(image, -z)).abs().max() > 1e-3
    assert torch.equal(net(image, z), net(image, z))


@pytest.mark.parametrize("encoder", ["sea", "timm"])
def test_every_parameter_and_the_prior_get_a_gradient_from_the_start(encoder: str):
    net, z = network(encoder).train(), pictures64(3, PRIOR, seed=1).float().requires_grad_()
    labels = torch.randint(7, (3, 64, 96), generator=torch.Generator().manual_seed(0))
    loss = nn.functional.cross_entropy(net(pictures64(3, 3, 64, 96).float(), z), labels)
    loss.backward()  # type: ignore[no-untyped-call]
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert z.grad is not None
    assert (z.grad != 0).all()


def test_output_is_float32_under_bfloat16_autocast_in_channels_last():
    net = network().to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        logits = net(pictures64(1, 3, 40, 40).float(), pictures64(1, PRIOR).float())
    assert logits.dtype == torch.float32
    torch.testing.assert_close(
        logits, net(pictures64(1, 3, 40, 40).float(), pictures64(1, PRIOR).float()), atol=0.1, rtol=0.1
    )


def test_batch_norms_become_synchronised_ones():
    net = network()
    count = sum(isinstance(m, nn.BatchNorm2d) for m in net.modules())
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(net)  # type: ignore[no-untyped-call]
    assert count > 0
    assert sum(isinstance(m, nn.SyncBatchNorm) for m in converted.modules()) == count
    assert not any(isinstance(m, nn.BatchNorm2d) for m in converted.modules())


@pytest.mark.parametrize(("sizes", "cpen_channels", "paper"), [(SMALL, 32, 4.4e6), (LARGE, 64, 12.9e6)])
def test_parameters_at_inference_match_table_5(sizes: dict[str, Any], cpen_channels: int, paper: float):
    prior = 4 * cpen_channels
    parts = [
        CPEN(3, 0, cpen_channels, 5, 1),
        Denoiser(prior, 4),
        Segmenter(partial(SeaEncoder, **sizes), 150, 160, prior),
    ]
    assert sum(p.numel() for part in parts for p in part.parameters()) == pytest.approx(paper, rel=0.01)


def test_a_few_steps_fit_a_split_picture():
    """Left and right half differ in colour: the loss must fall far below that of a guess."""
    torch.manual_seed(0)
    net = Segmenter(partial(SeaEncoder, **TINY), 2, 8, PRIOR).train()
    image, labels = torch.full((2, 3, 32, 64), 0.2), torch.zeros(2, 32, 64, dtype=torch.long)
    image[..., 32:], labels[..., 32:] = 0.8, 1
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-2)
    for _ in range(30):
        loss = nn.functional.cross_entropy(net(image, torch.zeros(2, PRIOR)), labels)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    assert loss < 0.3


def test_a_few_steps_find_what_the_prior_alone_tells():
    """The image is noise; its class, one for all pixels, stands in Z."""
    net, generator = network().train(), torch.Generator().manual_seed(0)
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-2)
    losses = []
    for _ in range(120):
        image, z = (torch.randn(*s, generator=generator) for s in ((8, 3, 64, 64), (8, PRIOR)))
        labels = (z[:, 0] > 0).long()[:, None, None].expand(8, 64, 64)
        loss = nn.functional.cross_entropy(net(image, z), labels)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) / 10 < 0.45  # a guess gives log 2 = 0.69


def test_hydra_builds_it_from_a_configuration():
    node = {
        "_target_": "diffi2i.models.segmenter.Segmenter",
        "encoder": {"_target_": "diffi2i.models.axial.SeaEncoder", "_partial_": True, **TINY},
        "classes": 7,
        "head_width": 6,
    }
    net = instantiate(OmegaConf.create(node), prior_dim=PRIOR).eval()
    assert net(torch.rand(1, 3, 40, 40), torch.rand(1, PRIOR)).shape == (1, 7, 40, 40)


def test_drop_path_rises_within_each_stage_from_nothing() -> None:
    encoder = SeaEncoder(**TINY | {"attention": [0, 1, 2, 3]}, prior_dim=PRIOR, drop_path=0.1)
    stages: Any = encoder.blocks
    rates = [[(block.attention.drop_path.p, block.feed_forward.drop_path.p) for block in blocks] for blocks in stages]
    assert rates == [[], [(0, 0)], [(0, 0), (0.1, 0.1)], [(0, 0), (0.05, 0.05), (0.1, 0.1)]]
    plain = SeaEncoder(**TINY, prior_dim=PRIOR)
    assert {m.p for m in plain.modules() if isinstance(m, StochasticDepth)} == {0.0}
    assert plain.state_dict().keys() == SeaEncoder(**TINY, prior_dim=PRIOR, drop_path=0.1).state_dict().keys()


def test_a_dropped_path_leaves_the_map_and_zs_shift() -> None:
    block: Any = randomise(AxialBlock(8, PRIOR, 2, 3, 1.5, drop_path=0.5)).double().eval()
    x, z = pictures64(64, 8, 4, 4), pictures64(64, PRIOR, seed=1)
    whole = block(x, z)  # evaluation: nothing is dropped
    assert torch.equal(whole, randomise(AxialBlock(8, PRIOR, 2, 3, 1.5)).double().eval()(x, z))
    shift = (block.attention.W_l(z) + block.feed_forward.W_l(z))[:, :, None, None]
    for module in block.modules():
        if isinstance(module, StochasticDepth):
            module.train()
    torch.manual_seed(0)
    trained = block(x, z)
    bare = [bool(torch.isclose(trained[i], (x + shift)[i]).all()) for i in range(64)]
    assert 5 < sum(bare) < 28  # both branches of an image, a quarter of the time
    assert not torch.equal(trained, block(x, z))
    # Kept branches count for more, so that the mean stays: here of the first layer, the one that is linear in it.
    layer = block.attention
    many = torch.stack([layer(x, z) for _ in range(400)]).mean(0)
    block.eval()
    assert (many - layer(x, z)).abs().mean() < 0.1 * (layer(x, z) - x).abs().mean()


def test_every_weight_gets_a_gradient_under_drop_path() -> None:
    torch.manual_seed(0)
    encoder = partial(SeaEncoder, **TINY, drop_path=0.1)
    network = Segmenter(encoder, classes=3, head_width=8, prior_dim=PRIOR)
    logits = network(torch.rand(8, 3, 64, 64), torch.randn(8, PRIOR))
    logits.square().mean().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("encoder", ["sea", "lite0"])
@torch.no_grad()
def test_without_a_prior_it_is_the_network_under_z_of_zeros(encoder: str) -> None:
    guided, plain = network(encoder), network(encoder, prior_dim=None)
    weights = {name: value for name, value in guided.state_dict().items() if "W_l" not in name}
    assert len(weights) < len(guided.state_dict())
    plain.load_state_dict(weights)
    image = torch.rand(1, 3, 40, 70)
    assert torch.equal(plain(image), guided(image, torch.zeros(1, PRIOR)))


@pytest.mark.parametrize("length", [1, 5])
def test_rows_of_queries_keys_and_values_lie_beside_each_other(monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    """What CUDA's kernels for bfloat16 ask for; a transposed axis of 1 counts as contiguous and is not so."""
    strides: list[tuple[int, ...]] = []
    attention = nn.functional.scaled_dot_product_attention

    def watched(*inputs: Any) -> Tensor:
        strides.extend(each.stride() for each in inputs)
        return attention(*inputs)

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", watched)
    q, v = torch.rand(2, 16, length), torch.rand(2, 32, length)
    AxisAttention(heads=2, key_dim=8).eval()(q, q, v)
    assert strides == [(16 * length, 8 * length, 8, 1)] * 2 + [(32 * length, 16 * length, 16, 1)]
