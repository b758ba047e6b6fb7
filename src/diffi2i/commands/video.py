"""A film, restored frame by frame: `diffi2i predict input=<film> output=<film>`. Frames know nothing of each other."""

import importlib.util
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track
from torch import Tensor

from diffi2i.data.degrade import has_holes
from diffi2i.data.images import read_mask
from diffi2i.errors import UserError
from diffi2i.files import whole
from diffi2i.restorer import Restorer

SUFFIXES = frozenset({".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v"})
CODECS = ("libx264", "mpeg4")
"""The first that PyAV has been built with writes the pictures."""
QUALITY = {"libx264": {"crf": "14"}, "mpeg4": {"qscale": "2"}}


def is_film(text: str) -> bool:
    return Path(text).suffix.lower() in SUFFIXES and Path(text).is_file()


def restore_film(restorer: Restorer, source: Path, mask: Path | None, output: Path, seed: int) -> None:
    """Writes the film whole or not at all. All frames have the same noise; sound is copied as it is.

    A `mask` holds for all frames. A side of an odd number of pixels loses one, which films cannot have.

    Raises:
        UserError: PyAV is missing, the film cannot be read, holds no pictures, or the method restores none.
    """
    if importlib.util.find_spec("av") is None:
        raise UserError("films need PyAV: pip install 'diffi2i[video]'")
    import av

    if restorer.dense:
        raise UserError("labels and depth are no film: give a folder of its frames")
    if output.suffix.lower() not in SUFFIXES:
        raise UserError(f"output={output}: name a film, such as {output.with_suffix('.mp4')}")
    if has_holes(restorer.task) and mask is None:
        raise UserError("inpainting needs the holes: write mask=<image>, white = hole, for all frames")
    holes = None if mask is None else read_mask(mask)
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        with av.open(str(source)) as film, whole(output) as place:
            if not film.streams.video:
                raise UserError(f"{source} holds no pictures")
            # Its name has no suffix by which PyAV would know the container.
            container = {".mkv": "matroska", ".m4v": "mp4"}.get(output.suffix.lower(), output.suffix.lower()[1:])
            with av.open(str(place), "w", format=container) as made:
                copy(film, made, restorer, holes, seed)
    except (av.FFmpegError, ValueError) as error:
        raise UserError(f"{source} cannot be restored as a film ({error}): give a folder of its frames") from error


def copy(film: Any, made: Any, restorer: Restorer, holes: Tensor | None, seed: int) -> None:
    """Pictures restored, sound as it is, from one open container into the other."""
    import av

    pictures = film.streams.video[0]
    codec = next(name for name in CODECS if name in av.codecs_available)
    rate = pictures.average_rate or Fraction(25)
    drawn = made.add_stream(codec, rate=rate, options=QUALITY[codec])
    drawn.pix_fmt, drawn.time_base = "yuv420p", 1 / Fraction(rate)
    height, width = (n * restorer.task.scale // 2 * 2 for n in (pictures.height, pictures.width))
    drawn.height, drawn.width = height, width
    sounds = {stream: made.add_stream_from_template(stream) for stream in film.streams.audio}
    count = 0
    progress = track(film.demux(pictures, *sounds), description="restoring", total=pictures.frames or None)
    for packet in progress:
        if packet.stream in sounds:
            if packet.dts is not None:
                packet.stream = sounds[packet.stream]
                made.mux(packet)
            continue
        for frame in packet.decode():
            restored = restorer.pixels(frame.to_ndarray(format="rgb24"), holes, seed, name="film")
            new = av.VideoFrame.from_ndarray(np.ascontiguousarray(restored[:height, :width]), format="rgb24")
            new.pts, new.time_base = count, drawn.time_base
            count += 1
            made.mux(drawn.encode(new))
    if not count:
        raise UserError("the film has no frame that can be read")
    made.mux(drawn.encode(None))
