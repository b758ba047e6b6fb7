"""Pictures to look at: input | output | ground truth | error, one row per image.

The error is 4 times the absolute difference; for labels the wrong pixels; for depth 4 times the relative error."""

import os
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from diffi2i.data.images import as_picture
from diffi2i.files import inside, whole

COLUMNS = ("input", "output", "ground truth", "error")
SAVED = 64
ROWS = 8
ROW_HEIGHT = 320
LINE = 18  # of text
HEADER = 2 * LINE + 4  # an image's name, below it the titles: beside each other they would overlap on small pictures
GAP = 4
LONGEST_NAME = 255  # bytes, on usual disks


class Pictures:
    """Saves the first images as PNG files, `<name>_input.png` and so on, and gathers the rows of a panel."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.saved = 0
        self.rows: list[tuple[str, list[Image.Image]]] = []

    @property
    def wanted(self) -> bool:
        """Whether there is room for another image."""
        return self.saved < SAVED or len(self.rows) < ROWS

    def add(self, name: str, shown_input: Tensor, output: Tensor, target: Tensor, error: Tensor) -> None:
        """Each (3, H, W) float, clamped to [0, 1]; the input as it is shown, at the target's size."""
        if self.saved < SAVED:
            for role, image in (("input", shown_input), ("output", output), ("target", target)):
                file = picture_file(self.folder, name, role)
                file.parent.mkdir(parents=True, exist_ok=True)
                with whole(file) as place:
                    as_picture(image).save(place, "PNG")
            self.saved += 1
        if len(self.rows) < ROWS:
            images = [as_picture(image) for image in (shown_input, output, target, error)]
            self.rows.append((name, [thumbnail(image) for image in images]))

    def panel(self) -> Image.Image:
        """All rows under one header. Needs at least one row."""
        return sheet([(name, dict(zip(COLUMNS, images, strict=True))) for name, images in self.rows])


def picture_file(folder: Path, name: str, role: str) -> Path:
    """`<name>_<role>.png`; of a name that is too long for that, its beginning and its hash.

    Raises:
        UserError: it leads out of the folder.
    """
    above, slash, last = name.rpartition("/")
    tail = f"_{role}.png"
    if len(os.fsencode(last + tail)) > LONGEST_NAME:
        last = f"{last[:40]}-{sha256(last.encode()).hexdigest()[:16]}"
    return inside(folder, f"{above}{slash}{last}{tail}")


def sheet(rows: Sequence[tuple[str, Mapping[str, Image.Image]]]) -> Image.Image:
    """Rows of pictures as one: each row has a name and, from left to right, titles with their pictures.

    The pictures of a row are equally high. Needs at least one row.
    """
    widths = [sum(image.width + GAP for image in images.values()) - GAP for _, images in rows]
    heights = [HEADER + max(image.height for image in images.values()) for _, images in rows]
    canvas = Image.new("RGB", (max(widths), sum(heights)), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(14)
    top = 0
    for (name, images), height in zip(rows, heights, strict=True):
        left = 0
        draw.text((GAP, top + GAP), name, fill="black", font=font)
        for title, image in images.items():
            draw.text((left + GAP, top + GAP + LINE), title, fill="black", font=font)
            canvas.paste(image, (left, top + HEADER))
            left += image.width + GAP
        top += height
    return canvas


def thumbnail(image: Image.Image) -> Image.Image:
    """At most `ROW_HEIGHT` high; never enlarged beyond twice, so that pixels stay pixels."""
    factor = min(2.0, ROW_HEIGHT / image.height)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.resize(size, Image.Resampling.BICUBIC if factor < 1 else Image.Resampling.NEAREST)
