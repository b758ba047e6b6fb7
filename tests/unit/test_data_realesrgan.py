"""Real-ESRGAN's degradation: every operation against its own formula, every drawn figure against its range."""

import io
import math
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import default_rng
from omegaconf import OmegaConf
from PIL import Image
from scipy import special
from skimage import data as photos
from torch import Tensor

from diffi2i.data.blur import convolve
from diffi2i.data.images import to_tensor
from diffi2i.data.realesrgan import (
    FAMILIES,
    MODES,
    Kernel,
    Noise,
    Order,
    RealESRGAN,
    Recipe,
    Step,
    add_noise,
    jpeg,
    kernel_pixels,
    resize,
    second_order,
)
from diffi2i.data.resize import quantize

PHOTOS = [getattr(photos, name)()[:256, :256] for name in ("astronaut", "coffee", "chelsea")]
PHOTO = PHOTOS[0]


def psnr(a: Tensor, b: Tensor) -> float:
    return -10 * math.log10((a - b).double().square().mean().item())


def formula(kernel: Kernel) -> np.ndarray:
    """One pixel at a time, with the covariance matrix written out."""
    half = kernel.size // 2
    turn = np.array(
        [[math.cos(kernel.angle), -math.sin(kernel.angle)], [math.sin(kernel.angle), math.cos(kernel.angle)]]
    )
    inverse = np.linalg.inv(turn @ np.diag(np.square(kernel.sigma)) @ turn.T)
    out = np.zeros((kernel.size, kernel.size))
    for row in range(kernel.size):
        for column in range(kernel.size):
            place = np.array([column - half, row - half])
            squared = float(place @ inverse @ place)
            if kernel.family == "sinc":
                r = math.hypot(*place)
                c = kernel.cutoff
                out[row, column] = c * special.j1(c * r) / (2 * math.pi * r) if r else c * c / (4 * math.pi)
            elif kernel.family.startswith("plateau"):
                out[row, column] = 1 / (squared**kernel.beta + 1)
            else:
                out[row, column] = math.exp(-0.5 * squared**kernel.beta)
    normalized: np.ndarray = out / out.sum()
    return normalized


def kernels_of(family: str, count: int = 8) -> list[Kernel]:
    order = Order(sinc_prob=0.0, family_probs=[float(f == family) for f in FAMILIES])
    rng = default_rng(0)
    return [order.draw_kernel(rng) for _ in range(count)]


@pytest.mark.parametrize("family", [*FAMILIES, "sinc"])
def test_kernels_follow_their_formulas(family: str) -> None:
    if family == "sinc":
        kernels = [Kernel("sinc", size, cutoff=c) for size in (7, 13, 21) for c in (math.pi / 5, 2.0, math.pi)]
    else:
        kernels = kernels_of(family)
    for kernel in kernels:
        assert kernel.family == family
        pixels = kernel_pixels(kernel)
        # torch's Bessel function is good to 5e-8 only.
        np.testing.assert_allclose(pixels.numpy(), formula(kernel), rtol=0, atol=2e-7 if family == "sinc" else 1e-13)
        assert pixels.sum().item() == pytest.approx(1, abs=1e-12)
        torch.testing.assert_close(pixels, pixels.flip(0, 1))  # symmetric about the centre
        if not family.endswith("aniso"):
            torch.testing.assert_close(pixels, pixels.T)
            torch.testing.assert_close(pixels, pixels.flip(0))


def covariance(pixels: Tensor) -> np.ndarray:
    axis = np.arange(len(pixels)) - len(pixels) // 2
    y, x = np.meshgrid(axis, axis, indexing="ij")
    weights = pixels.numpy()
    return np.array([[(weights * a * b).sum() for b in (x, y)] for a in (x, y)])


def test_gaussian_covariance_is_sigmas() -> None:
    for sigma in (0.8, 1.5, 2.5):
        isotropic = covariance(kernel_pixels(Kernel("iso", 21, (sigma, sigma))))
        np.testing.assert_allclose(isotropic, sigma**2 * np.eye(2), atol=0.002 * sigma**2)
    angle = 0.6
    turned = covariance(kernel_pixels(Kernel("aniso", 21, (2.4, 1.0), angle)))
    values, vectors = np.linalg.eigh(turned)
    np.testing.assert_allclose(values, [1.0, 2.4**2], rtol=0.005)
    assert abs(vectors[:, 1] @ [math.cos(angle), math.sin(angle)]) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("cutoff", [math.pi / 4, math.pi / 2, 2.5])
def test_sinc_passes_what_is_below_its_cutoff(cutoff: float) -> None:
    size = 21
    response = np.abs(np.fft.fft2(kernel_pixels(Kernel("sinc", size, cutoff=cutoff)).numpy(), (256, 256)))
    frequency = 2 * math.pi * np.hypot(*np.meshgrid(np.fft.fftfreq(256), np.fft.fftfreq(256)))
    # A window of `size` pixels smears the edge by about a period of the window to either side.
    smear = 2 * math.pi / size
    assert response[frequency < cutoff - smear].min() > 0.8
    assert response[(frequency > cutoff + smear)].max() < 0.2
    # Half-way down it crosses one half.
    along = response[0, :129]
    crossing = np.argmax(along < 0.5) / 128 * math.pi
    assert crossing == pytest.approx(cutoff, abs=smear / 2)


@pytest.mark.parametrize("grey", [False, True])
def test_gaussian_noise_has_its_deviation(grey: bool) -> None:
    flat = torch.full((3, 200, 200), 0.5)
    noise = (add_noise(flat, Noise("gaussian", 20.0, grey, seed=1)) - flat) * 255
    n = noise[0].numel()
    for channel in noise:
        # Five standard errors of a deviation and of a mean.
        assert channel.std().item() == pytest.approx(20, abs=5 * 20 / math.sqrt(2 * n))
        assert abs(channel.mean().item()) < 5 * 20 / math.sqrt(n)
    same = torch.corrcoef(noise.flatten(1))[0, 1].item()
    assert same == pytest.approx(1 if grey else 0, abs=5 / math.sqrt(n))


@pytest.mark.parametrize("grey", [False, True])
def test_shot_noise_has_a_variance_proportional_to_the_signal(grey: bool) -> None:
    side = 400
    # Two hundred grey levels, so 256 photons make white; each level fills a column pair.
    levels = torch.arange(200).repeat_interleave(2).expand(3, side, 2 * 200) / 255
    strength = 0.5
    noise = add_noise(levels, Noise("poisson", strength, grey, seed=2)) - levels
    # Away from black and white, where clamping cuts the noise.
    for channel in noise[:, :, 80:320]:
        measured = channel.var(0).numpy()
        expected = strength**2 * levels[0, 0, 80:320].numpy() / 256
        ratio = measured / expected
        assert ratio.mean() == pytest.approx(1, abs=5 * math.sqrt(2 / side / 240))
        assert np.polyfit(levels[0, 0, 80:320].numpy(), ratio, 1)[0] == pytest.approx(0, abs=0.2)
        assert abs(channel.mean().item()) < 5 * math.sqrt(expected.mean() / channel.numel())
    same = torch.corrcoef(noise[:, :, 80:320].flatten(1))[0, 1].item()
    assert same == pytest.approx(1 if grey else 0, abs=0.02)


def test_shot_noise_counts_are_poisson() -> None:
    # One level only: one photon makes white, so the counts are small and far from Gaussian.
    flat = torch.full((3, 300, 300), 153 / 255)
    n = flat.numel()
    noise = add_noise(flat, Noise("poisson", 0.1, False, seed=3)) - flat
    counts = ((noise / 0.1 + 0.6).round()).long().flatten()
    for count in range(4):
        share = (counts == count).double().mean().item()
        expected = math.exp(-0.6) * 0.6**count / math.factorial(count)
        assert share == pytest.approx(expected, abs=5 * math.sqrt(expected / n))


def test_black_has_no_shot_noise() -> None:
    black = torch.zeros(3, 9, 9)
    assert not add_noise(black, Noise("poisson", 3.0, False, seed=0)).any()


@pytest.mark.parametrize("quality", [30, 50, 75, 95])
def test_jpeg_is_pillows(quality: int) -> None:
    for photo in (PHOTOS[0], PHOTOS[1], PHOTOS[2][:119, :151]):
        file = io.BytesIO()
        Image.fromarray(photo).save(file, "JPEG", quality=quality)
        expected, original = to_tensor(np.array(Image.open(file))), to_tensor(photo)
        got = jpeg(original, quality)
        assert psnr(got, expected) > 43
        # It spoils the image exactly as much.
        assert psnr(got, original) == pytest.approx(psnr(expected, original), abs=0.45)


def test_jpeg_spoils_more_at_lower_quality_and_bears_any_size() -> None:
    photo = to_tensor(PHOTO)
    scores = [psnr(jpeg(photo, quality), photo) for quality in (30, 44.5, 60, 80, 95)]
    assert scores == sorted(scores)
    for height, width in ((1, 1), (1, 17), (16, 33), (5, 3)):
        image = torch.full((3, height, width), 0.4)
        torch.testing.assert_close(jpeg(image, 90), image, atol=0.01, rtol=0)


def recipes(count: int = 4000) -> list[Recipe]:
    degrade, rng = RealESRGAN(), default_rng(5)
    return [degrade.draw(rng) for _ in range(count)]


def test_no_parameter_leaves_its_published_range() -> None:
    drawn = recipes()
    # As in train_realesrgan_x4plus.yml and the code beside it.
    for which, top_sigma, factors, deviation, shot in (
        ("first", 3, (0.15, 1.5), 30, 3),
        ("second", 1.5, (0.3, 1.2), 25, 2.5),
    ):
        steps = [getattr(recipe, which) for recipe in drawn]
        kernels = [step.kernel for step in steps if step.kernel]
        for kernel in kernels:
            assert kernel.size in range(7, 22, 2)
            assert all(0.2 <= sigma <= top_sigma for sigma in kernel.sigma) or kernel.family == "sinc"
            assert -math.pi <= kernel.angle <= math.pi
            low, high = (0.5, 4) if kernel.family.startswith("generalized") else (1, 2)
            assert low <= kernel.beta <= high
            if kernel.family == "sinc":
                assert (math.pi / 3 if kernel.size < 13 else math.pi / 5) <= kernel.cutoff <= math.pi
        for step in steps:
            assert factors[0] <= step.factor <= factors[1]
            assert 30 <= step.quality <= 95
            if step.noise.kind == "gaussian":
                assert 1 <= step.noise.strength <= deviation
            else:
                assert 0.05 <= step.noise.strength <= shot
        # The ranges are used up to their ends.
        assert max(kernel.sigma[0] for kernel in kernels) > 0.97 * top_sigma
        assert min(step.factor for step in steps) < factors[0] + 0.02
        assert max(step.factor for step in steps) > factors[1] - 0.02
        assert {kernel.size for kernel in kernels} == set(range(7, 22, 2))
    for recipe in drawn:
        if recipe.last_kernel:
            assert recipe.last_kernel.family == "sinc"
            assert math.pi / 3 <= recipe.last_kernel.cutoff <= math.pi


def test_choices_are_made_as_often_as_published() -> None:
    drawn = recipes()
    n = len(drawn)

    def check(happened: list[bool], probability: float) -> None:
        error = math.sqrt(probability * (1 - probability) / len(happened))
        assert np.mean(happened) == pytest.approx(probability, abs=5 * error)

    for which, blur, up, down in (("first", 1, 0.2, 0.7), ("second", 0.8, 0.3, 0.4)):
        steps = [getattr(recipe, which) for recipe in drawn]
        kernels = [step.kernel for step in steps if step.kernel]
        check([step.kernel is not None for step in steps], blur)
        check([kernel.family == "sinc" for kernel in kernels], 0.1)
        families = [kernel.family for kernel in kernels if kernel.family != "sinc"]
        for family, probability in zip(FAMILIES, (0.45, 0.25, 0.12, 0.03, 0.12, 0.03), strict=True):
            check([drawn_family == family for drawn_family in families], probability)
        check([step.factor > 1 for step in steps], up)
        check([step.factor < 1 for step in steps], down)
        check([step.noise.kind == "gaussian" for step in steps], 0.5)
        check([step.noise.grey for step in steps], 0.4)
        assert all(count > 0.3 * n for count in Counter(step.mode for step in steps).values())
        plateaus = [kernel.beta for kernel in kernels if kernel.family.startswith("plateau")]
        check([beta == 1 for beta in plateaus], 0.5)
    check([recipe.last_kernel is not None for recipe in drawn], 0.8)
    check([recipe.jpeg_last for recipe in drawn], 0.5)


@pytest.mark.parametrize("jpeg_last", [False, True])
def test_operations_come_in_the_published_order(jpeg_last: bool) -> None:
    first = Step(Kernel("aniso", 9, (2.0, 0.7), 0.4), 0.77, "bicubic", Noise("gaussian", 9.0, True, 1), 60.0)
    second = Step(Kernel("plateau_iso", 7, (1.0, 1.0), beta=1.5), 1.1, "area", Noise("poisson", 1.0, False, 2), 50.5)
    last = Kernel("sinc", 11, cutoff=2.0)
    target = to_tensor(PHOTO[:100, :60])

    image = convolve(target, kernel_pixels(first.kernel or last))
    image = F.interpolate(image[None], size=(77, 46), mode="bicubic")[0]
    image = jpeg(add_noise(image, first.noise), 60)
    image = convolve(image, kernel_pixels(second.kernel or last))
    # The second factor is relative to the 25 x 15 pixels of the result.
    image = add_noise(F.interpolate(image[None], size=(27, 16), mode="area")[0], second.noise)
    if not jpeg_last:
        image = jpeg(image, 50.5)
    image = F.interpolate(image[None], size=(25, 15), mode="bilinear")[0]
    image = convolve(image, kernel_pixels(last))
    if jpeg_last:
        image = jpeg(image.clamp(0, 1), 50.5)

    got = RealESRGAN().apply(target, Recipe(first, second, last, "bilinear", jpeg_last))
    assert torch.equal(got, quantize(image))


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 12), width=st.integers(1, 12), seed=st.integers(0, 2**32))
def test_any_size_gives_an_eight_bit_image_that_the_seed_determines(height: int, width: int, seed: int) -> None:
    target = torch.rand(3, 4 * height, 4 * width, generator=torch.Generator().manual_seed(seed))
    degrade = RealESRGAN()
    got = degrade(target, default_rng(seed))["input"]
    assert got.shape == (3, height, width)
    assert got.dtype == torch.float32
    assert got.min() >= 0
    assert got.max() <= 1
    assert torch.equal(got, quantize(got))
    assert torch.equal(got, degrade(target, default_rng(seed))["input"])


@pytest.mark.parametrize("mode", MODES)
def test_resizing_to_nothing_leaves_a_pixel(mode: str) -> None:
    assert resize(torch.rand(3, 4, 7), 0, 1, mode).shape == (3, 1, 1)


def test_a_batch_is_its_samples() -> None:
    degrade = RealESRGAN()
    target = torch.stack([to_tensor(PHOTO[i : i + 64, i : i + 96]) for i in range(0, 60, 10)])
    rngs = [default_rng(seed) for seed in range(6)]
    batch = degrade.batch(target, rngs)["input"]
    assert batch.shape == (6, 3, 16, 24)
    for i in range(6):
        assert torch.equal(batch[i], degrade(target[i], default_rng(i))["input"])
        # Alone or in other company, a sample is the same.
        assert torch.equal(batch[i : i + 1], degrade.batch(target[i : i + 1], [default_rng(i)])["input"])


def test_last_bit_differences_such_as_between_devices_stay_small() -> None:
    target = to_tensor(PHOTO[:128, :128])
    other = (target + 1e-6 * torch.randn(target.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    changes = []
    for seed in range(20):
        one, two = (RealESRGAN()(image, default_rng(seed))["input"] for image in (target, other))
        changes.append((one - two).abs().mean().item() * 255)
    # Here and there a JPEG coefficient is rounded the other way; the noise does not become another one.
    assert max(changes) < 1
    assert np.median(changes) == 0


def test_every_sample_of_a_batch_has_its_own_parameters() -> None:
    drawn = [RealESRGAN().draw(default_rng(seed)) for seed in range(32)]
    assert len({recipe.first.factor for recipe in drawn}) > 20  # some keep the size
    assert len({recipe.second.quality for recipe in drawn}) == 32
    assert {recipe.first.noise.kind for recipe in drawn} == {"gaussian", "poisson"}
    same = torch.full((2, 3, 64, 64), 0.5)
    one, other = RealESRGAN().batch(same, [default_rng(0), default_rng(1)])["input"]
    assert not torch.equal(one, other)


def test_autocast_and_low_precision_around_it_change_nothing() -> None:
    degrade, target = RealESRGAN(), to_tensor(PHOTO[:96, :96]).unsqueeze(0).requires_grad_()
    for seed in range(4):
        expected = degrade.batch(target, [default_rng(seed)])["input"]
        with torch.autocast("cpu", torch.bfloat16):
            got = degrade.batch(target, [default_rng(seed)])["input"]
        assert got.dtype == torch.float32
        assert torch.equal(got, expected)
        assert not got.requires_grad


def test_the_global_generators_are_left_alone() -> None:
    states = torch.get_rng_state(), str(np.random.get_state())  # noqa: NPY002
    for seed in range(4):
        RealESRGAN()(torch.full((3, 32, 32), 0.5), default_rng(seed))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert str(np.random.get_state()) == states[1]  # noqa: NPY002


def test_a_mild_degradation_keeps_the_image_in_place() -> None:
    keep = Order(blur_prob=0, resize_probs=(0, 0, 1), gaussian_prob=1, gaussian=(0, 0), quality=(99, 99))
    degrade = RealESRGAN(first=keep, second=keep, last_sinc_prob=0)
    target = to_tensor(PHOTO)
    mean = target.unfold(1, 4, 4).unfold(2, 4, 4).mean((3, 4))
    # Bilinear and bicubic shrinking without antialiasing take single pixels, so it is not much nearer than this.
    assert max(psnr(degrade(target, default_rng(seed))["input"], mean) for seed in range(6)) > 35


def test_settings_come_from_plain_lists() -> None:
    config = OmegaConf.create(
        {
            "_target_": "diffi2i.data.realesrgan.RealESRGAN",
            "scale": 2,
            "first": {"_target_": "diffi2i.data.realesrgan.Order", "sigma": [0.5, 0.5], "resize_probs": [0, 0, 1.0]},
            "last_cutoff": [1.1, 1.2],
        }
    )
    degrade = instantiate(config)
    recipe = degrade.draw(default_rng(0))
    assert degrade.scale == 2
    assert degrade.on_device
    assert recipe.first.factor == 1
    assert degrade.second.resize == second_order().resize
    assert degrade(torch.rand(3, 6, 8), default_rng(0))["input"].shape == (3, 3, 4)
