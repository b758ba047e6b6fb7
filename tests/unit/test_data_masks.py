"""Free-form masks: binary, reproducible, never empty, and of the hole areas their names promise."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffi2i.data.masks import FreeFormMask, draw_segment, medium, narrow, training, wide
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


# What has been drawn of each sequence of masks, and the generator that goes on: a long one begins as a short one does.
DRAWN: dict[tuple[str, int], tuple[list[float], np.random.Generator]] = {}


def areas(kind: FreeFormMask, side: int, count: int = 150) -> np.ndarray:
    found, rng = DRAWN.setdefault((str(vars(kind)), side), ([], np.random.default_rng(7)))
    while len(found) < count:
        found.append(kind(side, side, rng).mean())
    return np.array(found[:count])


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


@pytest.mark.slow
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


# Mean and deviation of the hole's share over 12,000 masks that LaMa's own code drew with OpenCV 4.14, on square images
# and, but for training, of at most half of the image. The standard error of a mean is 0.0012 (training: 0.0018).
SHARES = {
    ("narrow", 256): (0.2883, 0.1276),
    ("narrow", 512): (0.2845, 0.1323),
    ("medium", 256): (0.2400, 0.1316),
    ("medium", 512): (0.2744, 0.1396),
    ("wide", 256): (0.2650, 0.1301),
    ("wide", 512): (0.2667, 0.1322),
    ("training", 256): (0.3508, 0.2023),
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "side"), SHARES)
def test_hole_areas_are_lamas(name: str, side: int) -> None:
    kind = training() if name == "training" else {"narrow": narrow, "medium": medium, "wide": wide}[name](side)
    count = 800 if side == 256 else 300
    got = areas(kind, side, count)
    mean, std = SHARES[name, side]
    # Three standard errors: 0.014 at 256. The square-ended lines of true width that this replaces were 0.027 below.
    assert got.mean() == pytest.approx(mean, abs=3 * std / math.sqrt(count))
    assert got.std() == pytest.approx(std, rel=0.12)


def test_training_masks_are_boxes_half_of_the_time() -> None:
    kind = training()
    assert (kind.strokes, kind.stroke_width, kind.stroke_length) == ((1, 6), (5, 104), (10, 209))
    assert (kind.box_weight, kind.boxes, kind.box_side, kind.box_margin) == (1.0, (1, 4), (30, 150), 10)


def segment(start: tuple[int, int], end: tuple[int, int], width: int, side: int = 64) -> np.ndarray:
    mask = np.zeros((side, side), np.uint8)
    draw_segment(mask, start, end, width)
    return mask


@pytest.mark.parametrize("width", [5, 6, 9, 10, 14])
def test_a_line_is_as_wide_as_opencvs(width: int) -> None:
    drawn = width + 1 + width % 2
    assert segment((20, 30), (44, 30), width)[:, 32].sum() == drawn
    assert segment((30, 20), (30, 44), width)[32].sum() == drawn
    # The round ends reach as far as half of that beyond the ends.
    assert segment((20, 30), (44, 30), width).any(0).sum() == 25 + drawn - 1
    dot = segment((30, 30), (30, 30), width)
    assert dot.any(0).sum() == dot.any(1).sum() == drawn
    assert not dot[30 - drawn // 2, 30 - drawn // 2]


# Start, end, width, and how many pixels OpenCV's line sets in a mask of 64 x 64.
LINES = [
    ((20, 30), (44, 30), 5, 197),
    ((30, 20), (30, 44), 10, 345),
    ((20, 20), (44, 44), 8, 363),
    ((10, 50), (60, 25), 7, 575),
    ((50, 50), (20, 10), 12, 785),
    ((32, 32), (32, 32), 5, 29),
    ((32, 32), (32, 32), 8, 49),
    ((64, 50), (40, 64), 14, 376),
    ((5, 3), (50, 20), 20, 1165),
]


@pytest.mark.parametrize(("start", "end", "width", "pixels"), LINES)
def test_a_line_has_as_many_pixels_as_opencvs(
    start: tuple[int, int], end: tuple[int, int], width: int, pixels: int
) -> None:
    assert int(segment(start, end, width).sum()) == pytest.approx(pixels, rel=0.03)


def test_lines_agree_with_opencv_pixel_by_pixel() -> None:
    cv2 = pytest.importorskip("cv2", reason="OpenCV is no dependency; where it is installed its lines are compared")
    rng = np.random.default_rng(0)
    differ = pixels = 0
    for _ in range(300):
        start, end = ((int(rng.integers(256)), int(rng.integers(256))) for _ in range(2))
        width = int(rng.integers(5, 15))
        theirs = np.zeros((256, 256), np.float32)
        cv2.line(theirs, start, end, 1.0, width)
        differ += int((segment(start, end, width, 256) != theirs).sum())
        pixels += int(theirs.sum())
    assert differ < 0.02 * pixels


def test_a_scaled_line_has_a_scaled_area() -> None:
    full = int(segment((20, 40), (180, 120), 40, 256).sum())
    small = np.zeros((64, 64), np.uint8)
    draw_segment(small, (5, 10), (45, 30), 40, unit=0.25)
    assert int(small.sum()) * 16 == pytest.approx(full, rel=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [narrow, medium, wide])
def test_settings_for_512_are_used_unscaled_there(kind: Callable[[int], FreeFormMask]) -> None:
    assert areas(kind(512), 128, 400).mean() == pytest.approx(areas(kind(512), 512, 400).mean(), abs=0.04)
    with pytest.raises(UserError, match="side=300"):
        kind(300)
