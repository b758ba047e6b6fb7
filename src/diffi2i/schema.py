"""The typed schema of every command's configuration: names, types, defaults, meanings."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


@dataclass
class StageBudget:
    """Optimiser steps and peak learning rate of one stage."""

    steps: int = MISSING
    lr: float = MISSING


@dataclass
class ScaleConfig:
    """What one scale of a task sets; see `TrainConfig` for the meanings."""

    batch: int = MISSING
    patch: int = MISSING
    val_crop: int | None = None
    ema_decay: float = MISSING
    epoch_steps: int = MISSING
    pretrain: StageBudget = field(default_factory=StageBudget)
    joint: StageBudget = field(default_factory=StageBudget)


@dataclass
class ProtocolConfig:
    """How outputs are scored: `border` pixels are left out on each side, LPIPS is optional."""

    border: int = 0
    lpips: bool = True


@dataclass
class TaskConfig:
    """What to learn: the shapes, the degradation, the optimiser, the score, the budget of each scale.

    `in_channels` counts the mask, `scale` is target size over input size.
    """

    name: str = MISSING
    in_channels: int = MISSING
    scale: int = MISSING
    degrade: dict[str, Any] = MISSING
    optimizer: dict[str, Any] = MISSING
    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)
    main_metric: str = MISSING
    scales: dict[str, ScaleConfig] = MISSING


@dataclass
class DatasetConfig:
    """Where the images come from. `source` is a partial that maps a split to its items."""

    name: str = MISSING
    source: dict[str, Any] = MISSING
    cache_mb: int = 2048
    workers: int = 0
    max_val_images: int | None = None


@dataclass
class CpenConfig:
    """`channels` is C' (the IPR has 4C' numbers), `blocks` the number of residual blocks."""

    channels: int = 64
    blocks: int = MISSING


@dataclass
class ModelConfig:
    """Sizes of the networks; see `models.di2iformer.DI2Iformer`."""

    name: str = MISSING
    width: int = MISSING
    blocks: list[int] = MISSING
    refinement: int = MISSING
    expansion: float = 1.0
    projection: str = "pointwise"
    cpen: CpenConfig = field(default_factory=CpenConfig)
    denoiser_layers: int = 4


@dataclass
class DiffusionConfig:
    """See `models.diffusion.PriorDiffusion`. `timesteps` re-spaces the reverse process."""

    steps: int = 4
    beta_1: float = 0.1
    beta_T: float = 0.99
    prediction: str = "x0"
    variance_noise: bool = False
    timesteps: list[int] | None = None


@dataclass
class StageConfig:
    """`pretrain` (stage 1) or `joint` (stage 2).

    `init` is the stage-1 run that stage 2 starts from. `prior` says where stage 2 takes Z from and how it learns
    it: `joint` (the paper's: diffusion, all steps, trained with the DI2Iformer), `none` (no diffusion: CPEN_S2
    gives Z; Table 7, V1), `traditional` (random t, the DI2Iformer stays as it was; Table 7, V2). `prior_only` is
    the fraction of steps that train the prior alone before the DI2Iformer joins.
    """

    name: str = MISSING
    init: str | None = None
    prior: str = "joint"
    prior_loss: str = "l1"
    prior_only: float = 0.0
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)


@dataclass
class TrainConfig:
    """The budget. All counts are optimiser steps at the global batch `batch`.

    `patch` is the side of the target's crops in pixels. Validation sees whole images, or their central `val_crop`
    pixels where a network trained on small crops could not fairly be asked for more. The rate rises linearly over the
    first `warmup` (a fraction of `steps`), then follows `schedule` (constant, cosine, poly) down to `lr * lr_end`. An
    epoch is `epoch_steps` steps: after each a checkpoint is written and every `val_epochs` epochs the validation runs.
    The averaged weights are updated every `ema_every` steps with `ema_decay`.
    """

    steps: int = MISSING
    batch: int = MISSING
    patch: int = MISSING
    val_crop: int | None = None
    lr: float = MISSING
    schedule: str = "cosine"
    warmup: float = 0.05
    lr_end: float = 0.01
    ema_decay: float = MISSING
    ema_every: int = 1
    clip: float | None = 1.0
    epoch_steps: int = MISSING
    val_epochs: int = 1


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
    """`diffi2i train`, and what a run directory keeps as `config.yaml`."""

    task: TaskConfig = field(default_factory=TaskConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    stage: StageConfig = field(default_factory=StageConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    logger: dict[str, Any] | None = None
    scale: str = "demo"
    seed: int = 0
    root: str | None = None
    run_dir: str | None = None


@dataclass
class EvalConfig:
    """`diffi2i eval`: scores a finished run again, on its own validation images or on another dataset."""

    run: str = MISSING
    dataset: DatasetConfig | None = None
    timesteps: list[int] | None = None
    seed: int | None = None
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
