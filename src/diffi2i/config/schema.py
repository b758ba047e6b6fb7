"""The typed schema of a run and its parts: names, types, defaults, meanings, and what cannot be.

A field without default is mandatory. What a value may be is checked where its dataclass is made (`__post_init__`, which
raises `UserError`); what several of them may be together, in `checks`. Values that only a network or a method can judge
are refused by its constructor.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import II

from diffi2i.errors import UserError
from diffi2i.files import check_name
from diffi2i.kinds.spec import KINDS
from diffi2i.metrics.spec import of_kind


def above_zero(node: object, prefix: str, keys: Sequence[str], most: float = 1e9) -> None:
    """Raises `UserError` for a number that is 0 or less, or more than `most`; None passes."""
    for key in keys:
        value = getattr(node, key)
        if value is not None and not 0 < value <= most:
            raise UserError(f"{prefix}{key}={value} must be above 0" + (f", at most {most:g}" if value > 0 else ""))


def one_of(key: str, value: str, choices: Sequence[str]) -> None:
    """Raises `UserError` for another value."""
    if value not in choices:
        raise UserError(f"{key}={value}: choose one of {', '.join(choices)}")


@dataclass(kw_only=True)
class RoleConfig:
    """What a budget gives to the runs of one role: optimiser steps, peak rate, its schedule, loss; see `TrainConfig`.

    `prior_only` is that of DiffI2I's second stage.
    """

    steps: int
    lr: float
    loss: str
    adversarial_from: float = 0.0
    schedule: str = II("task.schedule")
    warmup: float = II("task.warmup")
    lr_end: float = II("task.lr_end")
    milestones: list[float] = field(default_factory=list)
    prior_only: float = 0.0


@dataclass(kw_only=True)
class PhaseConfig:
    """From optimiser step `step` on, training uses crops of `patch` pixels at the global batch `batch`."""

    step: int
    patch: int
    batch: int


@dataclass(kw_only=True)
class BudgetConfig:
    """What one budget of a task sets; see `TrainConfig` for the meanings.

    `model` is the budget's own model, where it differs from the task's default; `model=<name>` comes before it.
    `fresh`, `continued` and `adversarial` are the roles that `method.role` names: a run that starts from nothing, one
    that goes on from another, and one that goes on under a discriminator, None where the recipe ends without. All
    methods share them, so that what is compared has been trained alike. `train_degrade` is `TrainConfig.degrade`;
    `betas` are for a task whose `optimizer` takes them from here. `short_side`, `long_side` and `rotate` are those of
    `SceneConfig`.
    """

    model: str | None = None
    train_degrade: dict[str, Any] | None = None
    betas: list[float] = field(default_factory=lambda: [0.9, 0.99])
    batch: int
    patch: int
    val_crop: int | None = None
    val_crops: int = 1
    short_side: int | None = None
    long_side: int | None = None
    rotate: float = 0.0
    clip: float | None = 1.0
    head_lr: float = 1.0
    decay_norms: bool = True
    ema_decay: float
    epoch_steps: int
    phases: list[PhaseConfig] = field(default_factory=list)
    fresh: RoleConfig
    continued: RoleConfig
    adversarial: RoleConfig | None = None


@dataclass(kw_only=True)
class ProtocolConfig:
    """How outputs are scored.

    `seed` is the evaluation's own, not the training's: the random inputs (masks, blurs, degradations) and the noise of
    Alg. 2 follow from it and each image's name, so they are the same for every training seed and method.

    Images: PSNR and SSIM leave out `border` pixels on each side (networks see the whole image), and `metrics` names the
    scores, some of those of images in `metrics.spec`; labels and depth always have all of theirs, and no list. Depth:
    counted between `min_depth` and `max_depth` metres, inside `crop` (`eigen` or nothing). Labels and depth: the
    prediction may be averaged over `flip` and over `sizes`, factors of the input's size; the default is neither.
    """

    seed: int = 0
    border: int = 0
    metrics: list[str] = field(default_factory=list)
    min_depth: float = 0.001
    max_depth: float = 10.0
    crop: str | None = None
    flip: bool = False
    sizes: list[float] = field(default_factory=lambda: [1.0])

    def __post_init__(self) -> None:
        if self.border < 0:
            raise UserError(f"task.protocol.border={self.border} must be 0 or more pixels")
        if not 0 < self.min_depth < self.max_depth:
            raise UserError("task.protocol needs 0 < min_depth < max_depth, in metres")
        if self.crop is not None:
            one_of("task.protocol.crop", self.crop, ("eigen",))
        if not self.sizes or min(self.sizes) <= 0:
            raise UserError(f"task.protocol.sizes={self.sizes} must be factors above 0: [1.0]")


@dataclass(kw_only=True)
class SceneConfig:
    """How photos with labels or depth are cropped for training; see `data.scenes.TrainScenes`.

    The crop is `train.patch` high and `aspect` times as wide, after resizing by a factor drawn from `zoom`.
    `input_scale` is the size at which the network sees an image over its stored size; it is scored at the latter.
    In place of one factor for all, `short_side` brings the shorter side of each image to so many pixels, or to fewer
    where the longer one would exceed `long_side`. Half of the crops are turned, by up to `rotate` degrees either way.
    """

    aspect: float = 1.0
    zoom: list[float] = field(default_factory=lambda: [1.0, 1.0])
    jitter: float = 0.0
    input_scale: float = 1.0
    short_side: int | None = None
    long_side: int | None = None
    rotate: float = 0.0

    def __post_init__(self) -> None:
        above_zero(self, "task.scenes.", ("aspect", "input_scale", "short_side"))
        zoom, short, long = self.zoom, self.short_side, self.long_side
        if len(zoom) != 2 or not 0 < zoom[0] <= zoom[1]:
            raise UserError(f"task.scenes.zoom={zoom} must be the smallest and the largest zoom: [0.5,2.0]")
        if short is not None and self.input_scale != 1:
            raise UserError(
                f"task.scenes has both short_side={short} and input_scale={self.input_scale}: "
                "write task.scenes.input_scale=1 or task.scenes.short_side=null task.scenes.long_side=null"
            )
        if long is not None and short is None:
            raise UserError(
                f"task.scenes.long_side={long} bounds a short_side: write task.scenes.short_side={long // 4} too"
            )
        if long is not None and short is not None and long < short:
            raise UserError(f"task.scenes.long_side={long} is below short_side={short}: write {4 * short}, or null")
        if not 0 <= self.rotate <= 45:
            raise UserError(f"task.scenes.rotate={self.rotate} is an angle in degrees from 0 to 45: write 2.5")


@dataclass(kw_only=True)
class TaskConfig:
    """What to learn: the shapes, the degradation, the losses, the optimiser, the score, the budgets.

    `kind` is what the network predicts: `image`, `labels` or `depth`. `in_channels` counts the mask, `scale` is target
    size over input size, `classes` counts labels. `gt` embeds labels or depth for CPEN_S1. `degrade` makes an image
    task's input, and `fill` says what the network finds inside its hole, `black` or `smooth` (`models.fill.pull_push`);
    `scenes` crops the photos of the other two. `losses` are Hydra nodes by name; `train.loss` picks one.
    `schedule`, `warmup` and `lr_end` are those of `TrainConfig`.
    """

    name: str
    kind: str = "image"
    in_channels: int = 3
    scale: int = 1
    classes: int | None = None
    gt: dict[str, Any] | None = None
    degrade: dict[str, Any] | None = None
    fill: str = "black"
    scenes: SceneConfig = field(default_factory=SceneConfig)
    losses: dict[str, Any]
    optimizer: dict[str, Any]
    schedule: str = "cosine"
    warmup: float = 0.05
    lr_end: float = 0.01
    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)
    main_metric: str
    budgets: dict[str, BudgetConfig]

    def __post_init__(self) -> None:
        check_name("task.name", self.name)
        above_zero(self, "task.", ("in_channels", "scale", "classes"), most=65_536)
        one_of("task.kind", self.kind, list(KINDS))
        one_of("task.fill", self.fill, ("black", "smooth"))
        protocol = self.protocol
        if not KINDS[self.kind].dense and (protocol.flip or protocol.sizes != [1.0]):
            raise UserError(f"flip and sizes belong to labels and depth, not to task={self.name}: leave them out")
        self.check_metrics()

    def check_metrics(self) -> None:
        """An image task lists scores that exist, its main one among them; labels and depth have no list."""
        metrics, known = self.protocol.metrics, of_kind(self.kind)
        if KINDS[self.kind].dense:
            if metrics:
                raise UserError(
                    f"task.protocol.metrics belongs to images: task={self.name} has fixed scores, leave it out"
                )
            if self.main_metric not in known:
                raise UserError(f"task.main_metric={self.main_metric}: choose one of {', '.join(known)}")
            return
        if not metrics:
            raise UserError(f"task.protocol.metrics=[] scores nothing: write some of {','.join(known)}")
        for metric in metrics:
            if metric not in known:
                raise UserError(f"task.protocol.metrics={metric}: choose from {', '.join(known)}")
            if metrics.count(metric) > 1:
                raise UserError(f"task.protocol.metrics names {metric} {metrics.count(metric)} times: write it once")
        if self.main_metric not in metrics:
            raise UserError(
                f"task.main_metric={self.main_metric} is not in task.protocol.metrics: choose one of "
                f"{', '.join(metrics)}, or write it into that list too"
            )


@dataclass(kw_only=True)
class DatasetConfig:
    """Where the images come from.

    `source` is a partial that maps a split to its items. `target` reads label or depth files; None means photos.
    `expected` counts the items of each split in the literature. `on_error` says what a file that cannot be read does:
    `error` stops; `skip` draws another in training, leaves it out of the validation, and says so. `augment` says how an
    image task's training crops are varied: `flips_and_turns` (all eight), `flips` (left to right) or `none`. Labels and
    depth: training sees the part of each photo between the rows and columns [top, bottom, left, right] of `train_box`
    alone, evaluation all of it. `workers` are the processes that load images; None: 0 for training on a CPU, which
    needs its cores itself, and for one on a GPU as many as there are cores for, up to 8.
    """

    name: str
    source: dict[str, Any]
    target: dict[str, Any] | None = None
    expected: dict[str, int] = field(default_factory=dict)
    augment: str = "flips_and_turns"
    train_box: list[int] | None = None
    on_error: str = "error"
    cache_mb: int = 2048
    workers: int | None = None
    max_val_images: int | None = None

    def __post_init__(self) -> None:
        check_name("dataset.name", self.name)
        one_of("dataset.augment", self.augment, ("flips_and_turns", "flips", "none"))
        one_of("dataset.on_error", self.on_error, ("error", "skip"))
        above_zero(self, "dataset.", ("max_val_images",))
        if not 0 <= (self.workers or 0) <= 256 or self.cache_mb < 0:
            raise UserError(
                f"dataset.workers={self.workers} lies from 0 to 256, dataset.cache_mb={self.cache_mb} from 0 on: "
                "write dataset.workers=4 dataset.cache_mb=2048"
            )
        box = self.train_box
        if box is not None and (len(box) != 4 or not (0 <= box[0] < box[1] and 0 <= box[2] < box[3])):
            raise UserError(
                f"dataset.train_box={box} must be rows and columns [top,bottom,left,right]: [45,472,43,608]"
            )


@dataclass(kw_only=True)
class CpenConfig:
    """`channels` is C' (the IPR has 4C' numbers), `blocks` the number of residual blocks.

    With `s1_sees_input` CPEN_S1 sees the input beside the ground truth (Eq. 5), without it the truth alone (Table 10).
    With `normalise` what leaves both CPENs has mean 0 and variance 1 over its 4C' numbers.
    """

    channels: int = 64
    blocks: int
    s1_sees_input: bool = True
    normalise: bool = False

    def __post_init__(self) -> None:
        above_zero(self, "model.cpen.", ("channels",))


@dataclass(kw_only=True)
class ModelConfig:
    """Sizes of the networks. `network` is the Hydra node of the one that makes the prediction (`DI2Iformer`, ...).

    `cpen` and `denoiser_layers` are for methods with an IPR. With `leaky_ends` CPEN and denoiser have the further
    LeakyReLUs that they have in DiffIR. `autoencoder` is the Hydra node of the one whose codes a diffusion works in.
    """

    name: str
    network: dict[str, Any]
    cpen: CpenConfig | None = None
    denoiser_layers: int = 4
    leaky_ends: bool = False
    autoencoder: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.denoiser_layers < 0:
            raise UserError(f"model.denoiser_layers={self.denoiser_layers} must not be negative")

    @property
    def prior_dim(self) -> int:
        """4C', how many numbers the IPR has. Raises `UserError`: the model has no CPEN."""
        if self.cpen is None:
            raise UserError(f"model={self.name} has no CPEN for a method with a prior: name another model")
        return 4 * self.cpen.channels


@dataclass(kw_only=True)
class TrainConfig:
    """What the budget gives to this run. All counts are optimiser steps at the global batch `batch`.

    `patch` is the side of the target's crops in pixels. With a `context` CPENs see larger crops, of that side, and the
    network, which L_task judges, their central `patch` pixels; as in validation, where CPENs see the whole image.
    Validation sees whole images, or their central `val_crop`
    pixels where a network trained on small crops could not fairly be asked for more; with `val_crops` above 1 up to so
    many such crops, spread evenly over each image without overlap, every one scored as an image of its own. The rate
    rises linearly over the first `warmup` (a fraction of `steps`), then follows `schedule`: cosine and poly go down to
    `lr * lr_end`, multistep takes `gamma` times the rate at each of the `milestones` (rising fractions of `steps`),
    constant leaves it. An
    epoch is `epoch_steps` steps: after each a checkpoint is written.
    The averaged weights are updated every `ema_every` steps with `ema_decay`; 0 means no average, the weights as they
    are. `degrade` makes an image task's inputs in training, in place of `task.degrade`, which then makes those that are
    scored.

    `clip` is the largest norm of the gradient. Labels and depth: the head, which is what follows the encoder, has
    `head_lr` times the rate. Without `decay_norms` the optimiser's weight decay leaves out normalisation layers and
    tables of positions.

    `loss` names one of the task's losses; where it has a discriminator, that joins after the fraction
    `adversarial_from` of the steps. `phases` change patch and batch as training goes on.
    """

    steps: int
    batch: int
    patch: int
    context: int | None = None
    val_crop: int | None = None
    val_crops: int = 1
    phases: list[PhaseConfig] = field(default_factory=list)
    loss: str
    adversarial_from: float = 0.0
    lr: float
    schedule: str = "cosine"
    warmup: float = 0.05
    lr_end: float = 0.01
    milestones: list[float] = field(default_factory=list)
    gamma: float = 0.5
    ema_decay: float
    ema_every: int = 1
    # Not None: OmegaConf would look up the interpolation of `conf/common.yaml` before its target is there.
    degrade: dict[str, Any] | None = field(default_factory=dict)
    clip: float | None = 1.0
    head_lr: float = 1.0
    decay_norms: bool = True
    epoch_steps: int

    def __post_init__(self) -> None:
        one_of("train.schedule", self.schedule, ("constant", "cosine", "poly", "multistep"))
        above_zero(self, "train.", ("val_crop", "val_crops", "gamma", "head_lr"))
        above_zero(self, "train.", ("lr",), most=1e38)
        if self.steps != 0:  # none: the weights that it starts from are scored as they are
            above_zero(self, "train.", ("steps",))
        above_zero(self, "train.", ("batch", "patch", "context"), most=16384)
        above_zero(self, "train.", ("clip", "epoch_steps", "ema_every"))
        if self.val_crops > 1 and self.val_crop is None:
            raise UserError(f"train.val_crops={self.val_crops} needs the crops' side: write train.val_crop=<pixels>")
        if not 0 <= self.warmup < 1 or not 0 <= self.lr_end <= 1 or not 0 <= self.ema_decay < 1:
            raise UserError("train.warmup and train.ema_decay lie in [0, 1), train.lr_end in [0, 1]")
        if self.ema_decay == 0 and self.ema_every != 1:
            raise UserError(
                f"train.ema_decay=0 keeps no average, only the weights of every {self.ema_every} steps: "
                "write train.ema_every=1"
            )
        if not 0 <= self.adversarial_from <= 1:
            raise UserError(f"train.adversarial_from={self.adversarial_from} is a fraction of the steps in [0, 1]")
        if self.degrade and "_target_" not in self.degrade:
            raise UserError(
                "train.degrade names no degradation: write '+train.degrade={_target_: diffi2i.data.degrade.Inpaint, "
                "...}', or train.degrade=null for task.degrade's"
            )
        self.check_milestones()

    def check_milestones(self) -> None:
        """They rise within the run, and stand where the schedule that has them does."""
        if self.schedule == "multistep" and not self.milestones:
            raise UserError(
                "train.schedule=multistep needs its steps: write train.milestones=[0.5,0.7], fractions of the run"
            )
        if self.schedule != "multistep" and self.milestones:
            raise UserError(
                f"train.milestones={self.milestones} belong to train.schedule=multistep, not to {self.schedule}: "
                "write train.milestones=[] too"
            )
        rising = self.milestones == sorted(set(self.milestones))
        if not rising or not all(self.warmup <= milestone < 1 for milestone in self.milestones):
            raise UserError(
                f"train.milestones={self.milestones} must rise within [train.warmup={self.warmup}, 1), as fractions of "
                f"train.steps={self.steps}: [0.5,0.7]"
            )
        if self.gamma > 1:
            raise UserError(f"train.gamma={self.gamma} multiplies the rate at a milestone: write 1 or less, say 0.5")


@dataclass(kw_only=True)
class ValidationConfig:
    """Validation during training: after every `every_epochs` epochs, on the first `max_images` images (None: all).

    The final evaluation scores all images that the dataset has.
    """

    every_epochs: int = 1
    max_images: int | None = 100

    def __post_init__(self) -> None:
        above_zero(self, "validation.", ("every_epochs", "max_images"))


@dataclass(kw_only=True)
class TrainerConfig:
    """Hardware. `precision` is fp32, bf16 or auto (bf16 where the processor multiplies bf16 natively).

    Several `devices`, on each of `num_nodes`, train together by DDP. A process gives up on the others when one has not
    answered for `timeout` seconds; it must be longer than what one image takes.
    `device_batch` is the batch of one device and pass; None takes the whole share of the global batch.
    `gradient_checkpointing` computes blocks twice in place of keeping what they compute: large patches in less memory.
    """

    accelerator: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    precision: str = "auto"
    device_batch: int | None = None
    gradient_checkpointing: bool = False
    threads: int | None = None
    progress: bool = True
    timeout: int = 60

    def __post_init__(self) -> None:
        one_of("trainer.accelerator", self.accelerator, ("auto", "cpu", "gpu", "mps"))
        one_of("trainer.precision", self.precision, ("auto", "fp32", "bf16"))
        above_zero(self, "trainer.", ("num_nodes", "device_batch", "timeout"), most=100_000)
        above_zero(self, "trainer.", ("devices", "threads"), most=1024)


@dataclass(kw_only=True)
class Config:
    """`diffi2i train`, and what a run directory keeps as `config.yaml`.

    `method` is the node of `conf/method/`: `_target_` its class, `name`, `init` the run that it starts from, `role` the
    part of the task's budget that it has (see `BudgetConfig`), and the options of its own, which the class checks.
    `trust` are modules of the user's own that the run to start from may name; see `config.trust`.
    """

    task: TaskConfig
    dataset: DatasetConfig
    model: ModelConfig
    method: dict[str, Any]
    train: TrainConfig
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    logger: dict[str, Any] | None = None
    budget: str = "demo"
    seed: int = 0
    root: str | None = None
    run_dir: str | None = None
    trust: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise UserError(f"seed={self.seed} lies from 0 to {2**32 - 1}")
        if not all(isinstance(name, str) for name in self.trust):
            raise UserError(f"trust={self.trust}: write the names of modules: trust=mynet")

    @property
    def init(self) -> Path | None:
        """The directory of the run that this one starts from."""
        return None if self.method["init"] is None else Path(self.method["init"])

    @property
    def world(self) -> int:
        """Devices of all nodes."""
        return self.trainer.devices * self.trainer.num_nodes

    @property
    def micro_batches(self) -> int:
        """Batches of one device that make up its share of an optimiser step: gradients accumulate over them."""
        share = self.train.batch // self.world
        return share // (self.trainer.device_batch or share)
