"""Predictions in parts: tiles that cover an image once, blended without seams."""

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from diffi2i.methods.method import Guided
from diffi2i.methods.noise import noise_for
from diffi2i.methods.parts import at_place, starts, tiles, weights


@pytest.mark.parametrize("length", [1, 63, 64, 65, 100, 128, 500])
@pytest.mark.parametrize(("side", "overlap"), [(64, 16), (64, 0), (72, 18)])
@pytest.mark.parametrize("scale", [1, 3])
def test_the_weights_of_overlapping_tiles_sum_to_one(length: int, side: int, overlap: int, scale: int) -> None:
    begins = starts(length, side, overlap)
    assert begins[0] == 0
    assert begins[-1] + side == max(length, side)
    assert all(later - begin <= side - overlap for begin, later in pairwise(begins))
    total = torch.zeros(length * scale)
    for begin, weight in zip(begins, weights(begins, length, side, scale), strict=True):
        assert (weight >= 0).all()
        total[begin * scale : begin * scale + len(weight)] += weight
    torch.testing.assert_close(total, torch.ones(length * scale))


class Pointwise:
    """A method whose output at a pixel depends on that pixel, on Z and on the noise there alone."""

    device = torch.device("cpu")

    def __init__(self, scale: int, guided: bool) -> None:
        self.config: Any = SimpleNamespace(task=SimpleNamespace(scale=scale))
        self.scale, self.with_z = scale, guided

    def network(self, image: Tensor, z: Tensor) -> Tensor:
        larger = image[:, :3].repeat_interleave(self.scale, 2).repeat_interleave(self.scale, 3)
        return larger.square() + z.mean()

    def guided(self, batch: Any, noise: Any) -> Guided | None:
        z = batch["input"].mean((2, 3))  # of the whole image
        return Guided(self.network, batch["input"], z) if self.with_z else None  # type: ignore[arg-type]

    def predict(self, batch: Any, noise: Any) -> Tensor:
        image = batch["input"]
        return self.network(image + noise(image.shape[1:]), torch.zeros(1))


@pytest.mark.parametrize("size", [(64, 64), (50, 200), (201, 130)])
@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("guided", [True, False])
def test_tiles_are_the_whole_where_nothing_looks_further(size: tuple[int, int], scale: int, guided: bool) -> None:
    """So blending moves nothing, Z is that of the whole image, and noise is that of its place."""
    method: Any = Pointwise(scale, guided)
    batch: Any = {"input": torch.rand(1, 3, *size), "name": ["a"]}
    noise = noise_for(["a"], 0, method.device)
    if guided:
        whole = method.guided(batch, noise).output()
    else:
        whole = method.predict(batch, at_place(noise, (0, 0), size[0], size))
    strips = list(tiles(method, batch, noise, 64))
    torch.testing.assert_close(torch.cat(strips, 2), whole)
    assert (len(strips) > 1) == (size[0] > 64)
