"""DeepCache: whole runs of the U-Net, and between them its finest level with what the deeper ones gave."""

from typing import Any

import pytest
import torch
from torch import Tensor

from diffi2i.config.compose import load
from diffi2i.config.schema import Config
from diffi2i.methods.build import check
from diffi2i.methods.deepcache import DeepCache, Keeping
from diffi2i.methods.pixel_diffusion import PixelDiffusion
from diffi2i.metrics.cost import work
from diffi2i.models.unet import DenoisingUNet, OutermostLevel
from tests.conftest import Make, random_batch
from tests.refusals import refusal


def unet(widths: list[int]) -> DenoisingUNet:
    torch.manual_seed(0)
    return DenoisingUNet(5, 3, widths, 2, [False] * (len(widths) - 1) + [True]).double().eval()


@torch.no_grad()
@pytest.mark.parametrize("widths", [[8, 8], [8, 16, 16]])
def test_the_finest_level_with_the_deeper_ones_output_is_the_whole(widths: list[int]) -> None:
    network = unet(widths)
    outermost, x, time = OutermostLevel(network), torch.randn(2, 5, 14, 17).double(), torch.tensor([0.3, 0.8]).double()
    with outermost.watched() as deep:
        whole = network(x, time)
    assert torch.equal(outermost(x, time, *deep), whole)
    assert not torch.equal(outermost(x, time, *(torch.zeros_like(each) for each in deep)), whole)
    assert [*outermost.parameters()] == []


@torch.no_grad()
def test_between_whole_runs_the_deep_features_are_those_of_the_last() -> None:
    """Against a walk through diffusers' blocks, level by level."""
    network = unet([8, 16])
    inner, keeping = network.unet, Keeping(network, OutermostLevel(network), 2)
    xs = [torch.randn(1, 5, 8, 8).double() for _ in range(4)]
    times = [torch.tensor([t]).double() for t in (1.0, 0.7, 0.4, 0.1)]
    deep: Any = None
    for i, (x, time) in enumerate(zip(xs, times, strict=True)):
        temb = inner.time_embedding(inner.time_proj(1000 * time).double())
        h = inner.conv_in(x)
        skips = [h]
        for resnet in inner.down_blocks[0].resnets:
            h = resnet(h, temb)
            skips.append(h)
        if i % 2 == 0:
            d = inner.down_blocks[0].downsamplers[0](h)
            deeper = [d]
            for resnet, attention in zip(inner.down_blocks[1].resnets, inner.down_blocks[1].attentions, strict=True):
                d = attention(resnet(d, temb))
                deeper.append(d)
            d = inner.mid_block(d, temb)
            for resnet, attention in zip(inner.up_blocks[0].resnets, inner.up_blocks[0].attentions, strict=True):
                d = attention(resnet(torch.cat([d, deeper.pop()], 1), temb))
            deep = inner.up_blocks[0].upsamplers[0](d)
        h = deep
        for resnet in inner.up_blocks[1].resnets:
            h = resnet(torch.cat([h, skips.pop()], 1), temb)
        expected = inner.conv_out(torch.nn.functional.silu(inner.conv_norm_out(h)))
        torch.testing.assert_close(keeping(x, time).double(), expected, rtol=1e-5, atol=1e-6)


def cached(make: Make, every: int) -> tuple[DeepCache, PixelDiffusion]:
    config = make("run", "method=deepcache", "task=sisr", f"method.every={every}", "method.init=x")
    plain = make("plain", "method=pixel_diffusion", "task=sisr")
    torch.manual_seed(0)
    diffusion = PixelDiffusion(plain).eval()
    return DeepCache(config, diffusion).eval(), diffusion


@torch.no_grad()
def test_keeping_nothing_is_the_diffusion_itself_and_keeping_costs_less(make: Make) -> None:
    macs = []
    for every in (1, 2):
        method, diffusion = cached(make, every)
        batch = random_batch(method.config, 32, images=1)
        same = torch.equal(method.predict(batch, method.noise(batch)), diffusion.predict(batch, method.noise(batch)))
        assert same == (every == 1)

        def predict(method: Any = method, batch: Any = batch) -> Tensor:
            return method.predict(batch, method.noise(batch))  # type: ignore[no-any-return]

        found = work(predict, method.parts())
        macs.append(found.macs)
        assert found.calls == 4 // every
    assert macs[1] < macs[0]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([], "method=deepcache needs a diffusion: write method.init=<run of method=pixel_diffusion>"),
        (["method.every=0"], "method.every=0 must be at least 1"),
    ],
)
def test_what_cannot_be_is_refused(overrides: list[str], said: str) -> None:
    words = ["method=deepcache", "task=sisr", "budget=smoke", *overrides]
    assert said in refusal(lambda: check(load(Config, "train", words)))


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        (("method=resshift",), "is a run of resshift: name one of pixel_diffusion"),
        (
            ("method=pixel_diffusion", "method.conditional=false"),
            "has method.conditional=False: write method.conditional=False",
        ),
        (
            ("method=pixel_diffusion", "method.diffusion.steps=30"),
            "has method.diffusion.steps=30: write method.diffusion.steps=30",
        ),
        (("method=ldm",), "is a run of ldm: name one of pixel_diffusion"),
    ],
)
def test_another_run_is_refused(make: Make, theirs: tuple[str, ...], said: str) -> None:
    config = make("run", "method=deepcache", "task=sisr", "method.init=x")
    other = make("other", "task=sisr", *theirs)
    assert said in refusal(lambda: DeepCache.check(config, None, other))  # type: ignore[arg-type]
