"""The typed schema of the commands that do not train; that of `diffi2i train` is `schema.Config`."""

import re
from dataclasses import dataclass, field, fields
from typing import Any

from diffi2i.config.schema import DatasetConfig, TaskConfig, TrainerConfig, above_zero, one_of
from diffi2i.errors import UserError


@dataclass(kw_only=True)
class EvalConfig:
    """`diffi2i eval`: scores a finished run again, on its own validation images or on another dataset.

    `mask`, of an inpainting run, gives the holes, white, in place of those that it draws. `set` changes settings of the
    run that do not concern its training, as overrides: the method's options, the protocol, the degradation, the crops.
    The record keeps the list. `trust` is that of `schema.Config`, of the run.
    """

    run: str
    dataset: DatasetConfig | None = None
    mask: str | None = None
    set: list[str] = field(default_factory=list)
    root: str | None = None
    output: str | None = None
    trust: list[str] = field(default_factory=list)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)


@dataclass(kw_only=True)
class ImportConfig:
    """`diffi2i import`: another author's checkpoint as a finished run.

    `words` are the source, a module of `methods.imports`, and the file; `overrides` are as of `diffi2i train`.
    """

    words: list[str] = field(default_factory=list)
    run_dir: str
    overrides: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if len(self.words) != 2:
            raise UserError(
                "import needs a source and a file: diffi2i import diffir <file> task=<task> run_dir=<folder>"
            )


@dataclass(kw_only=True)
class PredictConfig:
    """`diffi2i predict`: restores a file, a folder, what a pattern finds, or what a .txt file lists.

    Inpainting also needs `mask`, white = hole, or `mask=alpha`, transparent = hole. `format` is that of the pictures,
    None for the one that `output` is named by, else PNG; labels and depth are PNG. `alpha` is copied, enlarged where
    the picture is, or restored. What is done already is passed over unless `overwrite`. `shard=2/4` does the second of
    four shares. `tile` and `tiling` are those of `restorer.Restorer`, `set` and `trust` eval's.
    """

    run: str
    set: list[str] = field(default_factory=list)
    input: str
    output: str
    mask: str | None = None
    format: str | None = None
    alpha: str = "copy"
    tile: int | None = None
    tiling: str = "exact"
    overwrite: bool = False
    shard: str | None = None
    seed: int = 0
    trust: list[str] = field(default_factory=list)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)

    def __post_init__(self) -> None:
        one_of("format", self.format or "png", ("png", "jpeg", "webp", "tiff"))
        one_of("alpha", self.alpha, ("copy", "restore"))
        one_of("tiling", self.tiling, ("exact", "local"))
        if self.tile is not None and (self.tile < 64 or self.tile % 8):
            raise UserError(f"tile={self.tile} must be a multiple of 8 from 64 on")
        if self.shard is not None:
            match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", self.shard)
            if match is None or not 1 <= int(match[1]) <= int(match[2]):
                raise UserError(f"shard={self.shard}: write <which>/<of how many>, such as 2/4")


@dataclass(kw_only=True)
class AppConfig:
    """`diffi2i app`: a page on which finished runs can be tried, at a free `port` of this machine unless one is named.

    `run` is one or several, as predict's. `share` gives the page a public address, too. `trust` is eval's.
    """

    run: list[str]
    port: int | None = None
    share: bool = False
    trust: list[str] = field(default_factory=list)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)

    def __post_init__(self) -> None:
        if not self.run:
            raise UserError("app needs a run: diffi2i app run=<run directory>")
        above_zero(self, "", ("port",), most=65_535)


@dataclass(kw_only=True)
class ExportConfig:
    """`diffi2i export`: a finished run as a folder to share, a run itself, without the paths of this machine.

    `format` adds the network as one file: onnx or torch_export; `quantise` the ONNX one in int8. `license` is what the
    card says of the weights, by the hub's names. `set` and `trust` are eval's.
    """

    run: str
    output: str
    format: str = "safetensors"
    quantise: bool = False
    license: str = "other"
    set: list[str] = field(default_factory=list)
    trust: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        one_of("format", self.format, ("safetensors", "onnx", "torch_export"))
        if self.quantise and self.format != "onnx":
            raise UserError(f"quantise=true belongs to format=onnx, not {self.format}")


@dataclass(kw_only=True)
class PushConfig:
    """`diffi2i push`: sends an export to the Hugging Face hub, as `repo` <user>/<name>."""

    run: str
    repo: str
    private: bool = False


@dataclass(kw_only=True)
class PullConfig:
    """`diffi2i pull`: fetches `repo`, <user>/<name> or <user>/<name>@<revision>, into the folder `output`.

    demo/<task> is one of the demo's: from the files of a `release`, a folder or an address, or made here by `train`.
    """

    repo: str
    output: str | None = None
    release: str | None = None
    train: bool = False

    def __post_init__(self) -> None:
        if self.train and self.release:
            raise UserError("train=true makes the weights here: leave out release")


@dataclass(kw_only=True)
class BenchConfig:
    """`diffi2i bench`: methods measured side by side, the first one as the reference.

    Each of `cases` is the overrides of a training, after `base` and `overrides`, which are the same for all, or
    `run=<run directory>` with settings as `eval` has in `set`; none: `base` and `overrides` alone. `size` is that of
    the output, `256` or `256x320`. There are `repeats` rounds, in each of which every case is timed once, one of more
    than `limit` seconds on some of its network's calls. `trust` is eval's, of all cases that are runs.
    """

    cases: list[str] = field(default_factory=list)
    base: list[str] = field(default_factory=list)
    size: str = "256"
    repeats: int = 5
    limit: float = 60.0
    output: str = "outputs/bench"
    trust: list[str] = field(default_factory=list)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    overrides: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        above_zero(self, "", ("repeats", "limit"))
        sides = self.size.split("x")
        if len(sides) > 2 or not all(side.isdecimal() and int(side) for side in sides):
            raise UserError(f"size={self.size}: write the output's side, or its height and width: 256 or 256x320")

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of the output."""
        height, _, width = self.size.partition("x")
        return int(height), int(width or height)


CHECK = "check"
PREPARED = {
    "prepare subimages": ("size", "step", "thresh", "scale", "name"),
    "prepare downsample": ("scale", "name"),
    "prepare masks": ("masks", "side", "seed"),
    "prepare meta": (),
}
"""What `diffi2i data` makes of images, and the settings of each; `data.prepare` has their meanings and defaults."""
ACTIONS = {
    CHECK: ("dataset", "root", "output"),
    **{action: ("input", "output", "jobs", "overwrite", *own) for action, own in PREPARED.items()},
}
"""All keys of each."""


@dataclass(kw_only=True)
class CompressConfig:
    """`diffi2i compress`: how shallow a finished run's network, and how few its time steps, may be.

    Outputs on `images` crops that it was trained on (`root`: where they lie now) are compared with its own. The network
    becomes shallower as long as they agree by `threshold` dB PSNR; `steps` time steps, of a short schedule at most so
    many, are spaced so that they agree best. None leaves either out. `gamma_step` is that of the greedy search, for it
    and `bias` see `diffusion.spacing`. `trust` is eval's.
    """

    run: str
    threshold: float | None = 28.0
    steps: int | None = 10
    images: int = 20
    gamma_step: float = 0.1
    bias: float = 0.1
    root: str | None = None
    output: str | None = None
    trust: list[str] = field(default_factory=list)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)

    def __post_init__(self) -> None:
        above_zero(self, "", ("threshold", "steps", "images", "gamma_step"))
        if not 0 <= self.bias < 1:
            raise UserError(f"bias={self.bias} lies in [0, 1): write 0 for curves that end at T")
        if self.threshold is None and self.steps is None:
            raise UserError("threshold and steps are both null: nothing is to be searched, leave out one")


@dataclass(kw_only=True)
class DataConfig:
    """`diffi2i data check`: reads every file of a dataset and writes its manifest; `prepare`: makes files of images.

    `action` are the first words, one of `ACTIONS`. `input` is a file, a folder, what a pattern finds, or what a .txt
    file lists. What is done already is passed over unless `overwrite`. `jobs` processes work, None for as many as are
    worth their start, up to 8.
    """

    action: str = ""
    dataset: DatasetConfig | None = None
    root: str | None = None
    input: str | None = None
    output: str | None = None
    size: int | None = None
    step: int | None = None
    thresh: int | None = None
    scale: int | None = None
    name: str | None = None
    masks: list[str] | None = None
    side: int | None = None
    seed: int | None = None
    jobs: int | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.action not in ACTIONS:
            whats = ", ".join(action.partition(" ")[2] for action in PREPARED)
            raise UserError(
                "data needs its action: write diffi2i data check dataset=<name> root=<folder>, or diffi2i data prepare "
                f"<what> input=<folder> output=<folder>, with one of {whats}"
            )
        for each in fields(self):
            if each.name not in ("action", *ACTIONS[self.action]) and getattr(self, each.name) != each.default:
                of = " and ".join(f"data {action}" for action, keys in ACTIONS.items() if each.name in keys)
                raise UserError(f"{each.name} belongs to {of}, not to data {self.action}: leave it out")
        for key in ("dataset",) if self.action == CHECK else ("input", "output"):
            if getattr(self, key) is None:
                place = "name" if key == "dataset" else "folder"
                raise UserError(f"{key} is missing: write diffi2i data {self.action} {key}=<{place}>")
        above_zero(self, "", ("size", "step", "scale", "jobs"), most=65_536)

    @property
    def settings(self) -> dict[str, Any]:
        """Those of the preparation that are written."""
        own = {key: getattr(self, key) for key in PREPARED[self.action]}
        return {key: value for key, value in own.items() if value is not None}


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
    time, or all by a Hydra `launcher`. `roots` are the folders of test sets, `imports` checkpoints of other authors by
    table and row, `overrides` go to every training.
    """

    names: list[str] = field(default_factory=list)
    budget: str = "demo"
    seeds: int | None = None
    jobs: int = 1
    launcher: str | None = None
    roots: dict[str, str] = field(default_factory=dict)
    imports: dict[str, dict[str, str]] = field(default_factory=dict)
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
