"""`imresize` against MATLAB's own output and against a plain-loop account of MATLAB's algorithm."""

import math

import numpy as np
import pytest
import torch

from diffi2i.data.images import read_rgb, to_tensor
from diffi2i.data.resize import imresize, quantize, to_uint8
from tests.places import DATA

MATLAB = DATA / "bicubic_matlab_x4"


def cubic(x: float) -> float:
    x = abs(x)
    if x <= 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x <= 2 else 0.0


def matlab_rows(image: np.ndarray, scale: float) -> np.ndarray:
    """Resize the first axis in float64, one output row and one tap at a time."""
    n = image.shape[0]
    stretch = min(scale, 1.0)
    support = 4 / stretch
    out = np.zeros((math.ceil(n * scale), *image.shape[1:]))
    for i in range(out.shape[0]):
        center = (i + 1) / scale + 0.5 * (1 - 1 / scale)  # MATLAB counts from 1
        left = math.floor(center - support / 2)
        total = 0.0
        for tap in range(left, left + math.ceil(support) + 2):
            weight = stretch * cubic(stretch * (center - tap))
            mirrored = list(range(n)) + list(range(n - 1, -1, -1))
            out[i] += weight * image[mirrored[(tap - 1) % (2 * n)]]
            total += weight
        out[i] /= total
    return out


@pytest.mark.parametrize("scale", [1 / 4, 1 / 2, 1 / 3, 2, 4])
@pytest.mark.parametrize("size", [(12, 24), (36, 12)])
def test_imresize_follows_matlabs_algorithm(size: tuple[int, int], scale: float) -> None:
    image = np.random.default_rng(0).random((*size, 3))
    rows = matlab_rows(image, scale)
    expected = matlab_rows(rows.transpose(1, 0, 2), scale).transpose(1, 0, 2)
    got = imresize(torch.from_numpy(image).permute(2, 0, 1), scale)
    np.testing.assert_allclose(got.permute(1, 2, 0).numpy(), expected, atol=1e-6)


@pytest.mark.skipif(not MATLAB.is_dir(), reason="shared/data/bicubic_matlab_x4 is not here")
def test_imresize_equals_matlabs_files() -> None:
    files = sorted((MATLAB / "gt").iterdir())
    differing = 0
    for file in files:
        expected = torch.from_numpy(read_rgb(MATLAB / "lq_matlab" / file.name)).permute(2, 0, 1).int()
        difference = (to_uint8(imresize(to_tensor(read_rgb(file)), 1 / 4)).int() - expected).abs()
        assert difference.max() <= 1
        differing += int((difference > 0).sum())
    assert len(files) == 16
    # A value half-way between two grey levels may round either way; 196,608 values are compared.
    assert differing <= 2


def test_batches_and_single_images_agree() -> None:
    batch = torch.rand(2, 3, 8, 12)
    for scale in (0.25, 2):
        torch.testing.assert_close(imresize(batch, scale)[1], imresize(batch[1], scale))


@pytest.mark.parametrize("scale", [4, 1])
def test_images_smaller_than_the_padding(scale: int) -> None:
    pixel = torch.full((3, 1, 1), 0.3)
    torch.testing.assert_close(imresize(pixel, scale), torch.full((3, scale, scale), 0.3))
    torch.testing.assert_close(imresize(torch.full((3, 4, 8), 0.3), 1 / 4), torch.full((3, 1, 2), 0.3))


def test_wrong_sizes_and_scales_are_refused() -> None:
    with pytest.raises(ValueError, match="divisible"):
        imresize(torch.rand(3, 9, 8), 1 / 4)
    with pytest.raises(ValueError, match="integer"):
        imresize(torch.rand(3, 8, 8), 1.5)


def test_rounding_to_eight_bits() -> None:
    values = torch.tensor([-0.2, 0.0, 0.5 / 255 + 1e-4, 254.6 / 255, 1.7])
    assert to_uint8(values).tolist() == [0, 0, 1, 255, 255]
    torch.testing.assert_close(quantize(values), torch.tensor([0, 0, 1 / 255, 1, 1]))
