"""Free-form inpainting masks after LaMa: irregular strokes or boxes, drawn at random.

The figures are those of LaMa's published configurations (github.com/advimman/lama:
`configs/data_gen/random_{thin,medium,thick}_{256,512}.yaml` for the test sets, and
`configs/training/data/abl-04-256-mh-dist.yaml` for training). LaMa draws on images resized to a shorter side of 256 or
512, keeps one of five masks whose hole is small enough, and crops a square that the hole touches. Here a mask is drawn
on the image it is for, and again until it fits, which for square images (CelebA-HQ) is the same distribution. In LaMa's
square crops of 4:3 photos narrow strokes are thinner on the ground, since they spread over the whole photo: the hole is
0.241 of a 512-pixel crop, not 0.285 (wide: 0.263 and 0.267).

LaMa's strokes are lines of OpenCV, which are wider than asked for: a line of width w covers w + 1 pixels, w + 2 where w
is odd, with round ends. `draw_segment` draws such lines; OpenCV itself would be 160 MB on disk for this alone.
"""

import math

import numpy as np
import numpy.typing as npt

from diffi2i.errors import UserError

Mask = npt.NDArray[np.uint8]

MAX_SEGMENTS = 5
ATTEMPTS = 20


# Not a dataclass: inside a list of a Hydra config, OmegaConf would turn a dataclass's instance into a dict.
class FreeFormMask:
    """A distribution of masks: call it with a size and a generator to draw one.

    Lengths are pixels of an image whose shorter side is `side`; they are scaled by min(H, W) / side, so
    with side 256 a 64-pixel crop has holes of the same area fraction as a 256-pixel one. Ranges include
    both ends.

    A mask is redrawn while its hole is empty, larger than `max_area`, or the whole image. If `ATTEMPTS`
    drawings fail, which happens on images of a few pixels, the hole is one random pixel. So a hole is
    never empty, and never everything in an image of more than one pixel.
    """

    def __init__(
        self,
        strokes: tuple[int, int],
        stroke_width: tuple[int, int],
        stroke_length: tuple[int, int],
        box_weight: float = 0.0,
        boxes: tuple[int, int] = (1, 3),
        box_side: tuple[int, int] = (30, 150),
        box_margin: int = 10,
        max_area: float = 0.5,
        side: int = 256,
    ) -> None:
        """Store the distribution.

        Args:
            strokes: range of the number of polylines, each of 1 to 5 segments.
            stroke_width: range of a segment's width.
            stroke_length: range of a segment's length.
            box_weight: odds of a mask of boxes against a mask of strokes (0 = strokes only).
            boxes: range of the number of boxes.
            box_side: range of a box's sides.
            box_margin: width of the frame that boxes keep clear of.
            max_area: largest area fraction of the hole.
            side: shorter side of the image that the lengths are meant for.
        """
        self.strokes, self.stroke_width, self.stroke_length = strokes, stroke_width, stroke_length
        self.box_weight, self.boxes = box_weight, boxes
        self.box_side, self.box_margin, self.max_area, self.side = box_side, box_margin, max_area, side

    def __call__(self, height: int, width: int, rng: np.random.Generator) -> Mask:
        """Draw a mask: (height, width) uint8, 1 = hole. A pure function of the generator's state."""
        for _ in range(ATTEMPTS):
            mask = np.zeros((height, width), np.uint8)
            # Strokes have weight 1.
            if rng.random() * (1 + self.box_weight) < self.box_weight:
                self._draw_boxes(mask, rng)
            else:
                self._draw_strokes(mask, rng)
            hole = int(mask.sum())
            if 0 < hole <= self.max_area * mask.size and hole < mask.size:
                return mask
        mask = np.zeros((height, width), np.uint8)
        mask[rng.integers(height), rng.integers(width)] = 1
        return mask

    def _draw_strokes(self, mask: Mask, rng: np.random.Generator) -> None:
        height, width = mask.shape
        unit = min(width, height) / self.side
        for stroke in range(_pick(self.strokes, rng)):
            x, y = int(rng.integers(width)), int(rng.integers(height))
            for _ in range(_pick((1, MAX_SEGMENTS), rng)):
                # LaMa draws whole radians from four values, and mirrors every other stroke.
                angle = 0.01 + float(rng.integers(4))
                angle = -angle if stroke % 2 == 0 else angle
                length = _pick(self.stroke_length, rng) * unit
                # Ends are whole pixels, rounded towards zero, and may lie on the far border, one pixel outside.
                end_x = min(max(int(x + length * math.sin(angle)), 0), width)
                end_y = min(max(int(y + length * math.cos(angle)), 0), height)
                draw_segment(mask, (x, y), (end_x, end_y), _pick(self.stroke_width, rng), unit)
                x, y = end_x, end_y

    def _draw_boxes(self, mask: Mask, rng: np.random.Generator) -> None:
        height, width = mask.shape
        unit = min(width, height) / self.side
        margin = round(self.box_margin * unit)
        for _ in range(_pick(self.boxes, rng)):
            (left, box_w), (top, box_h) = (
                self._place(side, margin, max(1, round(_pick(self.box_side, rng) * unit)), rng)
                for side in (width, height)
            )
            mask[top : top + box_h, left : left + box_w] = 1

    @staticmethod
    def _place(side: int, margin: int, length: int, rng: np.random.Generator) -> tuple[int, int]:
        """Start and length of an interval of at most `length` pixels inside [margin, side - margin)."""
        length = min(length, side - 2 * margin)
        return int(rng.integers(margin, side - margin - length + 1)), length


def draw_segment(mask: Mask, start: tuple[int, int], end: tuple[int, int], width: int, unit: float = 1.0) -> None:
    """Sets the pixels of (H, W) `mask` that OpenCV's `line` of this width sets: a strip, and a disc at each end.

    OpenCV gives the strip a half width of r = (width + 1) // 2 and then draws its outline, half a pixel to each side;
    the discs have radius r. On LaMa's narrow strokes 1.2 % of a line's pixels differ, about as many of them extra as
    missing; on its wide ones 0.15 %.

    Args:
        start: (x, y) in pixels, x to the right; it may lie outside the mask, as may `end`.
        width: what OpenCV calls the thickness, at `unit` 1.
        unit: factor of the line's true width, for masks that are scaled.
    """
    (x, y), (dx, dy) = start, (end[0] - start[0], end[1] - start[1])
    radius = (width + 1) // 2 * unit
    half = radius + unit / 2
    left, right, top, bottom = (
        int(min(max(edge, 0), size))
        for edge, size in (
            (x + min(dx, 0) - half, mask.shape[1]),
            (x + max(dx, 0) + half + 1, mask.shape[1]),
            (y + min(dy, 0) - half, mask.shape[0]),
            (y + max(dy, 0) + half + 1, mask.shape[0]),
        )
    )
    rows, columns = np.ogrid[top - y : bottom - y, left - x : right - x]
    hole = (columns**2 + rows**2 <= radius**2) | ((columns - dx) ** 2 + (rows - dy) ** 2 <= radius**2)
    if length := math.hypot(dx, dy):
        along = columns * dx + rows * dy
        hole |= (abs(columns * dy - rows * dx) <= half * length) & (along >= 0) & (along <= length**2)
    mask[top:bottom, left:right] |= hole


def _pick(ends: tuple[int, int], rng: np.random.Generator) -> int:
    return int(rng.integers(ends[0], ends[1] + 1))


# LaMa's code draws up to `max_times + 1` strokes, widths 5 .. 4 + max_width and lengths 10 .. 9 + max_len;
# the ranges below are those effective ones, so a figure here is not literally the one in LaMa's file.


def narrow(side: int = 256) -> FreeFormMask:
    """LaMa's narrow test masks (`random_thin_{side}`, side 256 or 512): many thin strokes, no boxes.

    Raises:
        UserError: no figures were published for this side. (A mask fits images of any size: lengths are scaled.)
    """
    _require_published(side)
    if side == 512:
        return FreeFormMask(strokes=(4, 71), stroke_width=(5, 24), stroke_length=(10, 109), side=side)
    return FreeFormMask(strokes=(4, 51), stroke_width=(5, 14), stroke_length=(10, 49))


def medium(side: int = 256) -> FreeFormMask:
    """LaMa's medium test masks (`random_medium_{side}`, side 256 or 512): strokes, or (3 in 13) one to five boxes.

    Raises:
        UserError: no figures were published for this side.
    """
    _require_published(side)
    if side == 512:
        return FreeFormMask(
            strokes=(4, 11),
            stroke_width=(5, 104),
            stroke_length=(10, 209),
            box_weight=0.3,
            boxes=(1, 5),
            box_side=(30, 150),
            box_margin=0,
            side=side,
        )
    return FreeFormMask(
        strokes=(4, 6),
        stroke_width=(5, 54),
        stroke_length=(10, 109),
        box_weight=0.3,
        boxes=(1, 5),
        box_side=(10, 50),
        box_margin=0,
    )


def wide(side: int = 256) -> FreeFormMask:
    """LaMa's wide test masks (`random_thick_{side}`, side 256 or 512): few thick strokes, or (3 in 13) a few boxes.

    Raises:
        UserError: no figures were published for this side.
    """
    _require_published(side)
    if side == 512:
        return FreeFormMask(
            strokes=(1, 6),
            stroke_width=(5, 254),
            stroke_length=(10, 459),
            box_weight=0.3,
            boxes=(1, 4),
            box_side=(30, 300),
            side=side,
        )
    return FreeFormMask(strokes=(1, 6), stroke_width=(5, 104), stroke_length=(10, 209), box_weight=0.3)


def training() -> FreeFormMask:
    """LaMa's training masks (`abl-04-256-mh-dist`): as often up to four boxes as wide strokes, of any area."""
    return FreeFormMask(
        strokes=(1, 6),
        stroke_width=(5, 104),
        stroke_length=(10, 209),
        box_weight=1.0,
        boxes=(1, 4),
        max_area=1.0,
    )


def _require_published(side: int) -> None:
    if side not in (256, 512):
        raise UserError(f"side={side}: LaMa published masks for 256 and 512; write side=256 or side=512")
