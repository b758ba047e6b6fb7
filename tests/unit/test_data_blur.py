"""Convolution against plain loops, camera shake's kernels and blur, and pairs made from a fast camera's frames."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import default_rng
from PIL import Image

from diffi2i.data.blur import CameraShake, convolve, rasterize, trajectory
from diffi2i.data.frames import average, write_pairs
from diffi2i.data.images import read_rgb
from diffi2i.data.resize import quantize
from diffi2i.errors import UserError


@pytest.mark.parametrize("size", [(9, 12), (4, 3), (2, 5), (1, 1)])
def test_convolution_one_tap_at_a_time(size: tuple[int, int]) -> None:
    rng = default_rng(0)
    image, kernel = rng.random((2, *size)), rng.random((7, 7))
    mirrored = np.pad(image, ((0, 0), (3, 3), (3, 3)), mode="reflect")
    expected = np.zeros_like(image)
    for row, column in itertools.product(range(7), range(7)):
        # Convolution, not correlation: the kernel is turned round.
        expected += kernel[6 - row, 6 - column] * mirrored[:, row : row + size[0], column : column + size[1]]
    got = convolve(torch.from_numpy(image).float(), torch.from_numpy(kernel))
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-5)


def centroid(kernel: np.ndarray) -> tuple[float, float]:
    axis = np.arange(len(kernel)) - len(kernel) // 2
    return float((kernel.sum(0) * axis).sum()), float((kernel.sum(1) * axis).sum())


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_kernels_have_energy_one_and_lie_centred(seed: int) -> None:
    kernel = CameraShake(length=(0.5, 50)).kernel(default_rng(seed))
    assert kernel.shape[0] == kernel.shape[1]
    assert len(kernel) % 2 == 1
    assert kernel.min() >= 0
    assert kernel.sum() == pytest.approx(1, abs=1e-12)
    assert centroid(kernel) == pytest.approx((0, 0), abs=1e-9)
    np.testing.assert_array_equal(kernel, CameraShake(length=(0.5, 50)).kernel(default_rng(seed)))


def test_paths_have_the_length_asked_for() -> None:
    rng = default_rng(1)
    for length in (0.5, 10, 60):
        path = trajectory(length, 500, 0.005, 5, 0.5, 0.1, rng)
        assert len(path) == 500
        assert np.abs(np.diff(path)).sum() == pytest.approx(length)
        assert abs(path.mean()) < 1e-9
        # No kernel is larger than its path is long.
        assert len(rasterize(path)) <= 2 * math.ceil(length) + 1
    extents = [len(CameraShake(length=(5, 9)).kernel(rng)) for _ in range(50)]
    assert max(extents) <= 19


def test_each_shake_does_what_its_name_says() -> None:
    def extents(anxiety: float, gaussian: float, centripetal: float, impulse: float) -> list[float]:
        paths = [trajectory(40, 2000, anxiety, gaussian, centripetal, impulse, default_rng(seed)) for seed in range(20)]
        return [float(np.abs(path - path[0]).max()) for path in paths]

    assert extents(0, 10, 0.7, 0.2) == pytest.approx([40] * 20)  # no anxiety: a straight line of the full length
    straight = np.mean(extents(0.005, 0, 0, 0))
    assert straight == pytest.approx(40)
    assert np.mean(extents(0.005, 10, 0, 0)) < 0.8 * straight
    assert np.mean(extents(0.005, 0, 0, 0.4)) < 0.9 * straight
    assert np.mean(extents(0.005, 10, 0.7, 0)) < np.mean(extents(0.005, 10, 0, 0))


def test_an_impulse_nearly_turns_the_path_round() -> None:
    path = trajectory(40, 2000, 0.005, 0, 0, 0.4, default_rng(1))
    directions = np.angle(np.diff(path))
    turns = np.abs(np.angle(np.exp(1j * np.diff(directions))))
    turns = turns[turns > 1e-6]
    assert len(turns) > 0
    assert turns.min() > math.pi - 1.05  # twice the velocity the other way, up to half a radian aside


def test_positions_are_shared_out_between_pixels() -> None:
    kernel = rasterize(np.array([0.25 + 0.5j, -0.25 - 0.5j]))
    np.testing.assert_allclose(kernel, np.array([[0.125, 0.375, 0], [0.125, 0.75, 0.125], [0, 0.375, 0.125]]) / 2)
    np.testing.assert_array_equal(rasterize(np.zeros(3, complex)), [[1]])


def still(**ranges: tuple[float, float]) -> CameraShake:
    """A camera shake without noise."""
    return CameraShake(**{"noise": (0.0, 0.0), **ranges})  # type: ignore[arg-type]


@pytest.mark.parametrize("gamma", [1.0, 2.2])
def test_the_input_is_not_shifted_against_the_target(gamma: float) -> None:
    # A blob of light, its centroid measured in light.
    y, x = np.mgrid[:96, :96]
    blob = np.exp(-((x - 45.3) ** 2 + (y - 50.8) ** 2) / 18)
    target = torch.from_numpy(blob ** (1 / gamma)).float().expand(3, -1, -1)
    degrade = still(length=(10, 25))
    degrade.gamma = gamma
    for seed in range(10):
        light = degrade(target, default_rng(seed))["input"][0].numpy() ** gamma
        light[light < 0.002] = 0
        assert (light * x).sum() / light.sum() == pytest.approx(45.3, abs=0.15)
        assert (light * y).sum() / light.sum() == pytest.approx(50.8, abs=0.15)


def test_a_blurred_edge_stays_on_average_where_it_was() -> None:
    target = torch.zeros(3, 64, 128)
    target[:, :, 64:] = 1
    degrade = still(length=(5, 30))
    degrade.gamma = 1.0
    for seed in range(10):
        # The sum along a row is the light to the right of the edge, whatever the blur.
        row = degrade(target, default_rng(seed))["input"][0, 32]
        assert row.sum().item() == pytest.approx(64, abs=0.1)


def test_blur_adds_light_not_pixel_values() -> None:
    target = torch.zeros(3, 65, 65)
    target[:, :, 32] = 1
    # A straight horizontal path of length n spreads a line of light over n pixels.
    for seed in range(20):
        bright = still(length=(20, 20), anxiety=(0, 0))(target, default_rng(seed))["input"].max().item()
        dull = CameraShake(length=(20, 20), anxiety=(0, 0), noise=(0, 0), gamma=1)(target, default_rng(seed))["input"]
        assert bright == pytest.approx(dull.max().item() ** (1 / 2.2), abs=0.02)


def test_flat_and_black_images_stay_as_they_are() -> None:
    for value in (0.0, 100 / 255, 1.0):
        flat = torch.full((3, 40, 40), value)
        assert torch.equal(still()(flat, default_rng(0))["input"], quantize(flat))
    # Rounding in the Fourier transform does not lift black, however bright the rest is.
    half = torch.zeros(3, 200, 200)
    half[:, :, 150:] = 1
    assert not still(length=(6, 20))(half, default_rng(0))["input"][:, :, :100].any()


def test_noise_has_its_deviation_before_rounding() -> None:
    grey = 128 / 255
    flat = torch.full((3, 200, 200), grey)
    noise = (CameraShake(noise=(4, 4))(flat, default_rng(0))["input"] - grey) * 255
    n = noise.numel()
    # Rounding to whole grey levels adds a variance of 1/12.
    assert noise.std().item() == pytest.approx(math.sqrt(16 + 1 / 12), abs=5 * 4 / math.sqrt(2 * n))
    deviations = [(CameraShake()(flat, default_rng(s))["input"] - grey).std().item() * 255 for s in range(30)]
    assert max(deviations) < 2.1
    assert min(deviations) < 0.5


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 2**32))
def test_any_size_gives_an_eight_bit_image_that_the_seed_determines(height: int, width: int, seed: int) -> None:
    target = torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))
    got = CameraShake()(target, default_rng(seed))["input"]
    assert got.shape == target.shape
    assert got.dtype == torch.float32
    assert torch.equal(got, quantize(got))
    assert torch.equal(got, CameraShake()(target, default_rng(seed))["input"])


def test_a_batch_is_its_samples_and_autocast_changes_nothing() -> None:
    degrade, target = CameraShake(), torch.rand(4, 3, 48, 40)
    expected = torch.stack([degrade(x, default_rng(i))["input"] for i, x in enumerate(target)])
    assert torch.equal(degrade.batch(target, [default_rng(i) for i in range(4)])["input"], expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(degrade.batch(target, [default_rng(i) for i in range(4)])["input"], expected)
    assert degrade.scale == 1
    assert degrade.on_device


# frames.py


def frames(count: int, side: int = 6) -> list[np.ndarray]:
    return list(default_rng(0).integers(0, 256, (count, side, side + 1, 3), dtype=np.uint8))


def test_frames_are_averaged_as_light() -> None:
    black, white = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)
    # Half the light of white, (1/2) ** (1/2.2) = 0.7297, is grey level 186.
    assert (average([black, white]) == 186).all()
    assert (average([black, white], gamma=1) == 128).all()
    same = frames(1)[0]
    np.testing.assert_array_equal(average([same] * 5), same)
    several = frames(5)
    expected = (np.mean([(f / 255.0) ** 2.2 for f in several], 0) ** (1 / 2.2) * 255).round()
    np.testing.assert_array_equal(average(several), expected)


def save(folder: Path, images: list[np.ndarray], pattern: str = "frame{}.png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / pattern.format(i))


def test_pairs_are_the_mean_and_the_middle_of_each_window(tmp_path: Path) -> None:
    images = frames(12)
    # Without leading zeros: in alphabetical order frame 10 would come before frame 2.
    save(tmp_path / "root" / "one", images)
    save(tmp_path / "root" / "two", images[:5], "v1.{}.png")
    count = write_pairs(tmp_path / "root", tmp_path / "out", window=5, stride=3, gamma=2.2)
    assert count == 3 + 1
    written = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.png"))
    names = ["one/frame2", "one/frame5", "one/frame8", "two/v1.2"]
    assert written == [f"{kind}/{name}.png" for kind in ("input", "target") for name in names]
    for start in (0, 3, 6):
        name = f"one/frame{start + 2}.png"
        np.testing.assert_array_equal(read_rgb(tmp_path / "out" / "target" / name), images[start + 2])
        np.testing.assert_array_equal(
            read_rgb(tmp_path / "out" / "input" / name), average(images[start : start + 5], 2.2)
        )


def test_a_folder_of_frames_is_one_recording(tmp_path: Path) -> None:
    save(tmp_path / "root", frames(3))
    assert write_pairs(tmp_path / "root", tmp_path / "out", 1, 1) == 3
    np.testing.assert_array_equal(
        read_rgb(tmp_path / "out" / "input" / "frame1.png"), read_rgb(tmp_path / "root" / "frame1.png")
    )


def test_what_cannot_be_paired_is_refused_on_one_line(tmp_path: Path) -> None:
    root, out = tmp_path / "root", tmp_path / "out"
    with pytest.raises(UserError, match="no such folder"):
        write_pairs(root, out, 3, 1)
    save(root / "a", frames(4))
    for window, stride, message in (
        (2, 1, "window=2"),
        (0, 1, "window=0"),
        (3, 0, "stride=0"),
        (5, 1, "holds 4 frames"),
    ):
        with pytest.raises(UserError, match=message):
            write_pairs(root, out, window, stride)
    save(root / "b", [*frames(2), frames(1, side=8)[0]])
    with pytest.raises(UserError, match=r"frame2\.png: is 9x8, but frame0\.png is 7x6") as error:
        write_pairs(root, out, 3, 1)
    assert "\n" not in str(error.value)
    assert not out.exists()
    save(out, frames(1))
    with pytest.raises(UserError, match="not an empty folder"):
        write_pairs(root, out, 3, 1)
