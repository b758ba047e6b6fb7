"""Where training starts: the size of Z at every size of network, and stage 2 where stage 1 ended."""

from pathlib import Path
from typing import Any

import pytest
import skimage
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import Tensor

from diffi2i.commands import train
from diffi2i.config.compose import conf_dir, load
from diffi2i.config.schema import Config, CpenConfig, ModelConfig, TaskConfig
from diffi2i.data.build import build_data
from diffi2i.data.dataset import Draw
from diffi2i.data.images import read_rgb, to_tensor
from diffi2i.methods.build import build_method
from diffi2i.methods.method import Method
from diffi2i.models.diffi2i import build_cpen
from diffi2i.run.directory import load_method
from tests.conftest import QUICK, awake
from tests.settings import task_config

FILES = sorted((conf_dir() / "model").glob("*.yaml"))
MODELS = [file.stem for file in FILES if "cpen" in OmegaConf.load(file)]
TASK_OF_NETWORK = {
    "DI2Iformer": ("sisr", "inpainting"),
    "DIRformer": ("sisr", "inpainting"),
    "Segmenter": ("segmentation",),
    "Depther": ("depth",),
}
SIDE = 64


def tasks_of(model: str) -> tuple[str, ...]:
    network: Any = OmegaConf.load(conf_dir() / "model" / f"{model}.yaml")
    return TASK_OF_NETWORK[network.network._target_.rpartition(".")[2]]


def photos() -> Tensor:
    """Parts of real photos, (3, 3, SIDE, SIDE)."""
    folder = Path(skimage.__file__).parent / "data"
    names = ("astronaut.png", "coffee.png", "chelsea.png")
    return torch.stack([to_tensor(read_rgb(folder / name))[:, 60 : 60 + SIDE, 80 : 80 + SIDE] for name in names])


def inputs(task: TaskConfig) -> tuple[Tensor, Tensor]:
    """What CPEN_S1 sees: the input with its mask, and the ground truth."""
    photo = photos()
    if task.kind == "labels":
        return photo, (photo.mean(1) * (task.classes or 1)).long().clamp(max=(task.classes or 1) - 1)
    if task.kind == "depth":
        return photo, 1 + 4 * photo.mean(1, keepdim=True)
    if task.in_channels == 4:
        mask = torch.zeros(3, 1, SIDE, SIDE)
        mask[..., 15:45, 10:50] = 1
        return torch.cat([photo * (1 - mask), mask], 1), photo
    return F.interpolate(photo, scale_factor=1 / task.scale, mode="area"), photo


SIZES: dict[tuple[str, str, bool], float] = {}


def size_of_z(task: TaskConfig, model: ModelConfig, gt: bool) -> float:
    """Its mean over four seeds, measured once for all networks that have the same CPEN."""
    key = (task.name, f"{model.cpen}, {model.leaky_ends}", gt)
    if key not in SIZES:
        image, target = inputs(task)
        sizes = []
        for seed in range(4):
            torch.manual_seed(seed)
            sizes.append(float(build_cpen(task, model, gt)(image, target if gt else None).abs().mean()))
        SIZES[key] = sum(sizes) / len(sizes)
    return SIZES[key]


@pytest.mark.parametrize(("model", "task"), [(model, task) for model in MODELS for task in tasks_of(model)])
@torch.no_grad()
def test_z_has_one_size_in_every_network(model: str, task: str) -> None:
    config = load(Config, "train", [f"task={task}", f"model={model}", "method=diffi2i_s2"])
    least = 0.15 if config.model.leaky_ends else 0.3  # a LeakyReLU at the end halves it
    for gt in (True, False):
        assert least < size_of_z(config.task, config.model, gt) < 1.5, gt


@torch.no_grad()
def test_z_does_not_grow_with_depth() -> None:
    task = task_config(name="sisr", in_channels=3, scale=4)
    image, target = inputs(task)

    def size(blocks: int, seed: int) -> float:
        torch.manual_seed(seed)
        model = ModelConfig(name="x", network={}, cpen=CpenConfig(channels=16, blocks=blocks))
        return float(build_cpen(task, model, True)(image, target).abs().mean())

    sizes = [sum(size(blocks, seed) for seed in range(20)) / 20 for blocks in (1, 9, 20)]
    assert max(sizes) < 1.5 * min(sizes)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@torch.no_grad()
def test_stage_2_starts_where_stage_1_ended(tmp_path: Path) -> None:
    settings = (
        *QUICK,
        "dataset=photos",
        "task=sisr",
        "task.protocol.metrics=[psnr_y]",
        "dataset.max_val_images=1",
        "train.val_crop=64",
        "model.cpen.channels=16",
        "model.network.width=8",
        "train.batch=4",
        "train.patch=64",
        "train.steps=60",
        "train.epoch_steps=60",
    )
    first = train.train(load(Config, "train", [*settings, f"run_dir={tmp_path / 's1'}"]))
    config = load(Config, "train", [*settings, "method=diffi2i_s2", f"method.init={first}"])
    data = build_data(config)
    data.setup("fit")
    batch: Any = torch.utils.data.default_collate([data.train_set[Draw(7, index, 64)] for index in range(16)])

    def task_loss(method: Method) -> float:
        return float(F.l1_loss(method.eval().predict(batch, method.noise(batch)), batch["target"]))

    before, after = task_loss(load_method(first)), task_loss(build_method(config, load_method(first)))
    assert after == pytest.approx(before, rel=0.05)
    # A denoiser that does not start at zero is far off, so this is no matter of course.
    assert task_loss(awake(build_method(config, load_method(first)))) > 1.05 * before
