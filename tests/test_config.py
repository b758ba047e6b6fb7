"""Every shipped configuration composes and builds; every impossible one is refused in one line."""

from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf

from diffi2i import config, train
from diffi2i.build import build, build_data
from diffi2i.config import conf_dir
from diffi2i.data.dataset import Draw
from diffi2i.errors import UserError
from diffi2i.losses.task import TaskLoss
from diffi2i.models.diffi2i import build_cpen, build_diffi2i
from diffi2i.schema import BenchConfig, Config, DataConfig, EvalConfig, PredictConfig, ScoreConfig
from tests.conftest import SMALL, Make

# Hydra's own groups configure the sweep, not the run: test_launchers.py.
FILES = sorted(
    name
    for path in conf_dir().rglob("*.yaml")
    if not (name := path.relative_to(conf_dir()).as_posix()).startswith("hydra/")
)
ROOTS = {
    "train": Config,
    "bench": BenchConfig,
    "eval": EvalConfig,
    "predict": PredictConfig,
    "data": DataConfig,
    "score": ScoreConfig,
}
NEEDED = {
    "eval": ["run=somewhere"],
    "predict": ["run=a", "input=b", "output=c"],
    "data": ["dataset=photos"],
    "score": ["task=sisr", "pred=a", "target=b"],
}
SCALES = ["smoke", "demo", "reduced", "paper"]
TASK_OF_KIND = {"image": "sisr", "labels": "segmentation", "depth": "depth"}
NETWORKS = {"DI2Iformer": "image", "Segmenter": "labels", "Depther": "depth"}


def options(group: str) -> list[str]:
    return [Path(file).stem for file in FILES if file.startswith(f"{group}/")]


def shipped(group: str, name: str) -> Any:
    return OmegaConf.load(conf_dir() / group / f"{name}.yaml")


def class_name(node: Any) -> str:
    return str(node["_target_"]).rpartition(".")[2]


KINDS = {
    "task": {name: shipped("task", name).get("kind", "image") for name in options("task")},
    "model": {name: NETWORKS[class_name(shipped("model", name).network)] for name in options("model")},
    "dataset": {
        name: class_name(node).lower() if (node := shipped("dataset", name).get("target")) else "image"
        for name in options("dataset")
    },
}


def fitting(group: str, task: str) -> list[str]:
    """The options of a group that hold or predict what the task does."""
    return [name for name, kind in KINDS[group].items() if kind == KINDS["task"][task]]


def pairs_of(group: str) -> list[tuple[str, str]]:
    return [(task, name) for task in options("task") for name in fitting(group, task)]


def refusal(*overrides: str, root: str = "train") -> str:
    with pytest.raises(UserError) as caught:
        config.load(ROOTS[root], root, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


def phases(*rows: tuple[int, int, int]) -> str:
    return "train.phases=[" + ",".join(f"{{step: {s}, patch: {p}, batch: {b}}}" for s, p, b in rows) + "]"


@pytest.mark.parametrize("file", FILES)
def test_every_yaml_composes(file: str, images: Path) -> None:
    group, _, name = file.removesuffix(".yaml").rpartition("/")
    if group:
        task = TASK_OF_KIND[KINDS.get(group, {}).get(name, "image")]
        overrides = [f"task={task}", f"{group}={name}", f"root={images}"]
        if (group, name) == ("stage", "joint"):
            assert "needs stage-1 weights" in refusal(*overrides)
            assert config.load(BenchConfig, "bench", overrides).stage.name == "joint"
            return
        if (group, name) == ("trainer", "ddp"):
            assert config.load(Config, "train", overrides).trainer.devices == 2
            return
        loaded = config.load(Config, "train", overrides[group == "task" :])
        node = getattr(loaded, group)
        assert node is not None
        if group in ("task", "dataset", "model", "stage"):
            assert node.name == (
                "pretrain" if name == "no_prior" else name
            )  # a stage 1 that differs in its prior alone
    elif name == "common":
        assert OmegaConf.load(conf_dir() / file).defaults
    else:
        assert isinstance(config.load(ROOTS[name], name, NEEDED.get(name, [])), ROOTS[name])


def test_every_group_has_its_files() -> None:
    assert set(options("task")) == {"inpainting", "realsr", "sisr", "deblur", "segmentation", "depth"}
    for group in ("model", "dataset", "stage", "trainer", "logger"):
        assert options(group)


@pytest.mark.parametrize(("task", "model"), pairs_of("model"))
def test_every_task_goes_with_every_model_that_fits(task: str, model: str) -> None:
    loaded = config.load(Config, "train", [f"task={task}", f"model={model}", "budget=paper"])
    assert (loaded.scale, loaded.task.name, loaded.model.name) == ("paper", task, model)
    assert "${" not in str(loaded)


@pytest.mark.parametrize("task", options("task"))
def test_a_scale_may_name_its_model_and_an_override_wins(task: str) -> None:
    named = shipped("task", task).scales.paper.get("model")
    assert named in fitting("model", task)
    assert config.load(Config, "train", [f"task={task}", "budget=paper"]).model.name == named
    assert config.load(BenchConfig, "bench", [f"task={task}", "budget=paper"]).model.name == named
    small = config.load(Config, "train", [f"task={task}", "budget=smoke"]).model.name
    assert config.load(Config, "train", [f"task={task}", "budget=paper", f"model={small}"]).model.name == small != named


@pytest.mark.parametrize("dataset", fitting("dataset", "segmentation"))
def test_the_dataset_says_how_many_classes_there_are(dataset: str, images: Path) -> None:
    loaded = config.load(Config, "train", ["task=segmentation", f"dataset={dataset}", f"root={images}"])
    assert loaded.dataset.target is not None
    assert loaded.task.gt is not None
    told = loaded.dataset.target["classes"]
    assert told == loaded.task.classes == loaded.task.gt["classes"] == loaded.model.network["classes"] > 1


@pytest.mark.parametrize(("task", "scale"), list(product(options("task"), SCALES)))
def test_every_task_has_every_scale_and_its_parts_build(task: str, scale: str, images: Path) -> None:
    datasets = {"image": ("photos", "folder"), "labels": ("shapes",), "depth": ("motorcycle",)}
    for dataset in datasets[KINDS["task"][task]]:
        overrides = [f"task={task}", f"scale={scale}", f"dataset={dataset}", f"root={images}"]
        loaded = config.load(Config, "train", overrides)
        data = build_data(loaded)
        data.setup("fit")
        for phase in data.phases:
            sample = data.train_set[Draw(phase.step, 0, phase.patch)]
            side = round(phase.patch * loaded.task.scenes.aspect)
            assert sample["target"].shape[-2:] == (phase.patch, side)
            assert [key for key in ("input", "draw") if key in sample]
        assert len(data.phases) == 1 + len(loaded.train.phases)
        assert all(before.step < after.step for before, after in pairwise(data.phases))
        assert data.phases[-1].step < loaded.train.steps
        weight = torch.nn.Parameter(torch.zeros(3))
        optimizer = instantiate(loaded.task.optimizer)([weight])
        assert optimizer.param_groups[0]["lr"] == loaded.train.lr > 0


@pytest.mark.parametrize(("task", "model"), pairs_of("model"))
def test_every_model_builds_for_every_task(task: str, model: str) -> None:
    loaded = config.load(BenchConfig, "bench", [f"task={task}", f"model={model}"])
    if "pretrained" in (encoder := loaded.model.network.get("encoder", {})):
        encoder["pretrained"] = "none"
    ones = torch.ones(1, 1, 32, 32)
    gt = {"image": ones.expand(1, 3, 32, 32), "labels": ones[0].long(), "depth": ones}
    with torch.device("meta"):
        network = build_diffi2i(loaded.task, loaded.model, loaded.method.diffusion)
    side = 32 // loaded.task.scale
    image = torch.zeros(1, loaded.task.in_channels, side, side)
    z = build_cpen(loaded.task, loaded.model, gt=True)(image, gt[loaded.task.kind])
    assert z.shape == (1, 4 * loaded.model.cpen.channels)
    assert network.cpen_s2.gt_channels == 0


@pytest.mark.parametrize(
    ("task", "loss"), [(task, loss) for task in options("task") for loss in shipped("task", task).losses]
)
def test_every_loss_builds(task: str, loss: str) -> None:
    loaded = config.load(Config, "train", [f"task={task}", f"train.loss={loss}"])
    node = loaded.task.losses[loss]
    assert set(node.get("weights", {})) <= set(node["terms"])
    # Its weights may not be on this machine.
    if perceptual := node["terms"].pop("perceptual", None):
        assert node["weights"].pop("perceptual") > 0
        assert get_class(perceptual["_target_"]).__module__ == "diffi2i.losses.perceptual"
    built = build(node, f"task.losses.{loss}")
    assert isinstance(built, TaskLoss)
    assert set(built.weights) == set(node["terms"])
    assert (built.adversary is None) == ("adversary" not in node)


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
        network = build_diffi2i(loaded.task, loaded.model, loaded.method.diffusion)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, rel=0.03)


def test_base_needs_fewer_operations_than_diffir() -> None:
    from diffi2i.bench import multiply_accumulates

    loaded = config.load(BenchConfig, "bench", ["task=inpainting", "model=base"])
    network = build_diffi2i(loaded.task, loaded.model, loaded.method.diffusion).eval()
    macs = multiply_accumulates(lambda: network(torch.zeros(1, 4, 256, 256), torch.zeros(1, 256)))
    assert macs < 101e9 / 2


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model.cpen.chanels=3"], "did you mean 'model.cpen.channels'"),
        (["model.network.widht=3"], "did you mean 'model.network'"),
        (["foo=1"], "unknown key 'foo'"),
        (["+task.extra=1"], "task.extra"),
        (["model.network.width=abc"], "model.network.width=abc must be a number"),
        (["seed=1.5"], "seed: value '1.5'"),
        (["train.clip=abc"], "train.clip: value 'abc'"),
        (["task=nope"], "deblur, depth, inpainting, realsr, segmentation, sisr"),
        (["scale=big"], "smoke, demo, reduced, paper"),
        (["train.steps=[1"], "cannot read 'train.steps=[1'"),
        (["method.prior_loss=l7"], "l1, l2, kl"),
        (["train.schedule=step"], "constant, cosine, poly"),
        (["trainer.precision=fp8"], "auto, fp32, bf16"),
        (["train.batch=0"], "train.batch=0 must be above 0"),
        (["train.lr=-1"], "train.lr=-1.0 must be above 0"),
        (["train.epoch_steps=0"], "train.epoch_steps"),
        (["trainer.devices=3"], "write train.batch=9"),
        (["train.patch=33"], "write train.patch=36"),
        (["train.ema_decay=1"], "train.ema_decay"),
        (["train.warmup=1"], "train.warmup"),
        (["model.network.blocks=[1,2]"], "four counts"),
        (["model.network.width=31"], "must be even"),
        (["model.network.projection=depthwise", "model.network.expansion=2"], "model.network.projection=pointwise"),
        (["model.network.refinement=-1"], "model.network.refinement"),
        (["method.diffusion.beta_1=0"], "beta_1"),
        (["method.diffusion.beta_T=0.05"], "beta_T"),
        (["method.sampler.steps=[1,2]"], "end at 4"),
        (["method.diffusion.steps=0"], "method.diffusion.steps"),
        (["method.prior_only=1"], "method.prior_only"),
        (["dataset=folder"], "write root=<folder>"),
        (["dataset=folder", "root=no/such/folder"], "root=no/such/folder is not a folder"),
        (["dataset=folder", "root=.", "dataset.source.val_root=none/here"], "dataset.source.val_root=none/here"),
        (["method=diffi2i_s2"], "write method.init="),
        (["method=diffi2i_s2", "method.init=nowhere"], "no config.yaml"),
        (["method.init=somewhere"], "is no run directory, it has no config.yaml"),
        (["task.protocol.border=-1"], "task.protocol.border"),
        (["task.protocol.min_depth=0"], "0 < min_depth < max_depth"),
        (["task.protocol.flip=true"], "flip and sizes belong to labels and depth, not to task=sisr"),
        (["task=deblur", "task.protocol.sizes=[0.5,1]"], "flip and sizes belong to labels and depth"),
        (["task=depth", "task.protocol.sizes=[]"], "task.protocol.sizes=[]"),
        (["task=depth", "task.protocol.sizes=[0,1]"], "factors above 0"),
        (["task=depth", "task.protocol.crop=garg"], "choose one of eigen"),
        (["task.protocol.metrics=[psnr_y,lpips]"], "task.protocol.metrics=lpips: choose from psnr, psnr_y, ssim"),
        (["task.protocol.metrics=[psnr_y,ssim,psnr_y]"], "task.protocol.metrics names psnr_y 2 times: write it once"),
        (["task.protocol.metrics=[]"], "task.protocol.metrics=[] scores nothing: write some of psnr,psnr_y"),
        (["task.main_metric=dists"], "task.main_metric=dists is not in task.protocol.metrics: choose one of psnr,"),
        (["task=depth", "task.protocol.metrics=[psnr]"], "belongs to images: task=depth has fixed scores"),
        (["task=segmentation", "task.protocol.metrics=[miou]"], "belongs to images"),
        (["task.protocol.lpips=false"], "unknown key 'task.protocol.lpips'"),
        (["task=segmentation", "task.scenes.zoom=[2,1]"], "the smallest and the largest zoom"),
        (["task=segmentation", "task.scenes.aspect=0"], "task.scenes.aspect=0.0 must be above 0"),
        (["task=segmentation", "dataset=photos"], "write dataset= one of shapes, camvid or ade20k"),
        (["task=segmentation", "dataset=motorcycle"], "dataset=motorcycle holds no labels for task=segmentation"),
        (["task=depth", "dataset=photos"], "write dataset= one of motorcycle, sevenscenes or nyu"),
        (["task=sisr", "dataset=shapes"], "dataset=shapes holds no image for task=sisr"),
        (["task=sisr", "task.degrade=null"], "needs task.degrade"),
        (["task=sisr", "model=segment_tiny"], "model=segment_tiny predicts labels, task=sisr image"),
        (["task=segmentation", "model=tiny"], "model=tiny predicts image, task=segmentation labels"),
        (["task=segmentation", "model=depth_tiny"], "model=depth_tiny predicts depth"),
        (["dataset.on_error=ignore"], "choose one of error, skip"),
        (["dataset.augment=turns"], "dataset.augment=turns: choose one of flips_and_turns, flips, none"),
        (["task=depth", "dataset.augment=none"], "dataset.augment belongs to images, not to task=depth"),
        (["task=depth", "+train.degrade={_target_: a.b}"], "write train.degrade=null"),
        (["task=inpainting", "+train.degrade={mask: 1}"], "train.degrade names no degradation"),
        (["task=inpainting", "train.degrade={_target_: a.b}"], "a plus sign before it, +train.degrade=..."),
        (["task=realsr", "task.degrade.first={sigma: 1}"], "a plus sign before it, +task.degrade.first"),
        (["train.ema_decay=0", "train.ema_every=4"], "write train.ema_every=1"),
        (["train.loss=nope"], "train.loss=nope: choose one of l1, real_esrgan"),
        (["train.loss=cross_entropy"], "train.loss=cross_entropy: choose one of l1"),
        (["train.adversarial_from=1.5"], "train.adversarial_from=1.5"),
        (["train.loss=real_esrgan", "method.prior_only=0.1"], "cannot be joined with the discriminator"),
        ([phases((0, 32, 8))], "steps must rise from 1"),
        ([phases((5, 64, 8), (5, 128, 8))], "steps must rise from 1"),
        ([phases((9, 64, 8), (5, 128, 8))], "step 5, patch 128, batch 8: steps must rise"),
        ([phases((5, 33, 8))], "patches be multiples of 4"),
        ([phases((5, 0, 8))], "patches be multiples of 4"),
        ([phases((5, 64, 0))], "batches be above 0"),
        ([phases((5, 64, 3)), "trainer.devices=2"], "batch 3 at step 5 is not a multiple of the 2 batches"),
        ([phases((5, 64, 2)), "trainer.device_batch=2"], "batch 2 at step 5 is not a multiple of the 4 batches"),
        (["train.phases=[{step: 5, patch: 64}]"], "train.phases[0].batch is missing"),
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
    joint = [*SMALL, f"root={images}", "method=diffi2i_s2", f"method.init={first}"]
    second = train.train(config.load(Config, "train", [*joint, f"run_dir={tmp_path / 'second'}"]))
    assert "write task=sisr" in refusal(*joint, "task=inpainting", "model=tiny")
    said = refusal(*joint, "model.network.width=6")
    assert "has model.network.width=4, this run 6: write model.network.width=4" in said
    assert "has model.cpen.channels=4, this run 8" in refusal(*joint, "model.cpen.channels=8")
    config.load(Config, "train", [*joint, "model.denoiser_layers=2"])  # stage 1 has none

    # A finished stage 2 can be gone on with.
    onward = [*joint[:-1], f"method.init={second}"]
    assert config.load(Config, "train", onward).method.init == str(second)
    assert "has model.denoiser_layers=1, this run 2" in refusal(*onward, "model.denoiser_layers=2")
    assert "goes on from a stage 2: write method=diffi2i_s2" in refusal("budget=smoke", "method.role=adversarial")
    assert "is a stage 1, method.role=adversarial" in refusal(*joint, "method.role=adversarial")
    config.load(Config, "train", [*onward, "method.role=adversarial"])
    assert "has method.prior=joint: write method.prior=joint" in refusal(*onward, "method.prior=none")

    (first / "result.json").unlink()
    assert "unfinished" in refusal(*joint)


def test_a_sweep_is_expanded_as_hydra_will_run_it() -> None:
    assert config.sweep(["seed=0,1", "task=sisr", "model.network.blocks=[1,0,0,1]", "train.lr=1e-3,2e-3"]) == [
        ["seed=0", "task=sisr", "model.network.blocks=[1,0,0,1]", "train.lr=0.001"],
        ["seed=0", "task=sisr", "model.network.blocks=[1,0,0,1]", "train.lr=0.002"],
        ["seed=1", "task=sisr", "model.network.blocks=[1,0,0,1]", "train.lr=0.001"],
        ["seed=1", "task=sisr", "model.network.blocks=[1,0,0,1]", "train.lr=0.002"],
    ]


def test_a_sweep_that_cannot_be_read_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match=r"cannot read 'train\.steps=\[1'") as caught:
        config.sweep(["seed=0,1", "train.steps=[1"])
    assert "\n" not in str(caught.value)


def test_a_sweep_refuses_a_bad_combination() -> None:
    good, bad = config.sweep(["budget=smoke,huge"])
    assert config.load(Config, "train", good).scale == "smoke"
    assert "choose one of" in refusal(*bad)
