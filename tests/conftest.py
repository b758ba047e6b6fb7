"""Settings small enough to train in a second, and a folder of images to train on."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffi2i import config
from diffi2i.schema import Config

SMALL = (
    "scale=smoke",
    "dataset=folder",
    "dataset.source.val_fraction=0.2",
    "model.width=4",
    "model.blocks=[1,0,0,1]",
    "model.cpen.channels=4",
    "model.cpen.blocks=1",
    "model.denoiser_layers=1",
    "train.patch=32",
    "train.batch=2",
    "train.steps=4",
    "train.epoch_steps=2",
    "task.protocol.lpips=false",
    "trainer=cpu",
    "trainer.precision=fp32",
    "trainer.threads=1",
    "logger=none",
)

Make = Callable[..., Config]


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve smooth random images of several sizes; two of them will be held out."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i in range(12):
        small = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
        picture = Image.fromarray(small).resize((48 + 4 * i, 40 + 3 * i), Image.Resampling.BICUBIC)
        picture.save(folder / f"image{i:02}.png")
    return folder


@pytest.fixture
def make(images: Path, tmp_path: Path) -> Make:
    """`make(run_name, *overrides)` gives a checked small configuration with its run directory below tmp_path."""

    def build(name: str, *overrides: str) -> Config:
        return config.load(Config, "train", [*SMALL, f"root={images}", f"run_dir={tmp_path / name}", *overrides])

    return build
