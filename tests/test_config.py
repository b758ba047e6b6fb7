"""Every shipped configuration composes and builds; every impossible one is refused in one line."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from diffi2i import config, train
from diffi2i.build import build_data
from diffi2i.config import conf_dir
from diffi2i.errors import UserError
from diffi2i.models.diffi2i import build_cpen, build_diffi2i
from diffi2i.schema import BenchConfig, Config, EvalConfig, PredictConfig
from tests.conftest import SMALL, Make

FILES = sorted(path.relative_to(conf_dir()).as_posix() for path in conf_dir().rglob("*.yaml"))
ROOTS = {"train": Config, "bench": BenchConfig, "eval": EvalConfig, "predict": PredictConfig}
NEEDED = {"eval": ["run=somewhere"], "predict": ["run=a", "input=b", "output=c"]}


def options(group: str) -> list[str]:
    return [Path(file).stem for file in FILES if file.startswith(f"{group}/")]


def refusal(*overrides: str, root: str = "train") -> str:
    with pytest.raises(UserError) as caught:
        config.load(ROOTS[root], root, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("file", FILES)
def test_every_yaml_composes(file: str, images: Path) -> None:
    group, _, name = file.removesuffix(".yaml").rpartition("/")
    if group:
        overrides = [f"{group}={name}", f"root={images}"]
        if (group, name) == ("stage", "joint"):
            assert "needs stage-1 weights" in refusal(*overrides)
            assert config.load(BenchConfig, "bench", overrides).stage.name == "joint"
            return
        if (group, name) == ("trainer", "ddp"):
            assert config.load(Config, "train", overrides).trainer.devices == 2
            return
        loaded = config.load(Config, "train", overrides)
        node = getattr(loaded, group)
        assert node is not None
        if group in ("task", "dataset", "model", "stage"):
            assert node.name == name
    elif name == "common":
        assert OmegaConf.load(conf_dir() / file).defaults
    else:
        assert isinstance(config.load(ROOTS[name], name, NEEDED.get(name, [])), ROOTS[name])


@pytest.mark.parametrize(("task", "scale"), list(product(options("task"), ["smoke", "demo", "reduced", "paper"])))
def test_every_task_has_every_scale_and_its_parts_build(task: str, scale: str, images: Path) -> None:
    for dataset in ("photos", "folder"):
        overrides = [f"task={task}", f"scale={scale}", f"dataset={dataset}", f"root={images}"]
        loaded = config.load(Config, "train", overrides)
        data = build_data(loaded)
        data.setup("fit")
        sample = data.train_set[0]
        assert sample["target"].shape == (3, loaded.train.patch, loaded.train.patch)
        weight = torch.nn.Parameter(torch.zeros(3))
        optimizer = instantiate(loaded.task.optimizer)([weight])
        assert optimizer.param_groups[0]["lr"] == loaded.train.lr > 0


@pytest.mark.parametrize(("task", "model"), list(product(options("task"), options("model"))))
def test_every_model_builds_for_every_task(task: str, model: str) -> None:
    loaded = config.load(BenchConfig, "bench", [f"task={task}", f"model={model}"])
    with torch.device("meta"):
        network = build_diffi2i(loaded.task, loaded.model, loaded.stage.diffusion)
        side = 32 // loaded.task.scale
        image = torch.zeros(1, loaded.task.in_channels, side, side)
        z = build_cpen(loaded.task, loaded.model, gt=True)(image, torch.zeros(1, 3, 32, 32))
    assert z.shape == (1, 4 * loaded.model.cpen.channels)
    assert network.cpen_s2.gt_channels == 0


@pytest.mark.parametrize(
    ("overrides", "millions"),
    [
        (["task=inpainting", "model=base"], 27),
        (["task=sisr", "model=sr"], 24.97),
        (["task=inpainting", "task.in_channels=3", "model=deblur"], 26.91),
    ],
)
def test_paper_sizes_are_within_three_percent(overrides: list[str], millions: float) -> None:
    loaded = config.load(BenchConfig, "bench", overrides)
    with torch.device("meta"):
        network = build_diffi2i(loaded.task, loaded.model, loaded.stage.diffusion)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, rel=0.03)


def test_base_needs_fewer_operations_than_diffir() -> None:
    from diffi2i.bench import multiply_accumulates

    loaded = config.load(BenchConfig, "bench", ["task=inpainting", "model=base"])
    network = build_diffi2i(loaded.task, loaded.model, loaded.stage.diffusion).eval()
    macs = multiply_accumulates(lambda: network(torch.zeros(1, 4, 256, 256), torch.zeros(1, 256)))
    assert macs < 101e9 / 2


@pytest.mark.parametrize("logger", ["csv", "none", "wandb"])
def test_loggers_build(logger: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    loaded = config.load(Config, "train", [f"logger={logger}"])
    built = train.build_logger(loaded, tmp_path)
    assert (built is False) == (logger == "none")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model.widht=3"], "did you mean 'model.width'"),
        (["foo=1"], "unknown key 'foo'"),
        (["+task.extra=1"], "task.extra"),
        (["model.width=abc"], "model.width: value 'abc'"),
        (["seed=1.5"], "seed: value '1.5'"),
        (["task=nope"], "inpainting, sisr"),
        (["scale=big"], "smoke, demo, reduced, paper"),
        (["train.steps=[1"], "cannot read 'train.steps=[1'"),
        (["stage.prior_loss=l7"], "l1, l2, kl"),
        (["train.schedule=step"], "constant, cosine, poly"),
        (["trainer.precision=fp8"], "auto, fp32, bf16"),
        (["train.batch=0"], "train.batch=0 must be above 0"),
        (["train.lr=-1"], "train.lr=-1.0 must be above 0"),
        (["train.epoch_steps=0"], "train.epoch_steps"),
        (["trainer.devices=3"], "write train.batch=9"),
        (["train.patch=33"], "write train.patch=36"),
        (["train.ema_decay=1"], "train.ema_decay"),
        (["train.warmup=1"], "train.warmup"),
        (["model.blocks=[1,2]"], "four counts"),
        (["model.width=31"], "must be even"),
        (["model.projection=depthwise", "model.expansion=2"], "model.projection=pointwise"),
        (["model.refinement=-1"], "model.refinement"),
        (["stage.diffusion.beta_1=0"], "beta_1"),
        (["stage.diffusion.beta_T=0.05"], "beta_T"),
        (["stage.diffusion.timesteps=[1,2]"], "end at 4"),
        (["stage.diffusion.steps=0"], "stage.diffusion.steps"),
        (["stage.prior_only=1"], "stage.prior_only"),
        (["dataset=folder"], "write root=<folder>"),
        (["dataset=folder", "root=no/such/folder"], "root=no/such/folder is not a folder"),
        (["dataset=folder", "root=.", "dataset.source.val_root=none/here"], "dataset.source.val_root=none/here"),
        (["stage=joint"], "write stage.init="),
        (["stage=joint", "stage.init=nowhere"], "no config.yaml"),
        (["stage.init=somewhere"], "write stage=joint"),
        (["task.protocol.border=-1"], "task.protocol.border"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(overrides: list[str], words: str) -> None:
    assert words in refusal(*overrides)


def test_a_missing_value_is_named() -> None:
    assert "write run=<value>" in refusal(root="eval")
    assert "size=31" in refusal("task=sisr", "size=31", root="bench")


def test_a_run_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "is a file" in refusal(f"run_dir={tmp_path / 'file'}")


def test_stage_2_refuses_what_it_cannot_start_from(make: Make, tmp_path: Path, images: Path) -> None:
    first = train.train(make("first"))
    joint = [*SMALL, f"root={images}", "stage=joint", f"stage.init={first}"]
    second = train.train(config.load(Config, "train", [*joint, f"run_dir={tmp_path / 'second'}"]))
    assert "is a stage=joint run" in refusal(*joint[:-1], f"stage.init={second}")
    assert "write task=sisr" in refusal(*joint, "task=inpainting")
    assert "has model.width=4, this run 6" in refusal(*joint, "model.width=6")
    (first / "result.json").unlink()
    assert "unfinished" in refusal(*joint)


def test_a_sweep_is_expanded_as_hydra_will_run_it() -> None:
    assert config.sweep(["seed=0,1", "task=sisr", "model.blocks=[1,0,0,1]", "train.lr=1e-3,2e-3"]) == [
        ["seed=0", "task=sisr", "model.blocks=[1,0,0,1]", "train.lr=0.001"],
        ["seed=0", "task=sisr", "model.blocks=[1,0,0,1]", "train.lr=0.002"],
        ["seed=1", "task=sisr", "model.blocks=[1,0,0,1]", "train.lr=0.001"],
        ["seed=1", "task=sisr", "model.blocks=[1,0,0,1]", "train.lr=0.002"],
    ]


def test_a_sweep_that_cannot_be_read_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match=r"cannot read 'train\.steps=\[1'") as caught:
        config.sweep(["seed=0,1", "train.steps=[1"])
    assert "\n" not in str(caught.value)


def test_a_sweep_refuses_a_bad_combination() -> None:
    good, bad = config.sweep(["scale=smoke,huge"])
    assert config.load(Config, "train", good).scale == "smoke"
    assert "choose one of" in refusal(*bad)
