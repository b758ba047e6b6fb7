"""The pull-push fill against a plain numpy recursion, and what any fill must do."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from diffi2i.methods.batch import Batch, network_input
from diffi2i.models.fill import pull_push
from tests.reference import Array


def enlarged(coarse: Array, y: int, x: int) -> float:
    """Bilinear at fine pixel (y, x) of twice the size, pixel centres at half pixels, edges repeated."""
    at = [min(max((n + 0.5) / 2 - 0.5, 0), size - 1) for n, size in zip((y, x), coarse.shape, strict=True)]
    weights = [np.maximum(0, 1 - np.abs(a - np.arange(size))) for a, size in zip(at, coarse.shape, strict=True)]
    return float(weights[0] @ coarse @ weights[1])


def reference(image: Array, hole: NDArray[np.bool_]) -> Array:
    """One square channel whose side is a power of two."""
    if image.shape == (1, 1):
        return np.where(hole, 0, image)
    side = len(image) // 2
    coarse, unknown = np.zeros((side, side)), np.zeros((side, side), bool)
    for row, column in np.ndindex(side, side):
        square = np.s_[2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        known = image[square][~hole[square]]
        unknown[row, column] = not len(known)
        coarse[row, column] = known.mean() if len(known) else 0
    coarse = reference(coarse, unknown)
    filled = image.copy()
    for row, column in zip(*np.nonzero(hole), strict=True):
        filled[row, column] = enlarged(coarse, row, column)
    return filled


@pytest.mark.parametrize("share", [0.0, 0.2, 0.7, 0.98, 1.0])
def test_it_equals_the_recursion_written_out(share: float) -> None:
    rng = np.random.default_rng(0)
    image, hole = rng.random((16, 16)), rng.random((16, 16)) < share
    ours = pull_push(torch.tensor(image)[None, None], torch.tensor(hole, dtype=torch.float64)[None, None])
    np.testing.assert_allclose(ours[0, 0].numpy(), reference(image, hole), atol=1e-12)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3), (33, 64)])
def test_known_pixels_stay_and_filled_ones_lie_between_them(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(2, 3, *size, generator=generator)
    mask = (torch.rand(2, 1, *size, generator=generator) > 0.4).float()
    mask[..., 0, 0] = 0
    filled = pull_push(torch.where(mask > 0, 7.0, image), mask)
    assert filled.shape == image.shape
    known = mask.expand_as(image) == 0
    assert torch.equal(filled[known], image[known])
    for b in range(2):
        for c in range(3):
            values = image[b, c][mask[b, 0] == 0]
            assert filled[b, c].min() >= values.min() - 1e-6
            assert filled[b, c].max() <= values.max() + 1e-6


def test_the_network_is_given_the_fill_only_where_it_is_asked_for() -> None:
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 4:12, 4:12] = 1
    batch: Batch = {"input": image * (1 - mask), "mask": mask, "name": ["a"]}
    assert torch.equal(network_input(batch), torch.cat([image * (1 - mask), mask], dim=1))
    assert torch.equal(network_input(batch, "smooth"), torch.cat([pull_push(image, mask), mask], dim=1))
    assert torch.equal(network_input({"input": image, "name": ["a"]}, "smooth"), image)
