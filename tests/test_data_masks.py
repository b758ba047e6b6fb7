"""Free-form masks: binary, reproducible, never empty, and of the hole areas their names promise."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffi2i.data.masks import FreeFormMask, narrow, training, wide

KINDS = [narrow, wide, training]


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    seed=st.integers(0, 2**32),
)
def test_any_size_gives_a_binary_reproducible_partial_hole(
    kind: Callable[[], FreeFormMask], height: int, width: int, seed: int
) -> None:
    mask = kind()(height, width, np.random.default_rng(seed))
    assert mask.shape == (height, width)
    assert mask.dtype == np.uint8
    assert set(np.unique(mask)) <= {0, 1}
    assert mask.any()
    if mask.size > 1:
        assert mask.sum() <= max(1, kind().max_area * mask.size)
        assert not mask.all()
    np.testing.assert_array_equal(mask, kind()(height, width, np.random.default_rng(seed)))


def areas(kind: FreeFormMask, side: int, count: int = 150) -> np.ndarray:
    rng = np.random.default_rng(7)
    return np.array([kind(side, side, rng).mean() for _ in range(count)])


def thickness(mask: np.ndarray) -> float:
    """Hole pixels per pixel of the hole's border: large for compact holes, small for thin ones."""
    inside = mask[1:-1, 1:-1] & mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
    return float(mask.sum() / (mask.sum() - inside.sum()))


def test_narrow_and_wide_differ_as_named() -> None:
    rng = np.random.default_rng(3)
    thin = [thickness(narrow()(256, 256, rng)) for _ in range(40)]
    thick = [thickness(wide()(256, 256, rng)) for _ in range(40)]
    assert np.median(thick) > 2 * np.median(thin)
    # Both test sets mask a moderate part of the image: not a few pixels, not most of it.
    for kind in (narrow(), wide()):
        share = areas(kind, 256)
        assert 0.1 < share.mean() < 0.35
        assert share.max() <= 0.5
        assert share.std() > 0.05
    assert areas(training(), 256).max() > 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_small_crops_have_the_same_hole_fraction(kind: Callable[[], FreeFormMask]) -> None:
    assert areas(kind(), 64, 400).mean() == pytest.approx(areas(kind(), 256, 400).mean(), abs=0.04)


def test_boxes_keep_their_margin_and_size() -> None:
    boxes = FreeFormMask(strokes=(1, 1), stroke_width=(5, 5), stroke_length=(10, 10), box_weight=1e9, boxes=(1, 1))
    for seed in range(50):
        mask = boxes(256, 256, np.random.default_rng(seed))
        rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert mask[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1].all()
        for side in (rows, cols):
            assert side[0] >= 10
            assert side[-1] < 246
            assert 30 <= len(side) <= 150
