"""timm encoders guided by Z, and the embeddings of labels and depth that CPEN_S1 sees."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn

from diffi2i import weights
from diffi2i.errors import WeightsUnavailableError
from diffi2i.models.cpen import CPEN
from diffi2i.models.encoders import TimmEncoder
from diffi2i.models.gt import DepthEmbedding, LabelEmbedding
from tests.networks import pictures

PRIOR = 6
LITE0, SWIN = "tf_efficientnet_lite0", "swin_tiny_patch4_window7_224"
NAMES = [LITE0, "resnet18", "mobilenetv3_small_050", SWIN]


def built(name: str, **kwargs: Any) -> TimmEncoder:
    torch.manual_seed(0)
    return TimmEncoder(name, PRIOR, **kwargs).eval()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(32, 32), (64, 96)])
def test_maps_have_the_promised_channels_and_strides(name: str, size: tuple[int, int]):
    encoder = built(name)
    maps = encoder(pictures(2, 3, *size), pictures(2, PRIOR))
    assert encoder.multiple == 32
    assert [tuple(m.shape) for m in maps] == [
        (2, channels, size[0] // stride, size[1] // stride)
        for channels, stride in zip(encoder.channels, (4, 8, 16, 32), strict=True)
    ]


@pytest.mark.parametrize("name", NAMES)
def test_without_prior_the_maps_are_timms_own(name: str):
    encoder, image = built(name), pictures(1, 3, 64, 64)
    cfg = timm.get_pretrained_cfg(name)
    assert cfg is not None
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (cfg.mean, cfg.std))
    expected = encoder.body((image - mean) / std)[-4:]
    for ours, timms in zip(encoder(image, torch.zeros(1, PRIOR)), expected, strict=True):
        torch.testing.assert_close(ours, timms.permute(0, 3, 1, 2) if name == SWIN else timms)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stage", range(4))
def test_prior_of_a_stage_is_added_there_and_seen_by_later_stages_alone(name: str, stage: int):
    encoder, image, z = built(name), pictures(1, 3, 64, 64), pictures(1, PRIOR, seed=1)
    for i, linear in enumerate(encoder.W_l):
        nn.init.constant_(linear.weight, 1.0 if i == stage else 0.0)  # type: ignore[arg-type]
    with torch.no_grad():
        before, after = encoder(image, torch.zeros_like(z)), encoder(image, z)
    for i, (a, b) in enumerate(zip(before, after, strict=True)):
        if i < stage:
            assert torch.equal(a, b)
        elif i == stage:  # each row of W_l is all ones
            np.testing.assert_allclose((b - a).numpy(), np.full(a.shape, z.numpy().sum()), rtol=1e-4, atol=1e-4)
        else:
            assert (b - a).std() > 0  # through the stage, not merely added


@pytest.mark.parametrize("name", NAMES)
def test_each_image_is_guided_by_its_own_prior(name: str):
    encoder, images, z = built(name), pictures(2, 3, 32, 64), 9 * pictures(2, PRIOR, seed=1)
    with torch.no_grad():
        first, second = (encoder(images[i : i + 1], z[i : i + 1]) for i in (0, 1))
        for both, a, b in zip(encoder(images, z), first, second, strict=True):
            torch.testing.assert_close(both, torch.cat([a, b]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_and_the_prior_get_a_gradient_from_the_start(name: str):
    encoder, z = built(name).train(), pictures(2, PRIOR).requires_grad_()
    sum(m.square().mean() for m in encoder(pictures(2, 3, 64, 64), z)).backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None] == []
    assert all(linear.weight.grad.any() for linear in encoder.W_l)  # type: ignore[operator,union-attr]
    assert z.grad is not None
    assert (z.grad != 0).all()


def test_a_copy_follows_its_own_weights_and_no_hook_stays():
    encoder, image, z = built("resnet18"), pictures(1, 3, 32, 32), pictures(1, PRIOR)
    before = encoder(image, z)
    twin = copy.deepcopy(encoder)
    for linear in twin.W_l:
        nn.init.zeros_(linear.weight)  # type: ignore[arg-type]
    assert all(torch.equal(a, b) for a, b in zip(encoder(image, z), before, strict=True))
    assert not torch.equal(twin(image, z)[0], before[0])
    assert not any(module._forward_hooks for module in encoder.modules())


def test_no_hook_stays_after_an_error():
    encoder = built("resnet18")
    with pytest.raises(RuntimeError):
        encoder(pictures(2, 3, 32, 32), pictures(3, PRIOR))
    assert not any(module._forward_hooks for module in encoder.modules())


@pytest.mark.parametrize("name", NAMES)
def test_runs_under_bfloat16_autocast_in_channels_last(name: str):
    encoder = built(name).to(memory_format=torch.channels_last)
    image = pictures(1, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert all(m.isfinite().all() for m in encoder(image, pictures(1, PRIOR)))


def test_index_weights_are_loaded_and_get_their_own_input_range(monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(1)
    stored = timm.create_model(LITE0).state_dict()
    monkeypatch.setattr(weights, "efficientnet_lite0", lambda: stored)
    encoder = built(LITE0, pretrained="index")
    assert all(torch.equal(value, stored[key]) for key, value in encoder.body.state_dict().items())
    x = pictures(1, 3, 2, 2)
    torch.testing.assert_close(encoder.normalise(x), (255 * x - 127) / 128)


@pytest.mark.parametrize(
    ("name", "pretrained", "message"),
    [
        ("resnet18", "index", "weights of tf_efficientnet_lite0 alone; for resnet18 write pretrained=hub"),
        ("resnet18", "imagenet", "write one of none, index, hub"),
        ("no_such_net", "none", "timm has no model 'no_such_net'"),
        ("resnet18.no_such_tag", "none", "no_such_tag"),
        ("vit_tiny_patch16_224", "none", "vit_tiny_patch16_224 cannot be an encoder here"),
        ("test_vit", "none", "test_vit cannot be an encoder here"),
    ],
)
def test_unusable_choices_are_refused(name: str, pretrained: Any, message: str):
    with pytest.raises(ValueError, match=message):
        built(name, pretrained=pretrained)


def test_missing_strides_are_refused(monkeypatch: pytest.MonkeyPatch):
    shallow: Callable[..., Any] = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *args, **kwargs: shallow(*args, **kwargs, out_indices=(0, 1, 2)))
    with pytest.raises(ValueError, match=r"strides \[2, 4, 8\], but 4, 8, 16 and 32 are needed"):
        built("resnet18")


def test_without_a_network_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch):
    def offline(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(WeightsUnavailableError, match=r"hf download timm/resnet18.*models--timm--resnet18.*none"):
        built("resnet18", pretrained="hub")


def test_label_vectors_are_looked_up_and_ignored_pixels_are_zero():
    embedding = LabelEmbedding(5, channels=3)
    labels = torch.tensor([[[0, 4, 255], [2, 255, 0]]])
    table = embedding.vectors.weight.detach().numpy()
    expected = np.zeros((1, 3, 2, 3))
    for row in range(2):
        for column in range(3):
            if (label := int(labels[0, row, column])) != 255:
                expected[0, :, row, column] = table[label]
    np.testing.assert_array_equal(embedding(labels, (2, 3)).detach(), expected)
    assert embedding.channels == 3


def test_label_that_is_no_class_is_refused():
    with pytest.raises(IndexError):
        LabelEmbedding(5)(torch.tensor([[[5]]]), (1, 1))


def test_depth_channels_are_the_scaled_logarithm_and_the_validity():
    depth = torch.tensor([[[[0.0, 1.5], [10.0, 0.01]]]])
    expected = [[[[0.0, np.log(2.5) / np.log(11)], [1.0, np.log(1.01) / np.log(11)]], [[0.0, 1.0], [1.0, 1.0]]]]
    np.testing.assert_allclose(DepthEmbedding(10.0)(depth, (2, 2)), expected, rtol=1e-6)


def test_depth_embedding_refuses_an_empty_range():
    with pytest.raises(ValueError, match="must be positive, got 0"):
        DepthEmbedding(0)


@pytest.mark.parametrize("size", [(2, 3), (4, 6), (8, 12), (3, 7)])
def test_targets_on_another_grid_are_resized_by_nearest(size: tuple[int, int]):
    labels = torch.randint(0, 5, (2, 4, 6), generator=torch.Generator().manual_seed(0))
    rows, columns = (
        np.minimum((np.arange(n) + 0.5) * m / n, m - 1).astype(int) for n, m in zip(size, (4, 6), strict=True)
    )
    nearest = labels.numpy()[:, rows][:, :, columns]
    embedding = LabelEmbedding(5)
    expected = embedding(torch.from_numpy(nearest), size)
    assert torch.equal(embedding(labels, size), expected)
    depth = DepthEmbedding(10.0)
    assert torch.equal(depth(labels[:, None].float(), size), depth(torch.from_numpy(nearest)[:, None].float(), size))


def test_cpen_reads_both_embeddings():
    image, labels = pictures(2, 3, 13, 18), torch.full((2, 26, 36), 1)
    target = LabelEmbedding(3)(labels, (13, 18))
    CPEN(3, 8, 4, 1, 1)(image, target).sum().backward()
    depth = DepthEmbedding(5.0)
    assert CPEN(3, depth.channels, 4, 1, 1)(image, depth(pictures(2, 1, 13, 18), (13, 18))).shape == (2, 16)
