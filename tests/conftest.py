"""Settings small enough to train in a second, and a folder of images to train on."""

import gc
import os
import shutil
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import omegaconf.resolvers.oc
import pytest
import torch
import torch.nn.functional as F
import yaml
from omegaconf import grammar_parser
from PIL import Image
from torch import Tensor, nn

from diffi2i.commands.train import train
from diffi2i.config import compose
from diffi2i.config.schema import Config
from diffi2i.data import manifest
from diffi2i.losses.pixel import L1
from diffi2i.losses.task import TaskLoss
from diffi2i.methods.diffi2i_s1 import DiffI2IS1
from diffi2i.methods.method import Method
from diffi2i.run import process
from tests.processes import Forking

QUICK = (
    "budget=smoke",
    "model.cpen.channels=4",
    "model.cpen.blocks=1",
    "model.denoiser_layers=1",
    "train.patch=32",
    "train.batch=2",
    "train.steps=4",
    "train.epoch_steps=2",
    "train.phases=[]",
    "trainer=cpu",
    "trainer.precision=fp32",
    "trainer.threads=1",
    "logger=none",
)

# Images: a folder of them, and a small DI2Iformer.
SMALL = (
    *QUICK,
    "dataset=folder",
    "dataset.source.val_fraction=0.2",
    "model.network.width=4",
    "model.network.blocks=[1,0,0,1]",
    "task.protocol.metrics=[psnr,psnr_y,ssim,ssim_y,psnr_hole]",
)

# Labels and depth: the datasets that need no download, and a small encoder.
SMALL_ENCODER = (
    "model.network.encoder.widths=[4,4,8,8,12,12]",
    "model.network.encoder.convs=[1,1,1,1,1]",
    "model.network.encoder.ratios=[2,2,2,2,2]",
    "model.network.encoder.attention=[0,0,0,1,1]",
    "model.network.encoder.heads=2",
    "model.network.encoder.key_dim=4",
)
SMALL_DENSE = {
    "segmentation": (
        *QUICK,
        *SMALL_ENCODER,
        "model.network.head_width=8",
        "dataset.source.train=6",
        "dataset.source.val=3",
        "dataset.source.size=48",
    ),
    "depth": (*QUICK, *SMALL_ENCODER, "model.network.width=8", "model.network.bins=8"),
}

# The other methods' networks, in place of the task's.
DENOISER = ("model.network.widths=[8,8]", "model.network.attention=[false,false]")
CODES = ("model.autoencoder.widths=[8,8,8]", "model.autoencoder.channels=2")
PROCESS = ("method.diffusion.steps=20", "method.sampler.steps=4")
INVERSION = (
    "method.predictor.widths=[8,8]",
    "method.predictor.attention=[false,true]",
    "method.starts=[5,4,3,2]",
    "method.times=[5,2]",
)
SMALL_PRIOR = ("model.cpen.channels=4", "model.cpen.blocks=1")
DIRFORMER = ("model.network.width=8", "model.network.blocks=[1,0,0,1]", *SMALL_PRIOR)
SMALL_METHODS = {
    "diffir_s1": DIRFORMER,
    "diffir_s2": DIRFORMER,
    "pixel_diffusion": (*DENOISER, *PROCESS, "method.codec=unshuffled"),
    "autoencoder": (*DENOISER, *CODES),
    "ldm": (*DENOISER, *CODES, *PROCESS),
    "deepcache": (*DENOISER, *PROCESS, "method.codec=unshuffled"),
    "boundary": (*DENOISER, *PROCESS, "method.codec=unshuffled"),
    "resshift": DENOISER,
    "rddm": (*DENOISER, "method.steps=20", "method.visited=4"),
    "bridge": (*DENOISER, "method.steps=20", "method.visited=4"),
    "codi": (*DENOISER, *PROCESS, "method.codec=unshuffled", "method.intervals=10"),
    "invsr": (*DENOISER, *INVERSION, "method.codec=unshuffled", "method.diffusion.steps=20"),
    "repaint": (*DENOISER, "method.diffusion.steps=20", "method.steps=6", "method.jump=2", "method.resamplings=2"),
}

Make = Callable[..., Config]


def pytest_configure() -> None:
    """Composing is a third of the tests' time, less where an interpolation is parsed once and libyaml reads the files.

    No test pulls out the plug: what is written need not have reached the disk. A test's process has imported what runs
    need, unlike the server that they are forked off elsewhere.
    """
    process.CONTEXT = Forking()
    parsed = cache(grammar_parser.parse)
    for module in (grammar_parser, omegaconf._utils, omegaconf.base, omegaconf.resolvers.oc):
        module.parse = parsed  # type: ignore[attr-defined]
    yaml.SafeLoader = yaml.CSafeLoader  # type: ignore[misc, assignment]
    os.fsync = lambda fd: None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "DIFFI2I_ALL_TESTS" not in os.environ:
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="long: DIFFI2I_ALL_TESTS=1 runs it"))


def pytest_collection_finish() -> None:
    """What has been imported stays: looking through it for garbage took a sixth of the tests' time."""
    gc.freeze()
    gc.set_threshold(20_000)


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


def small(task: str, images: Path, method: str = "diffi2i_s1") -> tuple[str, ...]:
    """The overrides that make any task small, and the method, which they name."""
    if task in SMALL_DENSE:
        return (*SMALL_DENSE[task], f"task={task}", f"method={method}")
    # LPIPS is left out above: its weights may be missing.
    main = ("task.main_metric=psnr",) if task == "realsr" else ()
    own = SMALL_METHODS.get(method)
    settings = SMALL if own is None else (*(text for text in SMALL if not text.startswith("model.")), *own)
    return (*settings, f"root={images}", f"task={task}", f"method={method}", *main)


@pytest.fixture
def make(images: Path, tmp_path: Path) -> Make:
    """`make(run_name, *overrides)` gives a checked small configuration with its run directory below tmp_path."""

    def build(name: str, *overrides: str) -> Config:
        task = ([text.removeprefix("task=") for text in overrides if text.startswith("task=")] or ["sisr"])[-1]
        method = ([text.removeprefix("method=") for text in overrides if text.startswith("method=")] or ["diffi2i_s1"])[
            -1
        ]
        others = [text for text in overrides if not text.startswith(("task=", "method="))]
        config = deepcopy(composed(compose.conf_dir(), *small(task, images, method), *others))
        config.run_dir = str(tmp_path / name)
        return config

    return build


@cache
def composed(_: Path, *overrides: str) -> Config:
    """Composing takes longer than most of what is tested by it, and many runs of a test differ in their name alone."""
    return compose.load(Config, "train", overrides)


@pytest.fixture(scope="session")
def stage1_once(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("once") / "stage1"
    return train(compose.load(Config, "train", [*small("sisr", images), f"run_dir={place}"]))


@pytest.fixture
def stage1(stage1_once: Path, tmp_path: Path) -> Path:
    """The finished run of `make("stage1")`, a copy for each test: a run may be moved."""
    return Path(shutil.copytree(stage1_once, tmp_path / "stage1"))


M = TypeVar("M", bound=Method)


def with_l1(method: M) -> M:
    """The method, ready to train on L1."""
    method.learn_from(TaskLoss({"l1": L1()}))
    return method


def random_batch(config: Config, size: int = 32, images: int = 2) -> Any:
    """A batch of the task with random targets of `size`, the same at every call."""
    task, generator = config.task, torch.Generator().manual_seed(0)
    batch: dict[str, Any] = {"name": [f"image {i}" for i in range(images)]}
    picture = torch.rand(images, 3, size, size, generator=generator)
    if task.kind == "labels":
        labels = torch.randint(0, task.classes or 0, (images, size, size), generator=generator)
        return batch | {"input": picture, "target": labels}
    if task.kind == "depth":
        depth = 1 + 4 * torch.rand(images, 1, size, size, generator=generator)
        return batch | {"input": picture, "target": depth, "valid": torch.ones_like(depth)}
    if task.in_channels == 4:
        mask = (torch.rand(images, 1, size, size, generator=generator) > 0.5).float()
        return batch | {"input": picture * (1 - mask), "target": picture, "mask": mask}
    return batch | {"input": F.avg_pool2d(picture, task.scale), "target": picture}


T = TypeVar("T", bound=nn.Module)


def awake(module: T) -> T:
    """The module with random weights in place of those that start at zero, as after some training.

    Else what is left of a block that starts as the identity, or of a denoiser that starts at zero, goes untested.
    """
    for name, parameter in module.named_parameters():
        if parameter.any():
            continue
        if parameter.ndim > 1:
            nn.init.kaiming_normal_(parameter, a=0.1)
        elif name.endswith(".mu"):
            nn.init.constant_(parameter, 0.5)
    return module


@pytest.fixture
def quick_bench(monkeypatch: pytest.MonkeyPatch) -> None:
    """`diffi2i bench` without a process for each case, in which it measures memory."""
    monkeypatch.setattr("diffi2i.commands.bench.peak_of", lambda *_: 1.0)


@pytest.fixture(autouse=True, scope="session")
def own_hashes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The tests' files stay out of the user's cache of hashes."""
    folder = tmp_path_factory.mktemp("hashes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest, "cache_dir", lambda: folder)
        yield


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, an empty torch.hub folder and no fetching."""
    monkeypatch.setenv("DIFFI2I_OFFLINE", "1")
    monkeypatch.setenv("DIFFI2I_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path


@pytest.fixture
def autocast_losses(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The losses of all steps of stage 1 in this test, each of which must run under autocast."""
    losses = []
    step = DiffI2IS1.training_step

    def watched(self: Any, batch: Any, batch_idx: int) -> Any:
        assert torch.is_autocast_enabled("cpu")
        losses.append(step(self, batch, batch_idx))
        return losses[-1]

    monkeypatch.setattr(DiffI2IS1, "training_step", watched)
    return losses
