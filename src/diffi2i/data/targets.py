"""Reading the targets of dense prediction: a class per pixel, or a depth per pixel.

A wrong number in such a file looks like any other number, so every doubtful format is refused by name.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import ImageOps
from torch import Tensor

from diffi2i.config.schema import ProtocolConfig
from diffi2i.data.images import _opened, require_size
from diffi2i.data.member import Readable
from diffi2i.data.seen import DepthSeen, LabelsSeen, Seen, suspicious, unit_of
from diffi2i.errors import UserError
from diffi2i.kinds.spec import IGNORED

Map = npt.NDArray[Any]
"""(H, W): classes or metres."""


class Target(Protocol):
    """Reads the targets of one kind.

    Attributes:
        dtype: what decoded maps are kept as.
        padding: their value where the photo has ended.
    """

    dtype: Any
    padding: int

    def read(self, path: Readable) -> Map:
        """(H, W), or with more axes behind. Raises UserError."""

    def tensors(self, decoded: Map, zoom: float = 1.0) -> dict[str, Tensor]:
        """What a sample has of a map that was resized, by `zoom` more than in evaluation; `valid`, 1 = counted, too."""

    def seen(self) -> Seen:
        """An empty count of what a set's targets hold."""

    def odd(self, seen: Any, files: Sequence[Readable], protocol: ProtocolConfig | None) -> str | None:
        """A line where the files, of which this was counted, look misread; without a protocol, for any photo."""


class Labels:
    """Label maps: images whose pixel values (for palette images: indices, not colours) are class numbers."""

    # Classes and IGNORED fit; int64 would cost eight times the memory.
    dtype: Any = np.uint8
    padding = IGNORED

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
            raise UserError(f"classes is {classes}; write a number from 1 to {IGNORED}")
        self.classes, self.ignore, self.shift = classes, tuple(ignore), shift

    def read(self, path: Readable) -> npt.NDArray[np.int64]:
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
            shifted = f" ({value + self.shift} with dataset.target.shift={self.shift})" if self.shift else ""
            raise UserError(
                f"{path}: value {value}{shifted} at {counts.max()} pixel(s) is none of the {self.classes} classes "
                f"0 to {self.classes - 1}; where it counts nowhere write dataset.target.ignore="
                f"[{','.join(map(str, [*self.ignore, value]))}], else mend dataset.target.classes or "
                "dataset.target.shift, or number the classes from 0 in the files"
            )
        return np.where(ignored, IGNORED, labels)

    def tensors(self, decoded: Map, zoom: float = 1.0) -> dict[str, Tensor]:
        """`target` (H, W) int64."""
        return {"target": torch.from_numpy(decoded.astype(np.int64, order="C"))}

    def seen(self) -> LabelsSeen:
        return LabelsSeen(self.classes)

    def odd(self, seen: LabelsSeen, files: Sequence[Readable], protocol: ProtocolConfig | None) -> None:
        """None: reading refuses what is no class."""


class Depth:
    """Depth maps: 16-bit (or 32-bit integer) grey images in units of `unit` metres, or `.npy` files in metres."""

    dtype: Any = np.float32
    padding = 0

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
            raise UserError(f"unit is {unit}; write the metres per stored unit, 0.001 for millimetres")
        self.unit, self.invalid, self.max_depth = unit, tuple(invalid), max_depth

    def read(self, path: Readable) -> npt.NDArray[np.float32]:
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

    def tensors(self, decoded: Map, zoom: float = 1.0) -> dict[str, Tensor]:
        """`target` (1, H, W) float32 in metres, 0 where invalid, and `valid` of {0, 1}.

        Divided by the zoom: seen through the same lens, a thing looks z times larger at 1/z of the distance.
        """
        depth = torch.from_numpy(np.ascontiguousarray(decoded / np.float32(zoom), np.float32))[None]
        return {"target": depth, "valid": (depth > 0).float()}

    def seen(self) -> DepthSeen:
        return DepthSeen()

    def odd(self, seen: DepthSeen, files: Sequence[Readable], protocol: ProtocolConfig | None) -> str | None:
        return suspicious(seen, protocol, unit_of(self, files), "dataset.target.unit")


def _read_integers(path: Readable) -> npt.NDArray[np.int64]:
    """The integers stored in a 16- or 32-bit grey image."""
    with _opened(path) as image:
        if not image.mode.startswith("I"):
            raise UserError(
                f"{path}: wrong dtype for depth ({image.mode}; 8-bit or colour cannot hold it): save it as "
                "16-bit grey PNG, such as millimetres with dataset.target.unit=0.001, or as float32 .npy in metres"
            )
        return np.asarray(ImageOps.exif_transpose(image)).astype(np.int64)


def read_npy(path: Readable) -> npt.NDArray[Any]:
    """The float32 metres of a `.npy` file."""
    try:
        if not path.is_file():
            raise UserError(f"{path}: no such depth file; check the path")
        # Mapped: the header of a small file may claim any size.
        mapped: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        if mapped.dtype != np.float32 or mapped.ndim != 2:
            raise UserError(
                f"{path}: wrong dtype or shape for depth ({mapped.dtype}, {mapped.shape}); save (H, W) float32 metres"
            )
        require_size(path, mapped.shape)
        return np.array(mapped)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # a header is Python's text, so almost anything may be wrong with it
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not a readable .npy file ({reason}); replace or remove it") from error
