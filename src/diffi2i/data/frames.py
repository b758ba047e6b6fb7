"""Blurred and sharp pairs from the frames of a fast camera, as the GoPro set was made (Nah et al. 2017)."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from diffi2i.data.images import read_rgb, read_size
from diffi2i.data.sources import images_by_name
from diffi2i.errors import UserError

Pixels = npt.NDArray[np.uint8]


def average(frames: Sequence[Pixels], gamma: float = 2.2) -> Pixels:
    """What one long exposure over the frames would have recorded.

    Light adds up, pixel values do not: the camera stores light ** (1 / gamma), so the mean is that of pixel ** gamma.

    Args:
        frames: one or more (H, W, 3) uint8 of one size.
        gamma: the camera's; 1 averages the pixel values themselves.

    Returns:
        (H, W, 3) uint8.
    """
    light = np.zeros(frames[0].shape)
    for frame in frames:
        light += (frame / 255) ** gamma
    mean: Pixels = np.rint(255 * (light / len(frames)) ** (1 / gamma)).astype(np.uint8)
    return mean


def write_pairs(root: Path, output: Path, window: int, stride: int, gamma: float = 2.2) -> int:
    """Write `output/input/<name>.png`, the average of `window` frames, and `output/target/<name>.png`, the middle one.

    Every sub-folder of `root` that holds images is one recording, and so is `root` itself. Frames are in the order of
    the numbers in their names; `name` is the middle frame's path below `root` without suffix. GoPro averages 7 to 13
    frames of 240 a second.

    Args:
        root: folder of numbered frames, or of folders of them.
        output: folder to write, new or empty.
        window: frames of one exposure, odd.
        stride: frames from one exposure's start to the next one's.
        gamma: the camera's.

    Returns:
        The number of pairs.

    Raises:
        UserError: an even window, a stride below 1, no such folder or no image in it, a recording with fewer frames
            than the window or with frames of different sizes, or an output that is not empty. All but an unreadable
            image is found before anything is written.
    """
    if window < 1 or window % 2 == 0:
        raise UserError(f"window={window}: the middle frame is the target, so write an odd number of frames")
    if stride < 1:
        raise UserError(f"stride={stride}: write 1 or more frames")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output}: is not an empty folder; remove it or write another output")
    recordings: dict[Path, list[tuple[str, Path]]] = {}
    for name, path in images_by_name(root).items():
        recordings.setdefault(path.parent, []).append((name, path))
    for folder, frames in recordings.items():
        _check(folder, frames, window)

    pairs = 0
    for frames in recordings.values():
        frames.sort(key=lambda frame: _natural(frame[0]))
        for start in range(0, len(frames) - window + 1, stride):
            images = [read_rgb(path) for _, path in frames[start : start + window]]
            name = frames[start + window // 2][0]
            for kind, image in (("input", average(images, gamma)), ("target", images[window // 2])):
                # Not `with_suffix`, which would cut a name with a dot.
                file = output / kind / f"{name}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(file)
            pairs += 1
    return pairs


def _check(folder: Path, frames: Sequence[tuple[str, Path]], window: int) -> None:
    """Raise UserError for too few frames or frames of different sizes, from their headers."""
    if len(frames) < window:
        raise UserError(f"{folder}: holds {len(frames)} frames, fewer than window={window}; write a smaller window")
    height, width = read_size(frames[0][1])
    for _, path in frames:
        h, w = read_size(path)
        if (h, w) != (height, width):
            raise UserError(
                f"{path}: is {w}x{h}, but {frames[0][1].name} is {width}x{height}; frames must be of one size"
            )


def _natural(name: str) -> list[tuple[int, str]]:
    """A sorting key that puts frame 9 before frame 10: every run of digits counts as one number."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", name)]
