"""Every shipped configuration composes and builds; every impossible one is refused in one line."""

import re
from collections.abc import Sequence
from dataclasses import fields, replace
from functools import cache
from itertools import pairwise, product
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf

from diffi2i import cli
from diffi2i.commands import sweep, train
from diffi2i.config import compose
from diffi2i.config.build import build
from diffi2i.config.compose import conf_dir
from diffi2i.config.run import read_run_config
from diffi2i.config.schema import Config, DatasetConfig, ProtocolConfig
from diffi2i.data.build import build_data
from diffi2i.data.dataset import Draw
from diffi2i.errors import UserError
from diffi2i.losses.task import TaskLoss
from diffi2i.methods.batch import Batch
from diffi2i.methods.build import check, new_method, without_pretrained
from diffi2i.methods.method import Method
from diffi2i.metrics.cost import parameters, work
from diffi2i.models.diffi2i import build_cpen
from tests.conftest import SMALL, Make
from tests.refusals import refusal
from tests.settings import task_config, train_config

# Hydra's own groups configure the sweep, not the run: test_launchers.py.
FILES = sorted(
    name
    for path in conf_dir().rglob("*.yaml")
    if not (name := path.relative_to(conf_dir()).as_posix()).startswith("hydra/")
)
ROOTS = {name: command.config for name, command in cli.COMMANDS.items()}
NEEDED = {
    "app": ["run=[a,b]"],
    "export": ["run=a", "output=b"],
    "compress": ["run=a"],
    "push": ["run=a", "repo=b/c"],
    "pull": ["repo=a/b", "output=c"],
    "eval": ["run=somewhere"],
    "predict": ["run=a", "input=b", "output=c"],
    "data": ["action=check", "dataset=photos"],
    "table": ["names=[a]"],
    "import": ["words=[a,b]", "run_dir=c"],
    "compare": ["runs=[a,b]"],
    "score": ["task=sisr", "pred=a", "target=b"],
}
BUDGETS = ["smoke", "demo", "reduced", "paper"]
TASK_OF_KIND = {"image": "sisr", "labels": "segmentation", "depth": "depth"}
NETWORKS = {"Segmenter": "labels", "Depther": "depth"}  # all others: images


def options(group: str) -> list[str]:
    return [Path(file).stem for file in FILES if file.startswith(f"{group}/")]


def shipped(group: str, name: str) -> Any:
    return OmegaConf.load(conf_dir() / group / f"{name}.yaml")


def class_name(node: Any) -> str:
    return str(node["_target_"]).rpartition(".")[2]


KINDS = {
    "task": {name: shipped("task", name).get("kind", "image") for name in options("task")},
    # Those with an IPR; `test_peers` has the others.
    "model": {
        name: NETWORKS.get(class_name(shipped("model", name).network), "image")
        for name in options("model")
        if "cpen" in shipped("model", name)
    },
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


@cache
def refused(*overrides: str, root: str = "train") -> str:
    """What `diffi2i train`, or another command, says before it starts."""

    def start() -> None:
        loaded: Any = compose.load(ROOTS[root], root, overrides)
        if isinstance(loaded, Config):
            check(loaded)

    return refusal(start)


def phases(*rows: tuple[int, int, int]) -> str:
    return "train.phases=[" + ",".join(f"{{step: {s}, patch: {p}, batch: {b}}}" for s, p, b in rows) + "]"


@pytest.mark.slow
@pytest.mark.parametrize("file", [file for file in FILES if not file.startswith("model/")])
def test_every_yaml_composes(file: str, images: Path) -> None:
    group, _, name = file.removesuffix(".yaml").rpartition("/")
    if group:
        task = TASK_OF_KIND[KINDS.get(group, {}).get(name, "image")]
        overrides = [f"task={task}", f"{group}={name}", f"root={images}"]
        if (group, name) == ("trainer", "ddp"):
            assert compose.load(Config, "train", overrides).trainer.devices == 2
            return
        node = getattr(compose.load(Config, "train", overrides[group == "task" :]), group)
        assert node is not None
        if group in ("task", "dataset", "method"):
            assert (node["name"] if group == "method" else node.name) == name
    elif name == "common":
        assert OmegaConf.load(conf_dir() / file).defaults
    else:
        assert isinstance(compose.load(ROOTS[name], name, NEEDED.get(name, [])), ROOTS[name])


def test_every_group_has_its_files() -> None:
    assert set(options("task")) == {"inpainting", "realsr", "sisr", "deblur", "segmentation", "depth"}
    for group in ("model", "dataset", "method", "trainer", "logger"):
        assert options(group)


@pytest.mark.slow
@pytest.mark.parametrize("task", options("task"))
def test_a_budget_may_name_its_model_and_an_override_wins(task: str) -> None:
    named = shipped("task", task).budgets.paper.get("model")
    assert named in fitting("model", task)
    assert compose.load(Config, "train", [f"task={task}", "budget=paper"]).model.name == named
    assert compose.load(Config, "train", [f"task={task}", "budget=paper", "method=diffi2i_s2"]).model.name == named
    small = compose.load(Config, "train", [f"task={task}", "budget=smoke"]).model.name
    other = compose.load(Config, "train", [f"task={task}", "budget=paper", f"model={small}"])
    assert other.model.name == small != named


@pytest.mark.slow
@pytest.mark.parametrize("dataset", fitting("dataset", "segmentation"))
def test_the_dataset_says_how_many_classes_there_are(dataset: str, images: Path) -> None:
    loaded = compose.load(Config, "train", ["task=segmentation", f"dataset={dataset}", f"root={images}"])
    assert loaded.dataset.target is not None
    assert loaded.task.gt is not None
    told = loaded.dataset.target["classes"]
    assert told == loaded.task.classes == loaded.task.gt["classes"] == loaded.model.network["classes"] > 1


@pytest.mark.slow
@pytest.mark.parametrize(("task", "budget"), list(product(options("task"), BUDGETS)))
def test_every_task_has_every_budget_and_its_parts_build(task: str, budget: str, images: Path) -> None:
    datasets = {"image": ("photos", "folder"), "labels": ("shapes",), "depth": ("motorcycle",)}
    for dataset in datasets[KINDS["task"][task]]:
        overrides = [f"task={task}", f"budget={budget}", f"dataset={dataset}", f"root={images}"]
        loaded = compose.load(Config, "train", overrides)
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


def on_meta(config: Config) -> Method:
    """The method without values, which takes neither memory nor time."""
    with torch.device("meta"):
        return new_method(without_pretrained(config))


@pytest.mark.slow
@pytest.mark.parametrize(("task", "model"), pairs_of("model"))
def test_every_model_builds_for_every_task(task: str, model: str) -> None:
    loaded = compose.load(Config, "train", [f"task={task}", f"model={model}", "budget=paper", "method=diffi2i_s2"])
    assert (loaded.budget, loaded.task.name, loaded.model.name) == ("paper", task, model)
    assert "${" not in str(loaded)
    assert set(on_meta(loaded).parts()) == {"CPEN_S2", "denoiser", class_name(loaded.model.network)}
    ones = torch.ones(1, 1, 32, 32)
    gt = {"image": ones.expand(1, 3, 32, 32), "labels": ones[0].long(), "depth": ones}
    side = 32 // loaded.task.scale
    image = torch.zeros(1, loaded.task.in_channels, side, side)
    z = build_cpen(loaded.task, loaded.model, gt=True)(image, gt[loaded.task.kind])
    assert z.shape == (1, loaded.model.prior_dim)


@pytest.mark.parametrize(
    ("task", "loss"), [(task, loss) for task in options("task") for loss in shipped("task", task).losses]
)
def test_every_loss_builds(task: str, loss: str) -> None:
    loaded = compose.load(Config, "train", [f"task={task}", f"train.loss={loss}"])
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
    method = on_meta(compose.load(Config, "train", [*overrides, "method=diffi2i_s2"]))
    assert parameters(*method.parts().values()) / 1e6 == pytest.approx(millions, rel=0.03)


def test_base_needs_fewer_operations_than_diffir() -> None:
    method = new_method(compose.load(Config, "train", ["task=inpainting", "model=base", "method=diffi2i_s2"])).eval()
    batch: Batch = {"name": ["a"], "input": torch.zeros(1, 3, 256, 256), "mask": torch.ones(1, 1, 256, 256)}
    assert work(lambda: method.predict(batch, method.noise(batch)), method.parts()).macs < 101e9 / 2


MISTAKES: list[tuple[list[str], str]] = [
    (["model.cpen.chanels=16"], "did you mean 'model.cpen.channels'"),
    (["model.network.widht=32"], "did you mean 'model.network.width'"),
    (["foo=1"], "unknown key 'foo'"),
    (["+task.extra=1"], "task.extra"),
    (["model.network.width=abc"], "model.network: width=abc must be an even number above 0"),
    (["seed=1.5"], "seed: value '1.5'"),
    (["train.clip=abc"], "train.clip: value 'abc'"),
    (["task=nope"], "deblur, depth, inpainting, realsr, segmentation, sisr"),
    (["budget=big"], "budget=big: choose one of smoke, demo, reduced, paper"),
    (["scale=2"], "unknown key 'scale': did you mean 'task.scale'?"),
    (["method.role=joint"], "method.role=joint: choose one of fresh, continued, adversarial"),
    (["~method.name"], "method.name is missing: take the method as conf/method/ has it"),
    (["~method._target_"], "method._target_ is missing: name a class"),
    (["~model.network._target_"], "model.network._target_ is missing: name a class"),
    (["task.optimizer.betas=[0.9]"], "task.optimizer: "),
    (["++task.optimizer._partial_=3"], "task.optimizer: Instantiation: _partial_ flag must be a bool"),
    (["task.optimizer._target_=torch.nn.Linear"], "task.optimizer: "),
    (["method.role=adversarial"], "method.role=adversarial: task=sisr has none at budget=demo"),
    (["train.steps=[1"], "cannot read 'train.steps=[1'"),
    (["method=diffi2i_s2", "method.prior_loss=l7"], "l1, l2, kl, energy"),
    (["method=diffi2i_s2", "method.prior_loss=energy", "method.prior=none"], "method.prior=joint"),
    (["train.schedule=step"], "constant, cosine, poly"),
    (["trainer.precision=fp8"], "auto, fp32, bf16"),
    (["train.batch=0"], "train.batch=0 must be above 0"),
    (["method=resshift", "task.scale=-1"], "task.scale=-1 must be above 0"),
    (["task.in_channels=0"], "task.in_channels=0 must be above 0"),
    (["model.cpen.blocks=1000000000"], "model.cpen.blocks=1000000000 is too large: write at most 1000"),
    (["model.network.blocks=[1,1,1,5000]"], "model.network.blocks[3]=5000 is too large: write at most 1000"),
    (["model.denoiser_layers=100000"], "model.denoiser_layers=100000 is too large: write at most 1000"),
    (["model.cpen.channels=1000000"], "model.cpen.channels=1000000 is too large: write at most 65536"),
    (["train.lr=-1"], "train.lr=-1.0 must be above 0"),
    (["train.epoch_steps=0"], "train.epoch_steps"),
    (["trainer.devices=3"], "write train.batch=9"),
    (["train.patch=33"], "write train.patch=36"),
    (["train.context=94"], "write train.context=96"),
    (["train.context=130"], "write train.context=132"),
    (["task=deblur", "budget=smoke", "train.context=32"], "write train.context=40"),  # of its second phase
    (["task=depth", "train.context=512"], "train.context belongs to images, not to task=depth"),
    (["method=regressor", "train.context=128"], "is what a CPEN sees, and method=regressor has none: leave it out"),
    (["train.ema_decay=1"], "train.ema_decay"),
    (["train.warmup=1"], "train.warmup"),
    (["model.network.blocks=[1,2]"], "model.network: blocks must name 4 levels, got [1, 2]: write four counts"),
    (["model.network.blocks=[1,2,3,-1]"], "write four counts"),
    (["model.network.width=31"], "model.network: width=31 must be an even number above 0"),
    (
        ["model.network.projection=depthwise", "model.network.expansion=2"],
        "or write model.network.projection=pointwise",
    ),
    (["model.network.projection=wide"], "projection=wide: choose one of depthwise, pointwise"),
    (["+model.network.modulation=add"], "model.network: modulation=add: choose one of shift, scale, both"),
    (["method=regressor", "+model.network.modulation=both"], "is by a prior, of which this method has none"),
    (["model.network.expansion=0"], "model.network: expansion=0 must be a number above 0"),
    (["model.network.refinement=-1"], "model.network: refinement=-1 must be a number of blocks"),
    (["+model.network.height=3"], "unexpected keyword argument 'height'"),
    (["+model.network.depth=5"], "model.network: depth=5 does not fit a network of depth 4: write 1 to 3"),
    (["model.network._target_=diffi2i.models.nothing.Network"], "model.network: Error loading"),
    (["task=segmentation", "+model.network.encoder.drop_path=1"], "drop_path=1 is a probability in [0, 1)"),
    (["task=depth", "model=depth_lite0", "+model.network.encoder.drop_path=x"], "drop_path=x is a probability"),
    (["model.denoiser_layers=-1"], "model.denoiser_layers=-1 must not be negative"),
    (["model.cpen.channels=0"], "model.cpen.channels=0 must be above 0"),
    (["method=diffi2i_s2", "method.diffusion.beta_1=0"], "0 < beta_1 <= beta_T < 1, got 4, 0.0 and 0.99"),
    (["method=diffi2i_s2", "method.diffusion.steps=0"], "needs steps above 0"),
    (["method=diffi2i_s2", "method.prior_only=1"], "method.prior_only=1.0 is a fraction of the steps"),
    (["method=diffi2i_s2", "method.prior_weight=0"], "method.prior_weight=0.0 must be above 0"),
    (["method=diffir_s2", "method.prior=traditional", "method.prior_weight=2"], "write method.prior_weight=1"),
    (
        ["method.prior_loss=l2"],
        "is an option of method=diffi2i_s2 and diffir_s2, not of this one: leave it out",
    ),
    (["method=diffi2i_s2", "method.prior_los=l2"], "did you mean 'method.prior_loss'?"),
    (["method._target_=diffi2i.models.cpen.CPEN"], "is no diffi2i.methods.method.Method"),
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
    (["task=segmentation", "dataset=photos"], "one of shapes, camvid, ade20k or label_pairs (your own)"),
    (["task=segmentation", "dataset=motorcycle"], "dataset=motorcycle holds no labels for task=segmentation"),
    (["task=depth", "dataset=photos"], "one of motorcycle, sevenscenes, nyu or depth_pairs (your own)"),
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
    (["task.kind=words"], "task.kind=words: choose one of image, labels, depth"),
    (["task.fill=white"], "task.fill=white: choose one of black, smooth"),
    (["trainer.accelerator=tpu"], "trainer.accelerator=tpu: choose one of auto, cpu, gpu, mps"),
    (["trainer.threads=0"], "trainer.threads=0 must be above 0"),
    (["validation.every_epochs=0"], "validation.every_epochs=0 must be above 0"),
    (["dataset.max_val_images=0"], "dataset.max_val_images=0 must be above 0"),
    (["dataset.train_box=[0,4,0,4]"], "dataset.train_box belongs to labels and depth, not to task=sisr"),
    (["task=depth", "dataset.train_box=[9,4,0,4]"], "must be rows and columns [top,bottom,left,right]"),
    (["train.head_lr=2"], "train.head_lr=2.0 belongs to labels and depth: write train.head_lr=1"),
    (["train.val_crops=2"], "train.val_crops=2 needs the crops' side: write train.val_crop=<pixels>"),
    (["train.schedule=multistep"], "write train.milestones=[0.5,0.7]"),
    (["train.milestones=[0.5]"], "belong to train.schedule=multistep, not to cosine"),
    (["train.schedule=multistep", "train.milestones=[0.7,0.5]"], "must rise within [train.warmup=0.05, 1)"),
    (["train.gamma=2"], "train.gamma=2.0 multiplies the rate at a milestone"),
    (
        ["task=depth", "task.scenes.short_side=64", "task.scenes.input_scale=0.5"],
        "has both short_side=64 and",
    ),
    (["task=depth", "task.scenes.long_side=64"], "bounds a short_side: write task.scenes.short_side=16 too"),
    (["task=depth", "task.scenes.short_side=64", "task.scenes.long_side=32"], "is below short_side=64: write 256"),
    (["task=depth", "task.scenes.rotate=90"], "is an angle in degrees from 0 to 45"),
    (["train.ema_decay=0", "train.ema_every=4"], "write train.ema_every=1"),
    (["train.loss=nope"], "train.loss=nope: choose one of l1, real_esrgan"),
    (["train.loss=cross_entropy"], "train.loss=cross_entropy: choose one of l1"),
    (["train.adversarial_from=1.5"], "train.adversarial_from=1.5"),
    (["method=diffi2i_s2", "train.loss=real_esrgan", "method.prior_only=0.1"], "cannot be joined with the disc"),
    ([phases((0, 32, 8))], "steps must rise from 1"),
    ([phases((5, 64, 8), (5, 128, 8))], "steps must rise from 1"),
    ([phases((9, 64, 8), (5, 128, 8))], "step 5, patch 128, batch 8: steps must rise"),
    ([phases((5, 33, 8))], "patches be multiples of 4"),
    ([phases((5, 0, 8))], "patches be multiples of 4"),
    ([phases((5, 64, 0))], "batches be above 0"),
    ([phases((5, 64, 3)), "trainer.devices=2"], "batch 3 at step 5 is not a multiple of the 2 batches"),
    ([phases((5, 64, 2)), "trainer.device_batch=2"], "batch 2 at step 5 is not a multiple of the 4 batches"),
    (["budget=???"], "budget is missing"),
    (["trust={a: 1}"], "write the names of modules: trust=mynet"),
    (["method.name=3"], "method.name=3 becomes a folder's name: write one without slashes"),
    (["train.lr=nan"], "train.lr=nan: write a finite number"),
    (["train.lr=???"], "train.lr is missing: write a value"),
    (["train.phases=[{step: 5, patch: 64}]"], "train.phases[0].batch is missing"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("overrides", "words"), MISTAKES)
def test_what_cannot_be_is_refused_in_one_line(overrides: list[str], words: str) -> None:
    assert words in refused(*overrides)


def corrected(overrides: Sequence[str], line: str) -> list[str] | None:
    """The overrides as the line says to write them, the first of several choices; None where that takes a thought."""
    if found := re.search(r"unknown key '([\w.]+)': did you mean '([\w.]+)'", line):
        return [text.replace(f"{found[1]}=", f"{found[2]}=") for text in overrides]
    if found := re.search(r"(?:([\w.]+): )?([\w.]+)=\S*: choose one of ([\w]+)", line):
        key = ".".join(filter(None, (found[1], found[2])))
        return [re.sub(rf"^(\+*{re.escape(key)}=).*", rf"\g<1>{found[3]}", text) for text in overrides]
    if found := re.search(r"write (?!key=)([\w.]+)=([^\s<>;]+)(?! one of)", line):
        kept = [text for text in overrides if not text.lstrip("+").startswith(f"{found[1]}=")]
        return [*kept, f"{found[1]}={found[2].rstrip(',.')}"]
    return None


@pytest.mark.slow
def test_what_a_line_says_to_write_is_taken() -> None:
    followed, in_vain = 0, []
    for overrides, _ in MISTAKES:
        line = refused(*overrides)
        if (better := corrected(overrides, line)) is not None:
            followed += 1
            try:
                check(compose.load(Config, "train", better))
            except UserError as error:
                if "write method.init=" not in str(error):  # which comes next
                    in_vain.append(f"{overrides}: {line}; {better}: {error}")
    assert in_vain == []
    assert followed >= 25


def test_a_missing_value_is_named() -> None:
    assert "write run=<value>" in refused(root="eval")
    assert "size=31x" in refused("size=31x", root="bench")


def test_a_run_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "is a file" in refused(f"run_dir={tmp_path / 'file'}")


@pytest.mark.slow
def test_stage_2_refuses_what_it_cannot_start_from(stage1: Path, tmp_path: Path, images: Path) -> None:
    second_of = [*SMALL, f"root={images}", "method=diffi2i_s2", f"method.init={stage1}"]
    second = train.train(compose.load(Config, "train", [*second_of, f"run_dir={tmp_path / 'second'}"]))
    assert "write task=sisr" in refused(*second_of, "task=inpainting", "model=tiny")
    said = refused(*second_of, "model.network.width=6")
    assert "has model.network.width=4, this run 6: write model.network.width=4" in said
    assert refused(*second_of, "+model.network.modulation=both").endswith("leave out +model.network.modulation")
    assert "has model.cpen.channels=4, this run 8" in refused(*second_of, "model.cpen.channels=8")
    check(compose.load(Config, "train", [*second_of, "model.denoiser_layers=2"]))  # stage 1 has none
    assert "is a stage 1, method.role=adversarial" in refused(*second_of, "method.role=adversarial")
    assert "goes on from a finished run" in refused("budget=smoke", "method.role=adversarial")

    # A finished stage 2 can be gone on with.
    onward = [*second_of[:-1], f"method.init={second}"]
    assert compose.load(Config, "train", onward).init == second
    check(compose.load(Config, "train", [*onward, "method.role=adversarial", "train.loss=l1"]))
    assert "has model.denoiser_layers=1, this run 2" in refused(*onward, "model.denoiser_layers=2")

    (stage1 / "result.json").unlink()
    assert "unfinished" in refused(*second_of)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("task.protocol.border=-1", "task.protocol.border=-1 must be 0 or more pixels"),
        ("task.protocol.flip=true", "flip and sizes belong to labels and depth"),
        ("task.protocol.metrics=[psnr,nothing]", "task.protocol.metrics=nothing: choose from psnr"),
        ("train.val_crop=0", "train.val_crop=0 must be above 0"),
        ("train.lr=1", "set=train.lr: not a setting under which a run can be scored"),
        ("method.init=other", "set=method.init: not a setting"),
        ("task.protocol.boarder=1", "set: unknown key 'task.protocol.boarder': did you mean 'task.protocol.border'?"),
        ("task.protocol.seed=1.5", "does not fit this version: task.protocol.seed: value '1.5'"),
        ("task.protocol.sizes=[1", "set: cannot read 'task.protocol.sizes=[1'"),
    ],
)
def test_scoring_under_other_settings_is_checked_like_a_configuration(
    change: str, words: str, make: Make, tmp_path: Path
) -> None:
    OmegaConf.save(OmegaConf.structured(make("run")), tmp_path / "config.yaml")
    assert read_run_config(tmp_path) == replace(make("run"), logger=None)
    assert read_run_config(tmp_path, ["task.protocol.seed=3", "train.val_crop=16"]).task.protocol.seed == 3
    assert words in refusal(read_run_config, tmp_path, [change])


def test_parts_refuse_what_cannot_be_wherever_they_are_made() -> None:
    with pytest.raises(UserError, match=r"task\.protocol\.sizes=\[0\] must be factors above 0"):
        ProtocolConfig(sizes=[0])
    with pytest.raises(UserError, match=r"train\.batch=0 must be above 0"):
        train_config(batch=0)
    with pytest.raises(UserError, match=r"task\.main_metric=ssim is not in"):
        replace(task_config(), main_metric="ssim")
    with pytest.raises(TypeError, match="missing 1 required keyword-only argument: 'name'"):
        DatasetConfig(source={})  # type: ignore[call-arg]


def test_batches_of_a_step_are_shared_among_devices(make: Make) -> None:
    config = make("run", "train.batch=16", "trainer.devices=2", "trainer.num_nodes=2", "trainer.device_batch=2")
    assert (config.world, config.micro_batches) == (4, 2)
    assert make("run", "train.batch=16").micro_batches == 1


def test_a_sweep_is_expanded_as_hydra_will_run_it() -> None:
    assert sweep.combinations(["seed=0,1", "task=sisr", "model.network.blocks=[1,0,0,1]", "train.lr=1e-3,2e-3"]) == [
        ["seed=0", "task=sisr", "model.network.blocks=[1,0,0,1]", "train.lr=0.001"],
        ["seed=0", "task=sisr", "model.network.blocks=[1,0,0,1]", "train.lr=0.002"],
        ["seed=1", "task=sisr", "model.network.blocks=[1,0,0,1]", "train.lr=0.001"],
        ["seed=1", "task=sisr", "model.network.blocks=[1,0,0,1]", "train.lr=0.002"],
    ]


def test_a_sweep_that_cannot_be_read_is_refused_in_one_line() -> None:
    assert "cannot read 'train.steps=[1'" in refusal(sweep.combinations, ["seed=0,1", "train.steps=[1"])


def test_a_sweep_refuses_a_bad_combination() -> None:
    good, bad = sweep.combinations(["budget=smoke,huge"])
    assert compose.load(Config, "train", good).budget == "smoke"
    assert "choose one of" in refused(*bad)


ODD = ["photos (1)", "josé", "画像", "a,b", "run=3", "b[1]", "{a}", "#1", "~/x", "a&b", "it's", 'a "b"', "a\\", "\\'"]
NUMBERS = ["2024.10", "1e3", "1_000", "0x1f", "true", "nan", "-", "null.", "choice(a,b)", " a ", "$x", "a:b"]


@pytest.mark.parametrize("name", [*ODD, *NUMBERS])
def test_a_path_may_have_any_name(name: str) -> None:
    parser = OverridesParser.create()
    assert parser.parse_override(compose.quoted_path(f"input={name}")).value() == name
    for quote in compose.QUOTES:
        if not set(name) & {*compose.QUOTES, "\\"}:
            assert compose.quoted_path(f"+root={quote}{name}{quote}") == f"+root={quote}{name}{quote}"


def test_paths_of_a_training_may_have_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("b (1)").mkdir()
    given = ["dataset=folder", "root=b (1)", "dataset.source.val_root=null", "seed=4", "run_dir=runs/${seed}, 1e3"]
    loaded = compose.load(Config, "train", [*given, "method.init=2024.10"])
    assert (loaded.root, loaded.dataset.source["root"], loaded.dataset.source["val_root"]) == ("b (1)", "b (1)", None)
    assert (loaded.run_dir, loaded.init) == ("runs/4, 1e3", Path("2024.10"))
    texts = ("root=b (1),'c,d',null", "run_dir=x/${seed}", "seed=1,2")
    swept = [compose.quoted_path(text, swept=True) for text in texts]
    assert sweep.combinations(swept)[::2] == [
        [f"root={root}", "run_dir='x/${seed}'", "seed=1"] for root in ("'b (1)'", "'c,d'", "null")
    ]
    assert compose.quoted_path("method.init=glob(a*)", swept=True) == "method.init=glob(a*)"


def test_a_name_in_quotes_is_meant_where_it_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("'q'").mkdir()
    assert compose.load(Config, "train", ["dataset=folder", "root='q'"]).root == "'q'"


@pytest.mark.parametrize("name", ["a\nb", "\x1b[31m", "\udcff", "\u2028"])
def test_a_path_that_cannot_be_printed_is_refused(name: str) -> None:
    said = refused("run=a", f"input={name}", "output=b", root="predict")
    assert said == f"input={name!a} has signs that cannot be printed: rename the file or folder"


def test_every_path_of_a_command_is_known_as_one() -> None:
    """A new key is a path, whose name is taken as written, or stands here."""
    others = {"size", "action", "budget", "launcher", "project", "entity", "format", "alpha", "tiling", "shard", "repo"}
    others |= {"license"}
    texts = {
        field.name
        for schema in ROOTS.values()
        for field in fields(schema)
        if get_type_hints(schema)[field.name] in (str, str | None)
    }
    assert {name for name in texts if not compose.PATHS.fullmatch(name)} == others
