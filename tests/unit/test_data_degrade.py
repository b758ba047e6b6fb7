"""Degradations with one unknown of the whole image, blur or tone, against plain float64 loops."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.random import default_rng

from diffi2i.config.build import build
from diffi2i.data.degrade import BlurredBicubic, Tone
from diffi2i.data.resize import imresize
from diffi2i.errors import UserError
from tests.networks import pictures64


def gaussian_rows(plane: np.ndarray, sigma: float) -> np.ndarray:
    """Each row blurred: every tap by its distance, the row walked to and fro beyond its ends."""
    reach, n = math.ceil(4 * sigma), plane.shape[1]
    walk = [*range(n), *range(n - 2, 0, -1)] if n > 1 else [0]
    taps = [math.exp(-(d**2) / (2 * sigma**2)) for d in range(-reach, reach + 1)]
    out = np.zeros_like(plane)
    for x in range(n):
        for d, tap in zip(range(-reach, reach + 1), taps, strict=True):
            out[:, x] += tap / sum(taps) * plane[:, walk[(x + d) % len(walk)]]
    return out


@pytest.mark.parametrize(("sigma", "size"), [(0.2, (8, 12)), (1.3, (12, 8)), (6.0, (8, 4))])
def test_blind_super_resolution_blurs_by_rows_and_columns_then_shrinks(sigma: float, size: tuple[int, int]) -> None:
    target = pictures64(3, *size)
    blurred = [gaussian_rows(gaussian_rows(plane, sigma).T, sigma).T for plane in target.numpy()]
    expected = (imresize(torch.from_numpy(np.stack(blurred)), 1 / 4).clamp(0, 1) * 255).round() / 255
    got = BlurredBicubic(4, (sigma, sigma))(target.float(), default_rng(0))["input"]
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=1.01 / 255)  # a half may round either way
    assert ((got.double() - expected).abs() < 1e-6).double().mean() > 0.9


def test_the_blur_is_drawn_from_its_range_and_from_the_generator_alone() -> None:
    target = pictures64(3, 32, 32).float()

    def deviation(sigma: tuple[float, float], seed: int) -> float:
        return float(BlurredBicubic(4, sigma)(target, default_rng(seed))["input"].std())

    drawn = [deviation((0.2, 6.0), seed) for seed in range(20)]
    assert drawn == [deviation((0.2, 6.0), seed) for seed in range(20)]
    assert len(set(drawn)) == 20
    assert deviation((6.0, 6.0), 0) < min(drawn) < max(drawn) < deviation((0.2, 0.2), 0)


def toned(target: np.ndarray, exposure: float, red: float, blue: float, gamma: float) -> np.ndarray:
    """Pixel by pixel, in logarithms of light."""
    out = np.zeros_like(target)
    for (channel, y, x), value in np.ndenumerate(target):
        stops = 2.2 * math.log2(value) + exposure + (red, 0.0, blue)[channel]
        out[channel, y, x] = round(255 * 2 ** (min(0.0, stops) * 2**gamma / 2.2)) / 255
    return out


@pytest.mark.parametrize("seed", range(4))
def test_a_tone_is_gains_of_light_then_gamma(seed: int) -> None:
    target = 0.01 + 0.98 * pictures64(3, 6, 7)
    exposure, red, blue, gamma = default_rng(seed).uniform(-1, 1, 4) * [2.0, 1.0, 1.0, 0.5]
    expected = toned(target.numpy(), exposure, red, blue, gamma)
    got = Tone(exposure=2.0, balance=1.0, gamma=0.5)(target.float(), default_rng(seed))["input"].double().numpy()
    np.testing.assert_allclose(got, expected, rtol=0, atol=1.01 / 255)
    assert (np.abs(got - expected) < 1e-6).mean() > 0.95


def test_no_range_leaves_the_image_and_opposite_has_two_tones() -> None:
    target = (torch.arange(3 * 16).reshape(3, 4, 4) * 5) / 255
    torch.testing.assert_close(Tone(exposure=0, balance=0, gamma=0)(target, default_rng(0))["input"], target)
    target = target.clamp(min=0.02)
    two = Tone(exposure=1.0, balance=0.25, gamma=0.5, opposite=True)
    made = {tuple(two(target, default_rng(seed))["input"].flatten().tolist()) for seed in range(20)}
    ends = [(sign * 1.0, sign * 0.25, -sign * 0.25, -sign * 0.5) for sign in (1, -1)]
    expected = [toned(target.double().numpy(), *end).ravel() for end in ends]
    assert len(made) == 2
    for end, (found, other) in zip(expected, (sorted(made, reverse=True), sorted(made)), strict=True):
        np.testing.assert_allclose(found, end, rtol=0, atol=1.01 / 255)
        assert np.abs(np.array(other) - end).max() > 0.2


@pytest.mark.parametrize(
    ("name", "arguments", "line"),
    [
        ("Tone", {"scale": 4}, "task.degrade: scale=4: a tone keeps the size, write task.scale=1"),
        ("Tone", {"gamma": -1}, "write task.degrade.gamma=0.5"),
        ("Tone", {"exposure": [-1, 1]}, "write task.degrade.exposure=0.5"),
        ("Tone", {"opposite": "maybe"}, "write task.degrade.opposite=true or leave it out"),
        ("BlurredBicubic", {"scale": 4, "sigma": 2.0}, "write task.degrade.sigma="),
        ("BlurredBicubic", {"scale": 4, "sigma": [2.0, 1.0]}, "write task.degrade.sigma="),
        ("BlurredBicubic", {"scale": 4, "sigma": [0, 1.0]}, "write task.degrade.sigma="),
    ],
)
def test_ranges_that_cannot_be_are_refused(name: str, arguments: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as refused:
        build({"_target_": f"diffi2i.data.degrade.{name}", **arguments}, "task.degrade")
    assert line in str(refused.value)
    assert "\n" not in str(refused.value)
