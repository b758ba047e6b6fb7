"""The typed schema of every command's configuration: names, types, defaults, meanings."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import II, MISSING


@dataclass
class RoleConfig:
    """What a budget gives to the runs of one role: optimiser steps, peak rate, its schedule, loss; see `TrainConfig`.

    `prior_only` is that of DiffI2I's second stage.
    """

    steps: int = MISSING
    lr: float = MISSING
    loss: str = MISSING
    adversarial_from: float = 0.0
    schedule: str = II("task.schedule")
    warmup: float = II("task.warmup")
    lr_end: float = II("task.lr_end")
    milestones: list[float] = field(default_factory=list)
    prior_only: float = 0.0


@dataclass
class PhaseConfig:
    """From optimiser step `step` on, training uses crops of `patch` pixels at the global batch `batch`."""

    step: int = MISSING
    patch: int = MISSING
    batch: int = MISSING


@dataclass
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
    batch: int = MISSING
    patch: int = MISSING
    val_crop: int | None = None
    val_crops: int = 1
    short_side: int | None = None
    long_side: int | None = None
    rotate: float = 0.0
    clip: float | None = 1.0
    head_lr: float = 1.0
    decay_norms: bool = True
    ema_decay: float = MISSING
    epoch_steps: int = MISSING
    phases: list[PhaseConfig] = field(default_factory=list)
    fresh: RoleConfig = field(default_factory=RoleConfig)
    continued: RoleConfig = field(default_factory=RoleConfig)
    adversarial: RoleConfig | None = None


@dataclass
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


@dataclass
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


@dataclass
class TaskConfig:
    """What to learn: the shapes, the degradation, the losses, the optimiser, the score, the budgets.

    `kind` is what the network predicts: `image`, `labels` or `depth`. `in_channels` counts the mask, `scale` is target
    size over input size, `classes` counts labels. `gt` embeds labels or depth for CPEN_S1. `degrade` makes an image
    task's input, and `fill` says what the network finds inside its hole, `black` or `smooth` (`models.fill.pull_push`);
    `scenes` crops the photos of the other two. `losses` are Hydra nodes by name; `train.loss` picks one.
    `schedule`, `warmup` and `lr_end` are those of `TrainConfig`.
    """

    name: str = MISSING
    kind: str = "image"
    in_channels: int = 3
    scale: int = 1
    classes: int | None = None
    gt: dict[str, Any] | None = None
    degrade: dict[str, Any] | None = None
    fill: str = "black"
    scenes: SceneConfig = field(default_factory=SceneConfig)
    losses: dict[str, Any] = MISSING
    optimizer: dict[str, Any] = MISSING
    schedule: str = "cosine"
    warmup: float = 0.05
    lr_end: float = 0.01
    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)
    main_metric: str = MISSING
    budgets: dict[str, BudgetConfig] = MISSING


@dataclass
class DatasetConfig:
    """Where the images come from.

    `source` is a partial that maps a split to its items. `target` reads label or depth files; None means photos.
    `expected` counts the items of each split in the literature. `on_error` says what a file that breaks during
    training does: `error` stops, `skip` draws another and warns. `augment` says how an image task's training crops are
    varied: `flips_and_turns` (all eight), `flips` (left to right) or `none`. Labels and
    depth: training sees the part of each photo between the rows and columns [top, bottom, left, right] of `train_box`
    alone, evaluation all of it.
    """

    name: str = MISSING
    source: dict[str, Any] = MISSING
    target: dict[str, Any] | None = None
    expected: dict[str, int] = field(default_factory=dict)
    augment: str = "flips_and_turns"
    train_box: list[int] | None = None
    on_error: str = "error"
    cache_mb: int = 2048
    workers: int = 0
    max_val_images: int | None = None


@dataclass
class CpenConfig:
    """`channels` is C' (the IPR has 4C' numbers), `blocks` the number of residual blocks.

    With `s1_sees_input` CPEN_S1 sees the input beside the ground truth (Eq. 5), without it the truth alone (Table 10).
    """

    channels: int = 64
    blocks: int = MISSING
    s1_sees_input: bool = True


@dataclass
class ModelConfig:
    """Sizes of the networks. `network` is the Hydra node of the one that Z guides (`DI2Iformer`, `Segmenter`, ...)."""

    name: str = MISSING
    network: dict[str, Any] = MISSING
    cpen: CpenConfig = field(default_factory=CpenConfig)
    denoiser_layers: int = 4


@dataclass
class TrainConfig:
    """What the budget gives to this run. All counts are optimiser steps at the global batch `batch`.

    `patch` is the side of the target's crops in pixels. Validation sees whole images, or their central `val_crop`
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

    steps: int = MISSING
    batch: int = MISSING
    patch: int = MISSING
    val_crop: int | None = None
    val_crops: int = 1
    phases: list[PhaseConfig] = field(default_factory=list)
    loss: str = MISSING
    adversarial_from: float = 0.0
    lr: float = MISSING
    schedule: str = "cosine"
    warmup: float = 0.05
    lr_end: float = 0.01
    milestones: list[float] = field(default_factory=list)
    gamma: float = 0.5
    ema_decay: float = MISSING
    ema_every: int = 1
    # Not None: OmegaConf would look up the interpolation of `conf/common.yaml` before its target is there.
    degrade: dict[str, Any] | None = field(default_factory=dict)
    clip: float | None = 1.0
    head_lr: float = 1.0
    decay_norms: bool = True
    epoch_steps: int = MISSING


@dataclass
class ValidationConfig:
    """Validation during training: after every `every_epochs` epochs, on the first `max_images` images (None: all).

    The final evaluation scores all images that the dataset has.
    """

    every_epochs: int = 1
    max_images: int | None = 100


@dataclass
class TrainerConfig:
    """Hardware. `precision` is fp32, bf16 or auto (bf16 where the processor multiplies bf16 natively).

    `device_batch` is the batch of one device and pass; None takes the whole share of the global batch.
    """

    accelerator: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "auto"
    device_batch: int | None = None
    threads: int | None = None
    progress: bool = True


@dataclass
class Config:
    """`diffi2i train`, and what a run directory keeps as `config.yaml`.

    `method` is the node of `conf/method/`: `_target_` its class, `name`, `init` the run that it starts from, `role` the
    part of the task's budget that it has (see `BudgetConfig`), and the options of its own, which the class checks.
    """

    task: TaskConfig = field(default_factory=TaskConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    method: dict[str, Any] = field(default_factory=dict)
    train: TrainConfig = field(default_factory=TrainConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    logger: dict[str, Any] | None = None
    budget: str = "demo"
    seed: int = 0
    root: str | None = None
    run_dir: str | None = None

    @property
    def init(self) -> Path | None:
        """The directory of the run that this one starts from."""
        return None if self.method["init"] is None else Path(self.method["init"])


@dataclass
class EvalConfig:
    """`diffi2i eval`: scores a finished run again, on its own validation images or on another dataset.

    `set` changes settings of the run that do not concern its training, as overrides: the method's options, the
    protocol, the degradation, the crops. The record keeps the list.
    """

    run: str = MISSING
    dataset: DatasetConfig | None = None
    set: list[str] = field(default_factory=list)
    root: str | None = None
    output: str | None = None
    trainer: TrainerConfig = field(default_factory=TrainerConfig)


@dataclass
class PredictConfig:
    """`diffi2i predict`: restores a file or a folder. Inpainting also needs `mask`, white = hole."""

    run: str = MISSING
    input: str = MISSING
    output: str = MISSING
    mask: str | None = None
    seed: int = 0
    trainer: TrainerConfig = field(default_factory=TrainerConfig)


@dataclass
class BenchConfig(Config):
    """`diffi2i bench`: `Config`'s network measured at a `size` x `size` output, median of `repeats` calls."""

    size: int = 256
    repeats: int = 5


@dataclass
class DataConfig:
    """`diffi2i data check`: reads every file of a dataset and writes its manifest."""

    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    root: str | None = None
    output: str | None = None


@dataclass
class ScoreConfig:
    """`diffi2i score`: any method's outputs against their targets, by the task's metrics and protocol.

    `pred` and `target` are folders, paired by file stem, as are `mask` (inpainting, white = hole) and `input` (images,
    for the baseline). Of `dataset` only the rule counts by which `target` holds classes or depth.
    """

    task: TaskConfig = field(default_factory=TaskConfig)
    dataset: DatasetConfig | None = None
    pred: str = MISSING
    target: str = MISSING
    mask: str | None = None
    input: str | None = None
    output: str | None = None
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
