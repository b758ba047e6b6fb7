"""Depth-skip pruning against forward passes written out over the whole network's weights."""

from collections.abc import Iterator
from copy import deepcopy
from itertools import islice
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from diffi2i.metrics.cost import parameters
from diffi2i.models.di2iformer import DI2Iformer
from diffi2i.models.dirformer import DIRformer
from diffi2i.models.streaming import streamed
from diffi2i.models.unet import DenoisingUNet, OutermostLevel
from tests import reference as ref
from tests.networks import arrays, pictures64, randomise

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
WIDTHS, LAYERS, ATTENTION, HEAD = [8, 16, 24], 2, [False, True, False], 4
SKIPS = len(WIDTHS) * (LAYERS + 1)


def denoiser(depth: int | None = None) -> DenoisingUNet:
    torch.manual_seed(0)
    return DenoisingUNet(5, 3, WIDTHS, LAYERS, ATTENTION, HEAD, depth).double().eval()


class WrittenOut:
    """The U-Net's forward pass by its weights' names, of which it notes those that it has used."""

    def __init__(self, network: nn.Module) -> None:
        state: dict[str, Tensor] = network.state_dict()
        self.weights = {key.removeprefix("unet."): value for key, value in state.items()}
        self.used: set[str] = set()

    def __call__(self, name: str) -> Tensor:
        self.used.add(name)
        return self.weights[name]

    def conv(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = self(f"{name}.weight")
        out: Tensor = F.conv2d(x, weight, self(f"{name}.bias"), stride, weight.shape[-1] // 2)
        return out

    def linear(self, x: Tensor, name: str) -> Tensor:
        out: Tensor = x @ self(f"{name}.weight").T + self(f"{name}.bias")
        return out

    def norm(self, x: Tensor, name: str) -> Tensor:
        grouped = x.reshape(len(x), 8, -1)
        mean, var = grouped.mean(2, keepdim=True), grouped.var(2, keepdim=True, unbiased=False)
        normed: Tensor = ((grouped - mean) / (var + 1e-5).sqrt()).reshape(x.shape)
        return normed * self(f"{name}.weight")[:, None, None] + self(f"{name}.bias")[:, None, None]

    def residual(self, x: Tensor, name: str) -> Tensor:
        h = self.conv(F.silu(self.norm(x, f"{name}.norm1")), f"{name}.conv1")
        h = h + self.linear(F.silu(self.time), f"{name}.time_emb_proj")[:, :, None, None]
        h = self.conv(F.silu(self.norm(h, f"{name}.norm2")), f"{name}.conv2")
        return h + (self.conv(x, f"{name}.conv_shortcut") if f"{name}.conv_shortcut.weight" in self.weights else x)

    def attention(self, x: Tensor, name: str) -> Tensor:
        flat = self.norm(x, f"{name}.group_norm").flatten(2).mT  # (B, H W, C)
        q, k, v = (
            self.linear(flat, f"{name}.to_{one}").reshape(*flat.shape[:2], -1, HEAD).transpose(1, 2) for one in "qkv"
        )
        mixed = ((q @ k.mT / HEAD**0.5).softmax(-1) @ v).transpose(1, 2).flatten(2)
        return x + self.linear(mixed, f"{name}.to_out.0").mT.reshape(x.shape)

    def block(self, x: Tensor, level: str, i: int) -> Tensor:
        x = self.residual(x, f"{level}.resnets.{i}")
        attends = f"{level}.attentions.{i}.to_q.weight" in self.weights
        return self.attention(x, f"{level}.attentions.{i}") if attends else x

    def encoded(self, x: Tensor) -> Iterator[Tensor]:
        x = self.conv(x, "conv_in")
        yield x
        for level in range(len(WIDTHS)):
            for i in range(LAYERS):
                x = self.block(x, f"down_blocks.{level}", i)
                yield x
            if level < len(WIDTHS) - 1:
                x = self.conv(x, f"down_blocks.{level}.downsamplers.0.conv", 2)
                yield x

    def forward(self, x: Tensor, time: Tensor, depth: int) -> Tensor:
        frequencies = 10000.0 ** -(torch.arange(WIDTHS[0] // 2, dtype=torch.float64) / (WIDTHS[0] // 2))
        angles = 1000 * time[:, None] * frequencies
        waves = torch.cat([angles.cos(), angles.sin()], 1)
        self.time = self.linear(F.silu(self.linear(waves, "time_embedding.linear_1")), "time_embedding.linear_2")
        skips = list(islice(self.encoded(x), depth))
        h = None
        if depth > SKIPS:
            h = self.residual(self.residual(skips[-1], "mid_block.resnets.0"), "mid_block.resnets.1")
        for place in range(SKIPS - len(skips), SKIPS):
            level, i = divmod(place, LAYERS + 1)
            skip, name = skips.pop(), f"up_blocks.{level}"
            width = len(self(f"{name}.resnets.{i}.norm1.weight")) - skip.shape[1]
            h = skip.new_zeros(len(skip), width, *skip.shape[2:]) if h is None else h
            h = self.block(torch.cat([h, skip], 1), name, i)
            if i == LAYERS and level < len(WIDTHS) - 1:
                h = h.repeat_interleave(2, 2).repeat_interleave(2, 3)
                h = self.conv(h, f"{name}.upsamplers.0.conv")
        assert h is not None
        return self.conv(F.silu(self.norm(h, "conv_norm_out")), "conv_out")


@pytest.mark.parametrize("depth", range(1, SKIPS + 2))
@torch.no_grad()
def test_a_pruned_denoiser_is_the_kept_blocks_from_zeros(depth: int) -> None:
    whole, pruned = denoiser(), denoiser()
    pruned.keep(depth)
    written, x, time = WrittenOut(whole), pictures64(2, 5, 8, 12), torch.tensor([0.3, 1.0], dtype=torch.float64)
    found, expected = pruned(x, time), written.forward(x, time, depth)
    torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=1e-6)
    # The rest is gone, so that counting, saving and exporting see the smaller one.
    assert parameters(pruned) == sum(written.weights[name].numel() for name in written.used)
    assert (pruned.depth, whole.depth) == (depth, SKIPS + 1)
    assert torch.equal(found, whole(x, time)) == (depth == SKIPS + 1)
    small = denoiser(depth)
    small.load_state_dict(pruned.state_dict())
    assert torch.equal(small(x, time), found)


def test_depths_hold_the_share_of_stable_diffusion_that_the_paper_prints() -> None:
    """Its Table S7, which leaves out the embedding of time: so a depth is what it calls one."""
    printed = [0.70, 1.95, 3.32, 6.17, 10.56, 15.62, 26.60, 43.31, 60.78, 69.95, 79.32, 88.68, 100.0]
    with torch.device("meta"):
        network = denoiser()
        network.unet = UNet2DConditionModel(cross_attention_dim=768)  # type: ignore[no-untyped-call]

    def size() -> int:
        return parameters(network) - parameters(network.unet.time_embedding)

    assert network.depth == 13
    whole, shares = size(), []
    for depth in range(13, 0, -1):
        network.keep(depth)
        shares.append(100 * size() / whole)
    assert shares[::-1] == pytest.approx(printed, abs=0.011)


def former(kind: type[Any], **more: Any) -> Any:
    sizes: dict[str, Any] = {"width": 4, "blocks": [1, 2, 1, 1], "refinement": 1, "expansion": 1.0, "scale": 1}
    own = {"projection": "pointwise"} if kind is DI2Iformer else {"heads": [1, 1, 2, 2], "norm_bias": True}
    torch.manual_seed(0)
    return randomise(kind(3, **sizes, **own, prior_dim=5, **more)).double().eval()


@pytest.mark.parametrize("depth", [1, 2, 3])
@torch.no_grad()
def test_a_pruned_di2iformer_is_the_kept_levels_from_zeros(depth: int) -> None:
    whole, pruned = former(DI2Iformer), former(DI2Iformer)
    pruned.keep(depth)
    z, x = pictures64(1, 5), pictures64(1, 4, 16, 8)
    used: list[nn.Module] = [whole.embed, whole.refine, whole.tail]

    def stack(x: Tensor, module: nn.Module) -> Tensor:
        used.append(module)
        return torch.from_numpy(ref.stack(x[0].numpy(), z[0].numpy(), arrays(module)))[None]

    def conv(x: Tensor, module: nn.Conv2d) -> Tensor:
        used.append(module)
        return F.conv2d(x, module.weight, module.bias, padding=module.padding)

    h, skips = x, []
    for level in range(depth):
        h = stack(h, whole.encoder[level])
        skips.append(h)
        if level < depth - 1:
            h = F.pixel_unshuffle(conv(h, whole.down[level][0]), 2)
    h = torch.zeros_like(h)
    for place in range(3 - depth, 3):
        if len(skips) < depth:
            h = F.pixel_shuffle(conv(h, whole.up[place][0]), 2)
        h = stack(conv(torch.cat([h, skips.pop()], 1), whole.join[place]), whole.decoder[place])
    torch.testing.assert_close(pruned.levels(x, z), h)
    assert parameters(pruned) == parameters(*used)


@pytest.mark.parametrize("kind", [DI2Iformer, DIRformer])
@torch.no_grad()
def test_u_shaped_networks_of_any_depth(kind: type[Any]) -> None:
    whole, image, z = former(kind), pictures64(1, 3, 13, 18), pictures64(1, 5)
    assert torch.equal(former(kind, depth=4)(image, z), whole(image, z))
    smaller, sizes = deepcopy(whole), [parameters(whole)]
    for depth in (3, 2, 1):
        smaller.keep(depth)
        again = former(kind, depth=depth)
        again.load_state_dict(smaller.state_dict())
        found = again(image, z)
        assert found.shape == image.shape
        assert torch.equal(found, smaller(image, z))
        assert not torch.allclose(found, whole(image, z))
        sizes.append(parameters(again))
        assert smaller.depth == again.depth == depth
    assert sizes == sorted(set(sizes), reverse=True)
    with pytest.raises(ValueError, match="depth=2 does not fit a network of depth 1"):
        smaller.keep(2)


@torch.no_grad()
def test_a_pruned_di2iformer_is_streamed_and_averages_over_windows() -> None:
    network, image, z = former(DI2Iformer, depth=2), pictures64(1, 3, 40, 16), pictures64(1, 5)
    strips = torch.cat(list(streamed(network, image, z, 8, torch.device("cpu"))), dim=-2)
    plain = network(image, z)
    torch.testing.assert_close(strips, plain)
    network.use_tlc(8)
    assert not torch.allclose(network(image, z), plain)
    assert [network.encoder[1][0].attention.window, network.decoder[0][0].attention.window] == [4, 4]
    assert [network.decoder[1][0].attention.window, network.refine[0].attention.window] == [8, 8]


@pytest.mark.parametrize("depth", [1, 3, 5])
@torch.no_grad()
def test_the_finest_level_of_a_pruned_denoiser_is_run_alone(depth: int) -> None:
    network, x, time = denoiser(depth), pictures64(1, 5, 8, 12), torch.tensor([0.4], dtype=torch.float64)
    finest = OutermostLevel(network)
    with finest.watched() as deep:
        whole = network(x, time)
    assert torch.equal(finest(x, time, *deep), whole)


@pytest.mark.parametrize("depth", [0, -1, 11, 2.0])
def test_a_depth_that_there_is_not_is_refused(depth: Any) -> None:
    with pytest.raises(ValueError, match=rf"depth={depth} does not fit a network of depth 10: write 1 to 9"):
        denoiser(depth)
