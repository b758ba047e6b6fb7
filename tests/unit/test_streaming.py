"""The DI2Iformer strip by strip: what it computes of the whole image."""

from itertools import chain

import pytest
import torch

from diffi2i.models.di2iformer import DI2Iformer
from diffi2i.models.streaming import Strips, streamed
from tests.conftest import awake

CPU = torch.device("cpu")


@pytest.mark.parametrize("rows", [1, 16, 40, 1000])
@pytest.mark.parametrize("size", [(1, 1), (7, 65), (64, 40), (99, 33)])
@pytest.mark.parametrize(
    ("scale", "projection", "channels", "prior"),
    [(1, "pointwise", 4, 8), (4, "pointwise", 3, 8), (1, "depthwise", 3, None), (3, "depthwise", 3, 8)],
)
@torch.no_grad()
def test_it_is_the_whole_images_output(
    rows: int, size: tuple[int, int], scale: int, projection: str, channels: int, prior: int | None
) -> None:
    torch.manual_seed(0)
    network = awake(DI2Iformer(channels, 8, [2, 1, 1, 2], 1, 1.0, projection, scale, prior)).double().eval()  # type: ignore[arg-type]
    for weight in network.parameters():
        weight.mul_(1.5)  # far from the identity
    image = torch.rand(1, channels, *size).double()
    z = None if prior is None else torch.randn(1, prior).double()
    whole = network(image, z)
    strips = list(streamed(network, image, z, rows, CPU))
    # The bicubic base is float32, whose places in the image are rounded another way in a piece of it.
    torch.testing.assert_close(torch.cat(strips, 2), whole, atol=1e-6 if scale == 1 else 2e-5, rtol=1e-6)
    assert (len(strips) > 1) == (rows < 1000 and size[0] > 40) or rows == 1


@pytest.mark.parametrize("height", range(1, 20))
def test_strips_cover_each_row_once_and_leave_room_below(height: int) -> None:
    walked = list(Strips(4, CPU).of(torch.zeros(1, 1, height, 3)))
    assert list(chain.from_iterable(range(*strip) for strip in walked)) == list(range(height))
    assert all(bottom == height or height - bottom >= 2 for _, bottom in walked)
    assert all(top % 2 == 0 for top, _ in walked)


def test_windows_are_refused() -> None:
    network = DI2Iformer(3, 8, [1, 0, 0, 1], 0, 1.0, "pointwise", 1)
    network.use_tlc(16)
    with pytest.raises(ValueError, match="is not streamed"):
        next(streamed(network, torch.zeros(1, 3, 32, 32), None, 8, CPU))
