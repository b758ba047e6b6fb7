"""The same few validation images after every validation: input, outputs, target, error side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from PIL import Image
from torch import Tensor

from diffi2i.callbacks.panels import picture_file, sheet, thumbnail
from diffi2i.config.run import read_run_config
from diffi2i.config.schema import Config
from diffi2i.data.images import as_picture, read_rgb
from diffi2i.errors import UserError
from diffi2i.kinds.kind import kind_of
from diffi2i.methods.batch import Batch
from diffi2i.run.hardware import of_all_ranks
from diffi2i.run.tracking import log_pictures, logged_step

KEY = "panels"


class Showcase(L.Callback):
    """Logs a picture of each chosen image under `panels`; the weights are the averaged ones, as in validation.

    Args:
        config: the run's; `logger.panels` chooses the images: how many, from the first, or their names.
    """

    def __init__(self, config: Config) -> None:
        self.task, self.kind = config.task, kind_of(config.task)
        self.chosen = chosen_images((config.logger or {}).get("panels"))
        self.first = first_images(config)
        self.method = config.method["name"]
        self.pictures: dict[str, Image.Image] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Finds the images. Raises `UserError` for a name that no validation image has."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        names = data.val_set.names[: data.max_fit_images]
        if isinstance(self.chosen, int):
            self.names = names[: self.chosen]
            return
        if unknown := [name for name in self.chosen if name not in names]:
            raise UserError(f"logger.panels: no validation image is called {unknown[0]}: choose from {some(names)}")
        self.names = list(self.chosen)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.pictures = {}

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        name = batch["name"][0]
        if name in self.names:
            self.pictures[name] = self.picture(name, batch, self.kind.final(outputs["output"], batch))

    def picture(self, name: str, batch: Batch, output: Tensor) -> Image.Image:
        """The batch's first image, its parts side by side under their titles."""
        shown = self.kind.pictures(output, batch, self.task)
        shown_input, result, target, error = (as_picture(image) for image in shown)
        parts = {"input": shown_input}
        if (before := self.first_output(name, target)) is not None:
            parts["the run it comes from"] = before
        parts |= {self.method: result, "target": target, "error": error}
        return sheet([(name, {title: thumbnail(part) for title, part in parts.items()})])

    def first_output(self, name: str, target: Image.Image) -> Image.Image | None:
        """What the first run made of this very image, where it has kept that."""
        if self.first is None:
            return None
        files = [picture_file(self.first, name, role) for role in ("target", "output")]
        try:
            theirs, output = (read_rgb(file) for file in files)
        except UserError:
            return None
        return Image.fromarray(output) if np.array_equal(theirs, np.asarray(target)) else None

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        pictures = {name: picture for share in of_all_ranks(self.pictures) for name, picture in share.items()}
        if trainer.is_global_zero and pictures:
            shown = {name: pictures[name] for name in self.names if name in pictures}
            log_pictures(trainer.logger, KEY, shown, logged_step(trainer))


def chosen_images(panels: Any) -> int | Sequence[str]:
    """What `logger.panels` says. Raises `UserError` for anything but a count or names."""
    if panels is None:
        return 0
    if isinstance(panels, int) and not isinstance(panels, bool) and panels >= 0:
        return panels
    if isinstance(panels, list) and all(isinstance(name, str) for name in panels):
        return panels
    raise UserError(f"logger.panels={panels}: write how many validation images to show, or their names: [a,b]")


def first_images(config: Config) -> Path | None:
    """The pictures of the first of the runs that this one comes from, one after the other; None for a fresh one."""
    images = None
    while config.init is not None and (config.init / "config.yaml").is_file():
        images = config.init / "images"
        config = read_run_config(config.init, trust=config.trust)
    return images


def some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
