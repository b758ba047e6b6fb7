"""Free-form masks: binary, reproducible, never empty, and of the hole areas their names promise."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffi2i.data.masks import FreeFormMask, medium, narrow, training, wide
from diffi2i.errors import UserError

KINDS = [narrow, medium, wide, training]


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
    # All test sets mask a moderate part of the image: not a few pixels, not most of it.
    for kind in (narrow(), medium(), wide()):
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


def test_strokes_grow_from_narrow_to_wide() -> None:
    for side in (256, 512):
        rng = np.random.default_rng(3)
        # Strokes only: boxes have another measure.
        kinds = [kind(side) for kind in (narrow, medium, wide)]
        for kind in kinds:
            kind.box_weight = 0.0
        medians = [np.median([thickness(kind(side, side, rng)) for _ in range(40)]) for kind in kinds]
        assert medians[0] * 1.5 < medians[1]
        assert medians[1] * 1.3 < medians[2]


# The arguments in LaMa's files, word for word: strokes (min_times, max_times, max_width, max_len), then boxes
# (min_times, max_times, bbox_min_size, bbox_max_size, margin) with box_proba 0.3 against irregular_proba 1.
LAMA: dict[tuple[str, int], tuple[tuple[int, ...], tuple[int, ...] | None]] = {
    ("narrow", 256): ((4, 50, 10, 40), None),
    ("narrow", 512): ((4, 70, 20, 100), None),
    ("medium", 256): ((4, 5, 50, 100), (1, 5, 10, 50, 0)),
    ("medium", 512): ((4, 10, 100, 200), (1, 5, 30, 150, 0)),
    ("wide", 256): ((1, 5, 100, 200), (1, 3, 30, 150, 10)),
    ("wide", 512): ((1, 5, 250, 450), (1, 4, 30, 300, 10)),
}


def lama_strokes(side: int, figures: tuple[int, ...], rng: Any) -> np.ndarray:
    """A mask of strokes: a pixel is in a segment if it is within half a width of it (OpenCV's round-ended lines)."""
    min_times, max_times, max_width, max_len = figures
    mask = np.zeros((side, side), bool)
    for stroke in range(rng.randint(min_times, max_times + 2)):
        x, y = rng.randint(side), rng.randint(side)
        for _ in range(1 + rng.randint(5)):
            angle = 0.01 + rng.randint(4)
            if stroke % 2 == 0:
                angle = 2 * math.pi - angle
            length, width = 10 + rng.randint(max_len), 5 + rng.randint(max_width)
            x2 = min(max(int(x + length * math.sin(angle)), 0), side)
            y2 = min(max(int(y + length * math.cos(angle)), 0), side)
            left, right = max(0, min(x, x2) - width), min(side, max(x, x2) + width)
            top, bottom = max(0, min(y, y2) - width), min(side, max(y, y2) + width)
            rows, columns = np.mgrid[top:bottom, left:right]
            dx, dy = x2 - x, y2 - y
            along = np.clip(((columns - x) * dx + (rows - y) * dy) / max(1, dx * dx + dy * dy), 0, 1)
            near = np.hypot(columns - x - along * dx, rows - y - along * dy) <= width / 2
            mask[top:bottom, left:right] |= near
            x, y = x2, y2
    return mask


def lama_boxes(side: int, figures: tuple[int, ...], rng: Any) -> np.ndarray:
    min_times, max_times, smallest, largest, margin = figures
    mask = np.zeros((side, side), bool)
    for _ in range(rng.randint(min_times, max_times + 1)):
        width, height = rng.randint(smallest, largest + 1), rng.randint(smallest, largest + 1)
        x, y = (rng.randint(margin, side - margin - length + 1) for length in (width, height))
        mask[y : y + height, x : x + width] = True
    return mask


@pytest.mark.parametrize(("name", "side"), LAMA)
def test_figures_are_lamas(name: str, side: int) -> None:
    kind = {"narrow": narrow, "medium": medium, "wide": wide}[name](side)
    (min_times, max_times, max_width, max_len), boxes = LAMA[name, side]
    # The code adds one to `max_times`, and draws widths from 5 and lengths from 10 on.
    assert kind.strokes == (min_times, max_times + 1)
    assert kind.stroke_width == (5, 4 + max_width)
    assert kind.stroke_length == (10, 9 + max_len)
    assert kind.box_weight == (0.3 if boxes else 0)
    if boxes:
        assert (*kind.boxes, *kind.box_side, kind.box_margin) == boxes
    assert kind.max_area == 0.5
    assert kind.side == side


@pytest.mark.parametrize(("name", "side"), LAMA)
def test_hole_areas_are_those_of_lamas_procedure(name: str, side: int) -> None:
    strokes, boxes = LAMA[name, side]
    rng: Any = np.random.RandomState(11)  # its `randint` leaves out the end, as in the published code
    count = 100 if side == 512 else 250
    expected: list[float] = []
    while len(expected) < count:
        boxed = boxes is not None and rng.random_sample() < 0.3 / 1.3
        share = (lama_boxes(side, boxes, rng) if boxed and boxes else lama_strokes(side, strokes, rng)).mean()
        if 0 < share <= 0.5:
            expected.append(share)
    kind = {"narrow": narrow, "medium": medium, "wide": wide}[name](side)
    got = areas(kind, side, 400)
    error = math.sqrt(np.var(expected) / len(expected) + np.var(got) / len(got))
    assert got.mean() == pytest.approx(np.mean(expected), abs=4 * error)
    assert got.std() == pytest.approx(np.std(expected), rel=0.25)


@pytest.mark.parametrize("kind", [narrow, medium, wide])
def test_settings_for_512_are_used_unscaled_there(kind: Callable[[int], FreeFormMask]) -> None:
    assert areas(kind(512), 128, 400).mean() == pytest.approx(areas(kind(512), 512, 400).mean(), abs=0.04)
    with pytest.raises(UserError, match="side=300"):
        kind(300)
