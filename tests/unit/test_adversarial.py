"""Discriminators, and the two adversarial schemes against float64 and closed forms."""

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffi2i.losses.adversarial import HingeAdversary, LamaAdversary, RealESRGANAdversary
from diffi2i.models.discriminator import PatchDiscriminator, UNetDiscriminator


def batch_of(seed: int = 0, size: int = 32) -> tuple[Tensor, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    output, target = torch.rand(2, 2, 3, size, size, generator=generator)
    mask = torch.zeros(2, 1, size, size)
    mask[0, :, : size // 2] = 1
    mask[1, :, :, size // 4 :] = 1
    return output, {"target": target, "mask": mask}


def schemes() -> list[LamaAdversary | RealESRGANAdversary]:
    torch.manual_seed(0)
    return [
        LamaAdversary(PatchDiscriminator(width=4, layers=2)),
        RealESRGANAdversary(UNetDiscriminator(width=4)),
        HingeAdversary(UNetDiscriminator(width=4)),
    ]


every_scheme = pytest.mark.parametrize("adversary", schemes(), ids=["lama", "realesrgan", "hinge"])


def total(terms: Mapping[str, Tensor]) -> Any:
    return torch.stack(list(terms.values())).sum()


class Linear(nn.Module):
    """D(x) = <w, x> + b, one logit an image, and the image itself as the only feature."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.w = nn.Parameter(0.1 * torch.randn(3, size, size))
        self.b = nn.Parameter(torch.tensor(0.3))

    def forward(self, image):
        return ((image * self.w).sum((1, 2, 3)) + self.b).view(-1, 1, 1, 1), [image]


class Pixelwise(nn.Module):
    """A logit for each cell of 2 x 2 pixels; two features of known values."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(3.0))

    def forward(self, image):
        return self.scale * F.avg_pool2d(image.sum(1, keepdim=True) - 1.5, 2), [2 * image, image[:, :1] ** 2]


# --- discriminators -------------------------------------------------------------------------------------------


def test_sizes_are_those_of_the_originals():
    # Counted on NLayerDiscriminator(3, ndf=64, n_layers=4) of LaMa and UNetDiscriminatorSN(3) of Real-ESRGAN.
    assert sum(p.numel() for p in PatchDiscriminator().parameters()) == 6_962_369
    assert sum(p.numel() for p in UNetDiscriminator().parameters()) == 4_376_897


def test_patch_discriminator_gives_logits_and_a_feature_for_each_stage():
    logits, features = PatchDiscriminator(width=4)(torch.rand(2, 3, 256, 256))
    assert logits.shape == (2, 1, 19, 19)
    assert [f.shape[1:] for f in features] == [
        (4, 129, 129),
        (8, 65, 65),
        (16, 33, 33),
        (32, 17, 17),
        (32, 18, 18),
    ]


def test_patch_discriminator_is_its_layers_written_out():
    torch.manual_seed(0)
    net = PatchDiscriminator(width=4, layers=2).double()
    image = torch.rand(2, 3, 21, 18, dtype=torch.float64)
    w = list(net.parameters())
    x = F.conv2d(image, w[0], w[1], stride=2, padding=2)
    x = torch.maximum(x, 0.2 * x)
    for i, stride in ((2, 2), (6, 1)):
        x = F.conv2d(x, w[i], w[i + 1], stride=stride, padding=2)
        mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, unbiased=False)
        x = (x - mean) / (variance + 1e-5).sqrt() * w[i + 2].view(-1, 1, 1) + w[i + 3].view(-1, 1, 1)
        x = torch.maximum(x, 0.2 * x)
    torch.testing.assert_close(net(image)[1][-1], x)
    torch.testing.assert_close(net(image)[0], F.conv2d(x, w[10], w[11], padding=2))


def test_unet_discriminator_is_its_layers_written_out():
    torch.manual_seed(0)
    net: Any = UNetDiscriminator(width=4).double().eval()
    image = torch.rand(1, 3, 24, 16, dtype=torch.float64)

    def leaky(x: Tensor) -> Tensor:
        return torch.where(x > 0, x, 0.2 * x)

    def double_size(x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)

    x0 = leaky(F.conv2d(image, net.head.weight, net.head.bias, padding=1))
    x1 = leaky(F.conv2d(x0, net.down[0].weight, stride=2, padding=1))
    x2 = leaky(F.conv2d(x1, net.down[1].weight, stride=2, padding=1))
    x3 = leaky(F.conv2d(x2, net.down[2].weight, stride=2, padding=1))
    x4 = leaky(F.conv2d(double_size(x3), net.up[0].weight, padding=1)) + x2
    x5 = leaky(F.conv2d(double_size(x4), net.up[1].weight, padding=1)) + x1
    x6 = leaky(F.conv2d(double_size(x5), net.up[2].weight, padding=1)) + x0
    x7 = leaky(F.conv2d(x6, net.refine[0].weight, padding=1))
    x8 = leaky(F.conv2d(x7, net.refine[1].weight, padding=1))
    logits, features = net(image)
    torch.testing.assert_close(logits, F.conv2d(x8, net.logits.weight, net.logits.bias, padding=1))
    assert features == []


@pytest.mark.parametrize("size", [(8, 8), (9, 17), (30, 13)])
def test_unet_discriminator_judges_every_pixel_of_any_size(size):
    assert UNetDiscriminator(width=4)(torch.rand(1, 3, *size))[0].shape == (1, 1, *size)


@pytest.mark.parametrize(("net", "least"), [(PatchDiscriminator(width=2), 16), (UNetDiscriminator(width=2), 8)])
def test_small_image_is_refused(net, least):
    net(torch.rand(2, 3, least, least))
    with pytest.raises(ValueError, match=f"at least {least} pixels on each side, got {least}x{least - 1}"):
        net(torch.rand(2, 3, least, least - 1))


def test_spectral_norm_of_the_inner_convolutions_goes_to_one():
    torch.manual_seed(0)
    net = UNetDiscriminator(width=4)
    inner = [*net.down, *net.up, *net.refine]
    with torch.no_grad():
        for conv in inner:
            conv.parametrizations.weight.original.mul_(7)
        for _ in range(200):
            net(torch.rand(1, 3, 8, 8))
    net.eval()
    for conv in inner:
        largest = np.linalg.svd(conv.weight.detach().flatten(1).numpy(), compute_uv=False)[0]
        np.testing.assert_allclose(largest, 1, rtol=1e-3)


def test_one_call_takes_one_power_iteration():
    torch.manual_seed(0)
    net = UNetDiscriminator(width=4)
    spectral: Any = net.get_submodule("down.0.parametrizations.weight")
    weight, u, v = spectral.original.detach().flatten(1), spectral[0]._u.clone(), spectral[0]._v.clone()
    net(torch.rand(1, 3, 8, 8))
    torch.testing.assert_close(spectral[0]._u, F.normalize(weight @ v, dim=0))
    net.eval()
    u = spectral[0]._u.clone()
    net(torch.rand(1, 3, 8, 8))
    assert torch.equal(spectral[0]._u, u)


def test_power_iteration_is_kept_out_of_autocast():
    # CUDA's autocast would cast its matrix-vector products and leave the vectors float32; the CPU's does not.
    net = UNetDiscriminator(width=4)
    seen = []
    spectral = net.get_submodule("down.0.parametrizations.weight.0")
    spectral.register_forward_hook(lambda module, args, result: seen.append(torch.is_autocast_enabled("cpu")))
    with torch.autocast("cpu", torch.bfloat16):
        logits, _ = net(torch.rand(1, 3, 8, 8))
    assert seen == [False]
    assert logits.dtype == torch.bfloat16


# --- schemes --------------------------------------------------------------------------------------------------


def test_lama_generator_terms_are_their_formulas():
    output, batch = batch_of(size=8)
    terms = LamaAdversary(Pixelwise(), weight=10, feature_matching=100).generator_terms(output, batch)
    x, y = output.double().numpy(), batch["target"].double().numpy()
    cells = 3 * (x.sum(1) - 1.5).reshape(2, 4, 2, 4, 2).mean((2, 4))
    np.testing.assert_allclose(terms["adversarial"].detach(), 10 * np.log(1 + np.exp(-cells)).mean(), rtol=1e-5)
    distances = [((2 * x - 2 * y) ** 2).mean(), ((x[:, 0] ** 2 - y[:, 0] ** 2) ** 2).mean()]
    np.testing.assert_allclose(terms["feature_matching"].detach(), 100 * np.mean(distances), rtol=1e-5)


def test_lama_discriminator_takes_the_known_region_of_the_fake_for_real():
    output, batch = batch_of(size=8)
    terms = LamaAdversary(Pixelwise()).discriminator_terms(output, batch)

    def cells(image: Tensor) -> Any:
        return 3 * (image.double().numpy().sum(1) - 1.5).reshape(2, 4, 2, 4, 2).mean((2, 4))

    fake, hole = cells(output), batch["mask"].numpy()[:, 0, ::2, ::2] == 1
    expected = np.where(hole, -np.log(1 - 1 / (1 + np.exp(-fake))), -np.log(1 / (1 + np.exp(-fake)))).mean()
    np.testing.assert_allclose(terms["d_fake"].detach(), expected, rtol=1e-5)
    np.testing.assert_allclose(terms["d_real"].detach(), np.log(1 + np.exp(-cells(batch["target"]))).mean(), rtol=1e-5)


def test_r1_of_a_linear_discriminator_is_the_squared_norm_of_its_weights():
    torch.manual_seed(0)
    output, batch = batch_of(size=8)
    linear = Linear(8)
    penalty = LamaAdversary(linear, gradient_penalty=0.25).discriminator_terms(output, batch)["d_r1"]
    torch.testing.assert_close(penalty, 0.25 * linear.w.square().sum())
    (slope,) = torch.autograd.grad(penalty, linear.w)
    torch.testing.assert_close(slope, 0.5 * linear.w.detach())


def test_r1_sums_over_the_patches_and_averages_over_the_images():
    torch.manual_seed(0)
    net = PatchDiscriminator(width=2, layers=1).double()
    output, batch = batch_of(size=8)
    # In eval mode, where batch norm keeps the images apart: each image's penalty can be had by itself.
    net.eval()
    slopes = [torch.func.grad(lambda x: net(x)[0].sum())(image[None].double()) for image in batch["target"]]
    expected = torch.stack([slope.square().sum() for slope in slopes]).mean()
    penalty = LamaAdversary(net.float(), gradient_penalty=1).discriminator_terms(output, batch)["d_r1"]
    torch.testing.assert_close(penalty, expected.float())


def test_real_esrgan_terms_are_cross_entropies():
    output, batch = batch_of(size=8)
    adversary = RealESRGANAdversary(Pixelwise(), weight=0.1)

    def probability(image: Tensor) -> Any:
        cells = (image.double().numpy().sum(1) - 1.5).reshape(2, 4, 2, 4, 2).mean((2, 4))
        return 1 / (1 + np.exp(-3 * cells))

    fake, real = probability(output), probability(batch["target"])
    generator = adversary.generator_terms(output, batch)
    discriminator = adversary.discriminator_terms(output, batch)
    assert list(generator) == ["adversarial"]
    assert list(discriminator) == ["d_real", "d_fake"]
    np.testing.assert_allclose(generator["adversarial"].detach(), -0.1 * np.log(fake).mean(), rtol=1e-5)
    np.testing.assert_allclose(discriminator["d_real"].detach(), -np.log(real).mean(), rtol=1e-5)
    np.testing.assert_allclose(discriminator["d_fake"].detach(), -np.log(1 - fake).mean(), rtol=1e-5)


def test_hinge_terms_are_what_logits_lack():
    output, batch = batch_of(size=8)
    adversary = HingeAdversary(Pixelwise(), weight=0.1)

    def cells(image: Tensor) -> Any:
        return 3 * (image.double().numpy().sum(1) - 1.5).reshape(2, 4, 2, 4, 2).mean((2, 4))

    fake, real = cells(output), cells(batch["target"])
    assert (fake < -1).any()  # some logits are beyond the hinge
    generator = adversary.generator_terms(output, batch)
    discriminator = adversary.discriminator_terms(output, batch)
    np.testing.assert_allclose(generator["adversarial"].detach(), -0.1 * fake.mean(), rtol=1e-5)
    np.testing.assert_allclose(discriminator["d_real"].detach(), np.where(real < 1, 1 - real, 0).mean(), rtol=1e-5)
    np.testing.assert_allclose(discriminator["d_fake"].detach(), np.where(fake > -1, 1 + fake, 0).mean(), rtol=1e-5)


@every_scheme
def test_generator_terms_reach_the_output_alone(adversary):
    adversary.zero_grad()
    output, batch = batch_of()
    output.requires_grad_()
    batch["target"].requires_grad_()
    terms = adversary.generator_terms(output, batch)
    for term in terms.values():
        (slope,) = torch.autograd.grad(term, output, retain_graph=True)
        assert slope.abs().sum() > 0
    total(terms).backward()
    assert all(p.grad is None for p in adversary.parameters())
    assert all(p.requires_grad for p in adversary.parameters())
    assert batch["target"].grad is None


@every_scheme
def test_discriminator_terms_reach_every_parameter_and_not_the_output(adversary):
    adversary.zero_grad()
    output, batch = batch_of()
    output.requires_grad_()
    total(adversary.discriminator_terms(output, batch)).backward()
    assert output.grad is None
    assert not batch["target"].requires_grad
    for name, parameter in adversary.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all()


@every_scheme
def test_terms_are_finite_float32_in_bfloat16_autocast_and_the_discriminator_still_learns(adversary):
    adversary.zero_grad()
    output, batch = batch_of()
    output = output.bfloat16().requires_grad_()
    # One autocast region, as in a training step: its cache of cast weights must not lose their gradients.
    with torch.autocast("cpu", torch.bfloat16):
        generator = adversary.generator_terms(output, batch)
        discriminator = adversary.discriminator_terms(output, batch)
    for term in (*generator.values(), *discriminator.values()):
        assert term.dtype == torch.float32
        assert term.ndim == 0
        assert term.isfinite()
    (slope,) = torch.autograd.grad(total(generator), output)
    assert slope.isfinite().all()
    # The fake pass alone is the one that autocast governs.
    total({"d_fake": discriminator["d_fake"]}).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in adversary.parameters())


def test_r1_stays_in_float32_under_autocast():
    output, batch = batch_of()
    adversary = schemes()[0]
    assert isinstance(adversary, LamaAdversary)
    plain = adversary.discriminator_terms(output, batch)
    with torch.autocast("cpu", torch.bfloat16):
        cast = adversary.discriminator_terms(output, batch)
    assert torch.equal(cast["d_r1"], plain["d_r1"])
    assert torch.equal(cast["d_real"], plain["d_real"])
    assert not torch.equal(cast["d_fake"], plain["d_fake"])


@every_scheme
def test_a_few_steps_teach_the_discriminator(adversary):
    adversary = copy.deepcopy(adversary)
    optimizer = torch.optim.Adam(adversary.parameters(), lr=1e-2)
    output, batch = batch_of()
    output = 0.2 * output
    # All hole: with a known region, LaMa's optimum depends on where patches look.
    batch["mask"] = torch.ones_like(batch["mask"])
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss: Any = total(adversary.discriminator_terms(output, batch))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
