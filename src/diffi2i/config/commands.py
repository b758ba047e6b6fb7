"""The typed schema of the commands that do not train; that of `diffi2i train` is `schema.Config`."""

from dataclasses import dataclass, field

from diffi2i.config.schema import Config, DatasetConfig, TaskConfig, TrainerConfig, above_zero
from diffi2i.errors import UserError


@dataclass(kw_only=True)
class EvalConfig:
    """`diffi2i eval`: scores a finished run again, on its own validation images or on another dataset.

    `set` changes settings of the run that do not concern its training, as overrides: the method's options, the
    protocol, the degradation, the crops. The record keeps the list.
    """

    run: str
    dataset: DatasetConfig | None = None
    set: list[str] = field(default_factory=list)
    root: str | None = None
    output: str | None = None
    trainer: TrainerConfig = field(default_factory=TrainerConfig)


@dataclass(kw_only=True)
class PredictConfig:
    """`diffi2i predict`: restores a file or a folder. Inpainting also needs `mask`, white = hole."""

    run: str
    input: str
    output: str
    mask: str | None = None
    seed: int = 0
    trainer: TrainerConfig = field(default_factory=TrainerConfig)


@dataclass(kw_only=True)
class BenchConfig(Config):
    """`diffi2i bench`: `Config`'s network measured at a `size` x `size` output, median of `repeats` calls."""

    size: int = 256
    repeats: int = 5

    def __post_init__(self) -> None:
        if self.size % self.task.scale or self.size <= 0 or self.repeats <= 0:
            raise UserError(f"size={self.size} must be a multiple of {self.task.scale}, repeats={self.repeats} above 0")


@dataclass(kw_only=True)
class DataConfig:
    """`diffi2i data check`: reads every file of a dataset and writes its manifest. `action` is its first word."""

    action: str = ""
    dataset: DatasetConfig
    root: str | None = None
    output: str | None = None

    def __post_init__(self) -> None:
        if self.action != "check":
            raise UserError("data needs its action: write diffi2i data check dataset=<name> root=<folder>")


@dataclass(kw_only=True)
class ScoreConfig:
    """`diffi2i score`: any method's outputs against their targets, by the task's metrics and protocol.

    `pred` and `target` are folders, paired by file stem, as are `mask` (inpainting, white = hole) and `input` (images,
    for the baseline). Of `dataset` only the rule counts by which `target` holds classes or depth.
    """

    task: TaskConfig
    dataset: DatasetConfig | None = None
    pred: str
    target: str
    mask: str | None = None
    input: str | None = None
    output: str | None = None
    trainer: TrainerConfig = field(default_factory=TrainerConfig)


@dataclass(kw_only=True)
class TableConfig:
    """`diffi2i table`: finished runs side by side, or the paper's tables and figures, what they lack run first.

    `names` are run directories, or names of experiments. `seeds` runs of each row, None for 3, at smoke 1; `jobs` at a
    time, or all by a Hydra `launcher`. `roots` are the folders of test sets, `overrides` go to every training.
    """

    names: list[str] = field(default_factory=list)
    budget: str = "demo"
    seeds: int | None = None
    jobs: int = 1
    launcher: str | None = None
    roots: dict[str, str] = field(default_factory=dict)
    overrides: list[str] = field(default_factory=list)
    dry_run: bool = False

    def __post_init__(self) -> None:
        if not self.names:
            raise UserError("table needs run directories or experiments: diffi2i table <run> <run> ..., or table7")
        above_zero(self, "", ("seeds", "jobs"))


@dataclass(kw_only=True)
class CompareConfig:
    """`diffi2i compare`: two `runs`, each a run, the folder of an evaluation or a JSON of `diffi2i score`."""

    runs: list[str] = field(default_factory=list)
    output: str | None = None

    def __post_init__(self) -> None:
        if len(self.runs) != 2:
            raise UserError("compare needs two runs: diffi2i compare <run> <run> [output=<file>.json]")


@dataclass(kw_only=True)
class ReportConfig:
    """`diffi2i report`: all tables, figures and pictures of a budget as one HTML file."""

    budget: str = "demo"
    output: str = "outputs/report.html"

    def __post_init__(self) -> None:
        if not self.output.endswith(".html"):
            raise UserError(f"output={self.output}: write a file name that ends in .html")


@dataclass(kw_only=True)
class DashboardConfig:
    """`diffi2i dashboard`: the W&B project, who owns it (None: the key's owner), and the folder for the files."""

    project: str = "diffi2i"
    entity: str | None = None
    output: str = "outputs/dashboard"
