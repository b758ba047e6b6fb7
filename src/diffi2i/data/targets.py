"""Reading the targets of dense prediction: a class per pixel, or a depth per pixel.

A wrong number in such a file looks like any other number, so every doubtful format is refused by name.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import ImageOps

from diffi2i.data.images import _opened
from diffi2i.errors import UserError

IGNORED = 255
"""The label of pixels that count in no loss and no metric."""


class Labels:
    """Label maps: images whose pixel values (for palette images: indices, not colours) are class numbers."""

    kind: Literal["labels"] = "labels"

    def __init__(self, classes: int, ignore: Sequence[int] = (), shift: int = 0) -> None:
        """Say what the stored values mean.

        Args:
            classes: number of classes, 1 to 255.
            ignore: stored values that count nowhere, as they are in the file; they become `IGNORED`.
            shift: added to every other stored value: -1 where the file counts its classes from 1.

        Raises:
            UserError: `classes` is out of range.
        """
        if not 1 <= classes <= IGNORED:
            raise UserError(f"target.classes is {classes}; write a number from 1 to {IGNORED}")
        self.classes, self.ignore, self.shift = classes, tuple(ignore), shift

    def read(self, path: Path) -> npt.NDArray[np.int64]:
        """(H, W) int64: a class in [0, classes) or `IGNORED`. The EXIF orientation is applied, as for photos.

        Raises:
            UserError: missing, empty, truncated, not an image; coloured or JPEG; a value that is no class.
        """
        with _opened(path) as image:
            if image.mode not in ("P", "L", "1") and not image.mode.startswith("I"):
                raise UserError(
                    f"{path}: a label file must hold one class number per pixel, not colours ({image.mode}); "
                    "convert it to a palette or 8-bit grey PNG"
                )
            if image.format == "JPEG":
                raise UserError(f"{path}: JPEG blends neighbouring class numbers; make the labels anew as PNG")
            stored = np.asarray(ImageOps.exif_transpose(image)).astype(np.int64)

        ignored = np.isin(stored, self.ignore)
        labels = stored + self.shift
        wrong = ~ignored & ((labels < 0) | (labels >= self.classes))
        if wrong.any():
            values, counts = np.unique(stored[wrong], return_counts=True)
            value = values[counts.argmax()]
            shifted = f" ({value + self.shift} with target.shift={self.shift})" if self.shift else ""
            raise UserError(
                f"{path}: value {value}{shifted} at {counts.max()} pixel(s) is none of the {self.classes} classes "
                f"0 to {self.classes - 1}; add it to target.ignore, or mend target.classes or target.shift"
            )
        return np.where(ignored, IGNORED, labels)


class Depth:
    """Depth maps: 16-bit (or 32-bit integer) grey images in units of `unit` metres, or `.npy` files in metres."""

    kind: Literal["depth"] = "depth"

    def __init__(self, unit: float = 0.001, invalid: Sequence[int] = (0,), max_depth: float | None = None) -> None:
        """Say what the stored values mean.

        Args:
            unit: metres per stored unit, > 0; a `.npy` file holds metres whatever `unit` is.
            invalid: stored integers that mean "not measured". 0 and negative values always do.
            max_depth: metres beyond which a measurement is not trusted and counts as invalid.

        Raises:
            UserError: `unit` is not positive.
        """
        if not unit > 0:
            raise UserError(f"target.unit is {unit}; write the metres per stored unit, 0.001 for millimetres")
        self.unit, self.invalid, self.max_depth = unit, tuple(invalid), max_depth

    def read(self, path: Path) -> npt.NDArray[np.float32]:
        """(H, W) float32 in metres, 0 where invalid (which may be everywhere).

        Raises:
            UserError: missing, empty, truncated, or of the wrong dtype or shape.
        """
        if path.suffix.lower() == ".npy":
            metres = read_npy(path)
        else:
            stored = _read_integers(path)
            metres = np.where(np.isin(stored, self.invalid), 0, stored * self.unit)
        far = np.inf if self.max_depth is None else self.max_depth
        # A comparison with NaN is false, so NaN ends up invalid too.
        valid = (metres > 0) & (metres <= far) & np.isfinite(metres)
        return np.where(valid, metres, 0).astype(np.float32)


Target = Labels | Depth


def _read_integers(path: Path) -> npt.NDArray[np.int64]:
    """The integers stored in a 16- or 32-bit grey image."""
    with _opened(path) as image:
        if not image.mode.startswith("I"):
            raise UserError(
                f"{path}: wrong dtype for depth ({image.mode}; 8-bit or colour cannot hold it): save it as "
                "16-bit grey PNG, such as millimetres with target.unit=0.001, or as float32 .npy in metres"
            )
        return np.asarray(ImageOps.exif_transpose(image)).astype(np.int64)


def read_npy(path: Path) -> npt.NDArray[Any]:
    """The float32 metres of a `.npy` file."""
    try:
        if not path.is_file():
            raise UserError(f"{path}: no such depth file; check the path")
        metres: npt.NDArray[Any] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not a readable .npy file ({reason}); replace or remove it") from error
    if metres.dtype != np.float32 or metres.ndim != 2:
        raise UserError(
            f"{path}: wrong dtype or shape for depth ({metres.dtype}, {metres.shape}); save (H, W) float32 metres"
        )
    return metres
