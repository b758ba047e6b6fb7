"""What the page of `diffi2i app` asks for: pictures that `diffi2i predict` would write, and how a screen shows them."""

import re
import shutil
import time
import warnings
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from PIL import Image

from diffi2i.commands.predict import restore, too_large
from diffi2i.config.commands import AppConfig, PredictConfig
from diffi2i.data.degrade import has_holes
from diffi2i.data.photos import Photo, read_photo
from diffi2i.data.resize import enlarge
from diffi2i.diffusion import samplers
from diffi2i.errors import UserError
from diffi2i.kinds.kind import kind_of
from diffi2i.memory import give_back, out_of_memory
from diffi2i.methods.method import Method
from diffi2i.methods.process import schedule_of
from diffi2i.restorer import Restorer, Tiling, as_levels, as_tensor, load
from diffi2i.run.hub import located

OWN = "as the run has it"
SAMPLERS = {each.__name__: each for each in (samplers.ancestral, samplers.ddim, samplers.dpm_solver)}
SHOWN, CHOSEN = 4096, 1024
"""Pixels that a side has at most on the screen: of what is restored, and of what has been chosen to be."""


class Run(NamedTuple):
    """A finished run: its name, whether it fills holes, and how many steps its sampler makes; 0 where it has none."""

    name: str
    holes: bool
    steps: int


class Restored(NamedTuple):
    """The picture before and after, as a screen shows them; what there is to say; and what `predict` would write."""

    before: Path
    after: Path
    said: str
    file: Path


class Desk:
    """Restores one picture at a time, with any of the runs. The files that were made last lie in `folder`."""

    def __init__(self, config: AppConfig, folder: Path) -> None:
        """Loads each run once. Raises `UserError`: one cannot be used."""
        self.config, self.folder = config, folder
        self.places = {run: located(run) for run in config.run}
        self.restorer = lru_cache(maxsize=len(self.places))(self.load)
        self.runs = {run: described(run, self.restorer(run).method) for run in self.places}

    def load(self, run: str, changes: tuple[str, ...] = (), tile: int | None = None, tiling: str = "exact") -> Restorer:
        """See `restorer.load`."""
        return load(
            self.places[run], trainer=self.config.trainer, tile=tile, tiling=cast(Tiling, tiling), set=changes,
            trust=self.config.trust,
        )  # fmt: skip

    def picture(self, file: Path) -> Path:
        """What has been chosen, as a screen shows it. Raises `UserError`: it cannot be read."""
        return shown(read_photo(file), self.emptied() / "picture.png", most=CHOSEN)

    def restored(
        self, run: str, file: Path, painted: Any, mask: Path | None, sampler: str = OWN, steps: int = 0,
        tile: int | None = None, tiling: str = "exact", seed: int = 0,
    ) -> Restored:  # fmt: skip
        """Restores a file. The hole is that of a `mask`, else what is `painted`, else what is transparent.

        Args:
            painted: `layers` (h, w, 4), painted where alpha is above 0, of the picture's shape if not of its size.
            sampler, steps: one of `SAMPLERS`, or `OWN`, and how many steps it makes, 0 as many as the run has.

        Raises:
            UserError: no hole, memory that is wanting, or as `predict`.
        """
        chosen, folder, photo = self.runs[run], self.emptied(), read_photo(file)
        hole = str(mask or hole_of(photo, painted, folder / "mask.png")) if chosen.holes else None
        restorer = self.restorer(run, changes(chosen, sampler, steps or chosen.steps), tile, tiling)
        target = folder / f"{file.stem}-restored.png"
        config = PredictConfig(run=run, input=str(file), output=str(target), mask=hole, seed=seed)
        begun = time.perf_counter()
        with warnings.catch_warnings(record=True) as notes:
            warnings.simplefilter("always")
            try:
                restore(restorer, file, Path(hole) if hole else None, config, target, "png")
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                raise UserError(too_large(file)) from error
        seconds = time.perf_counter() - begun
        give_back()  # the page may wait for hours
        after = kind_of(restorer.task).shown(target)
        side = None if restorer.dense else restorer.side(*photo.colours.shape[:2])
        sizes = dict.fromkeys(f"{each.colours.shape[1]}x{each.colours.shape[0]}" for each in (photo, after))
        said = f"{seconds:.2f} s on {restorer.method.device}: {' to '.join(sizes)} pixels"
        said += f", in parts of {side}" if side else ""
        return Restored(
            shown(photo, folder / "before.png", scale=restorer.task.scale),
            shown(after, folder / "after.png"),
            self.bare("\n".join([said, *(str(note.message) for note in notes)])),
            target,
        )

    def emptied(self) -> Path:
        """The folder for what is made next."""
        place = self.folder / "last"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        return place

    def bare(self, text: str) -> str:
        """The text with the files' names alone: their folders are of no interest to who looks at a page."""
        return re.sub(rf"{re.escape(str(self.folder))}/(\w+/)+", "", text)


def described(run: str, method: Method) -> Run:
    options, steps = method.options, 0
    if "sampler" in method.scored_under and hasattr(options, "sampler"):
        steps = len(samplers.visited(schedule_of(options.diffusion), options.sampler.get("steps")))
    return Run(f"{method.config.task.name}, {method.label}: {run}", has_holes(method.config.task), steps)


def changes(run: Run, sampler: str, steps: int) -> tuple[str, ...]:
    """As `diffi2i eval` has them in `set`."""
    if (sampler, steps) == (OWN, run.steps):
        return ()
    if sampler == OWN:
        return (f"method.sampler.steps={steps}",)
    target = f"{SAMPLERS[sampler].__module__}.{sampler}"
    return (f"method.sampler={{_target_: {target}, _partial_: true, steps: {steps}}}",)


def hole_of(photo: Photo, painted: Any, place: Path) -> Path | str:
    """The file of a mask that is white where something is painted; where nothing is, `alpha`.

    Raises:
        UserError: nothing is painted or transparent.
    """
    layers = [layer[..., 3] > 0 for layer in painted["layers"]] if painted else []
    if any(layer.any() for layer in layers):
        white = Image.fromarray(np.any(layers, axis=0).astype(np.uint8) * 255)
        white.resize(photo.colours.shape[1::-1], Image.Resampling.NEAREST).save(place)
        return place
    if photo.alpha is None or photo.alpha.min() > photo.levels // 2:
        raise UserError("there is no hole: paint one, or give a mask, white = hole")
    return "alpha"


def shown(photo: Photo, place: Path, scale: int = 1, most: int = SHOWN) -> Path:
    """Writes a PNG of 8 bits with alpha and profile, `scale` times as large, or so that no side is above `most`."""
    picture = replace(photo, grey=False, icc=None, exif=None).picture()
    size = [side * scale for side in picture.size]
    if max(size) > most:
        width, height = (max(1, side * most // max(size)) for side in size)
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    elif scale > 1:
        larger = enlarge(as_tensor(np.asarray(picture)), scale)[0]
        picture = Image.fromarray(as_levels(larger.permute(1, 2, 0).numpy(), np.uint8))
    # A profile for grey is none for the colours that this is.
    picture.save(place, "PNG", compress_level=1, icc_profile=None if photo.grey else photo.icc)
    return place
