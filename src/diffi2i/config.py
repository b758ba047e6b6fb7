"""From Hydra overrides to a checked configuration.

Hydra composes `conf/`; `load` turns the composition into the dataclasses of `schema.py`, or raises `UserError` with one
line that says what to write instead. Nothing heavy is imported here.
"""

import difflib
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffi2i.errors import UserError
from diffi2i.schema import BenchConfig, Config, DatasetConfig, DiffusionConfig, EvalConfig, ModelConfig, PredictConfig


def conf_dir() -> Path:
    """The folder of Hydra configurations: `conf/` of the checkout, or its copy inside the installed package."""
    package = Path(__file__).parent
    checkout = package.parent.parent / "conf"
    return checkout if (checkout / "train.yaml").is_file() else package / "conf"


T = TypeVar("T")

CHOICES = {
    "stage.name": ("pretrain", "joint"),
    "stage.prior": ("joint", "none", "traditional"),
    "stage.prior_loss": ("l1", "l2", "kl"),
    "stage.diffusion.prediction": ("eps", "x0"),
    "model.projection": ("depthwise", "pointwise"),
    "train.schedule": ("constant", "cosine", "poly"),
    "trainer.precision": ("auto", "fp32", "bf16"),
    "trainer.accelerator": ("auto", "cpu", "gpu", "mps"),
}

POSITIVE = (
    "train.steps",
    "train.batch",
    "train.patch",
    "train.val_crop",
    "train.lr",
    "train.epoch_steps",
    "train.val_epochs",
    "train.ema_every",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.device_batch",
    "trainer.threads",
    "stage.diffusion.steps",
    "model.width",
    "model.expansion",
    "model.cpen.channels",
    "dataset.max_val_images",
)


def load(schema: type[T], name: str, overrides: Sequence[str]) -> T:
    """Composes `conf/<name>.yaml` with Hydra `overrides` into a checked `schema`.

    Raises:
        UserError: one line, for anything that cannot be: syntax, unknown key, wrong type, impossible values.
    """
    register_schemas()
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            composed = compose(name, overrides=list(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error, name)) from error
    return typed(schema, composed)


def typed(schema: type[T], composed: DictConfig) -> T:
    """Turns a composed configuration into a checked `schema`; see `load`."""
    scale, scales = composed.get("scale"), OmegaConf.select(composed, "task.scales")
    if scales is not None and scale not in scales:
        raise UserError(f"scale={scale}: choose one of {', '.join(scales)}")
    try:
        # As a plain container, since a key added with `+` would slip through between typed nodes.
        plain = OmegaConf.to_container(composed, resolve=False)
        config: T = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), plain))  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        raise UserError(explain(error, "")) from error
    check(config)
    return config


def register_schemas() -> None:
    """Makes the dataclasses the base of each root file, so that every key exists and has its type."""
    for name, schema in SCHEMAS.items():
        ConfigStore.instance().store(f"{name}_schema", schema)


def explain(error: BaseException, name: str) -> str:
    """One line for an error of Hydra or OmegaConf: the key, what is wrong, what to write."""
    if isinstance(error, OverrideParseException):
        return f"cannot read '{error.override}': write key=value (quote values with brackets or spaces for the shell)"
    if isinstance(error, ConfigCompositionException) and isinstance(error.__cause__, OmegaConfBaseException):
        error = error.__cause__
    lines = (str(error).strip() or str(error.__cause__) or type(error).__name__).splitlines()
    first = lines[0].rstrip(".")
    cause = str(error.__cause__ or "").splitlines()
    key = getattr(error, "full_key", None) or ""
    if match := re.search(r"Could not override '([^']+)'", first):
        return unknown_key(match.group(1), name)
    if match := re.search(r"Key '([^']+)' (?:is )?not in", first):
        return unknown_key(key or match.group(1), name or "train")
    if match := re.search(r"Could not find '([^']+)'", first):
        group, _, choice = match.group(1).rpartition("/")
        options = sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))
        if options:
            return f"{group}={choice} is unknown: write {group}= one of {', '.join(options)}"
    if "missing mandatory value" in first.lower():
        missing = key or first.split(":")[-1].strip()
        return f"{missing} is missing: write {missing}=<value>"
    if key:
        return f"{key}: {first[0].lower()}{first[1:]}"
    return f"{first} ({cause[0]})" if cause and cause[0] not in first else first


def unknown_key(key: str, name: str) -> str:
    """The line for a key that no schema has, with the nearest one that exists."""
    known = known_keys(SCHEMAS.get(name, Config))
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    near = near or [other for other in known if other.rpartition(".")[2] == key.rpartition(".")[2]][:1]
    return f"unknown key '{key}'" + (f": did you mean '{near[0]}'?" if near else "")


def known_keys(schema: type) -> list[str]:
    """All dotted keys of a schema."""

    def walk(node: Any, prefix: str) -> list[str]:
        keys = []
        for name in node:
            child = OmegaConf.to_container(node)[name] if OmegaConf.is_missing(node, name) else node[name]  # type: ignore[index]
            keys.append(prefix + name)
            if isinstance(child, DictConfig):
                keys += walk(child, f"{prefix}{name}.")
        return keys

    return walk(OmegaConf.structured(schema), "")


SCHEMAS: dict[str, type] = {
    "train": Config,
    "eval": EvalConfig,
    "predict": PredictConfig,
    "bench": BenchConfig,
}


def select(config: Any, key: str) -> Any:
    """The value at a dotted key of nested dataclasses, None where a part is absent."""
    for part in key.split("."):
        config = getattr(config, part, None)
    return config


def check(config: Any) -> None:
    """Refuses values and combinations that cannot be.

    Raises:
        UserError: one line that says what to write.
    """
    for key, choices in CHOICES.items():
        value = select(config, key)
        if value is not None and value not in choices:
            raise UserError(f"{key}={value}: choose one of {', '.join(choices)}")
    for key in POSITIVE:
        value = select(config, key)
        if value is not None and value <= 0:
            raise UserError(f"{key}={value} must be above 0")
    if getattr(config, "model", None) is not None:
        check_model(config.model)
    if getattr(config, "stage", None) is not None:
        check_diffusion(config.stage.diffusion)
    if isinstance(config, BenchConfig):
        if config.size % config.task.scale or config.size <= 0 or config.repeats <= 0:
            raise UserError(
                f"size={config.size} must be a multiple of {config.task.scale}, repeats={config.repeats} above 0"
            )
    elif isinstance(config, Config):
        check_train(config)


def check_model(model: ModelConfig) -> None:
    if len(model.blocks) != 4 or min(model.blocks) < 0:
        raise UserError(f"model.blocks={model.blocks} must give four counts, one per level: [2,1,1,1]")
    if model.width % 2:
        raise UserError(f"model.width={model.width} must be even: each level's down-sampling halves it first")
    if model.projection == "depthwise" and model.expansion != 1:
        raise UserError(
            f"model.expansion={model.expansion} needs model.projection=pointwise: "
            "a depth-wise output projection keeps its width"
        )
    for key in ("refinement", "denoiser_layers"):
        if getattr(model, key) < 0:
            raise UserError(f"model.{key}={getattr(model, key)} must not be negative")


def check_diffusion(diffusion: DiffusionConfig) -> None:
    if not 0 < diffusion.beta_1 <= diffusion.beta_T < 1:
        raise UserError(
            f"stage.diffusion needs 0 < beta_1 <= beta_T < 1, got {diffusion.beta_1} and {diffusion.beta_T}"
        )
    if diffusion.timesteps is not None:
        steps = diffusion.timesteps
        if not steps or steps != sorted(set(steps)) or steps[0] < 1 or steps[-1] != diffusion.steps:
            raise UserError(f"timesteps={steps} must increase within 1..{diffusion.steps} and end at {diffusion.steps}")


def check_train(config: Config) -> None:
    train, trainer, task = config.train, config.trainer, config.task
    world = trainer.devices * trainer.num_nodes
    share = trainer.device_batch or -(-train.batch // world)
    if train.batch % (world * share):
        raise UserError(
            f"train.batch={train.batch} is not a multiple of devices x nodes x device_batch = {world * share}: "
            f"write train.batch={-(-train.batch // (world * share)) * world * share}"
        )
    if task.protocol.border < 0:
        raise UserError(f"task.protocol.border={task.protocol.border} must be 0 or more pixels")
    if train.patch % task.scale:
        raise UserError(
            f"train.patch={train.patch} must be a multiple of the task's scale: "
            f"write train.patch={-(-train.patch // task.scale) * task.scale}"
        )
    if not 0 <= train.warmup < 1 or not 0 <= train.lr_end <= 1 or not 0 <= train.ema_decay < 1:
        raise UserError("train.warmup and train.ema_decay lie in [0, 1), train.lr_end in [0, 1]")
    if config.stage.prior_only and trainer.strategy == "ddp":
        raise UserError("stage.prior_only rests some weights: write trainer.strategy=ddp_find_unused_parameters_true")
    if not 0 <= config.stage.prior_only < 1:
        raise UserError(f"stage.prior_only={config.stage.prior_only} is a fraction of the steps in [0, 1)")
    check_source(config.dataset)
    if config.run_dir is not None and Path(config.run_dir).is_file():
        raise UserError(f"run_dir={config.run_dir} is a file: name a folder")
    check_init(config)


def check_source(dataset: DatasetConfig) -> None:
    """The folders a dataset names exist."""
    for key in ("root", "val_root"):
        if key not in dataset.source:
            continue
        path = dataset.source[key]
        if path is None and key == "root" and dataset.source.get("val_root") is None:
            raise UserError(f"dataset={dataset.name} needs its folder: write root=<folder>")
        if path is not None and not Path(path).is_dir():
            raise UserError(f"{'' if key == 'root' else 'dataset.source.'}{key}={path} is not a folder")


def check_init(config: Config) -> None:
    """Stage 2 needs the weights of a finished stage 1 of the same task and model."""
    init = config.stage.init
    if config.stage.name == "pretrain":
        if init is not None:
            raise UserError("stage=pretrain starts from nothing: leave out stage.init, or write stage=joint")
        return
    if init is None:
        raise UserError("stage=joint needs stage-1 weights: write stage.init=<run directory of stage=pretrain>")
    saved_file = Path(init) / "config.yaml"
    if not saved_file.is_file():
        raise UserError(f"stage.init={init} is no run directory: it has no config.yaml")
    if not (Path(init) / "result.json").is_file():
        raise UserError(f"stage.init={init} is unfinished: run its `diffi2i train ... run_dir={init}` again first")
    saved = read_run_config(Path(init))
    if saved.stage.name != "pretrain":
        raise UserError(f"stage.init={init} is a stage={saved.stage.name} run: name one of stage=pretrain")
    if saved.task.name != config.task.name:
        raise UserError(f"stage.init={init} was trained for task={saved.task.name}: write task={saved.task.name}")
    ours, theirs = asdict(config.model), asdict(saved.model)
    for key in ours:
        # The denoiser belongs to stage 2 alone.
        if key not in ("name", "denoiser_layers") and ours[key] != theirs[key]:
            raise UserError(
                f"stage.init={init} has model.{key}={theirs[key]}, this run {ours[key]}: write model={saved.model.name}"
            )


def read_run_config(run_dir: Path) -> Config:
    """The configuration a run directory was trained with.

    Raises:
        UserError: no such file, or not one of this version's.
    """
    file = run_dir / "config.yaml"
    if not file.is_file():
        raise UserError(f"{run_dir} is no run directory: it has no config.yaml")
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.load(file))
        config: Config = OmegaConf.to_object(merged)  # type: ignore[assignment]
    except (OmegaConfBaseException, ValueError) as error:
        raise UserError(f"{file} does not fit this version: {explain(error, 'train')}") from error
    return config


def sweep(overrides: Sequence[str]) -> list[list[str]]:
    """The combinations that Hydra's basic sweeper will run for these overrides, to check them before any starts."""
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise UserError(explain(error, "train")) from error
    combinations: list[list[str]] = [[]]
    for override in parsed:
        if override.is_sweep_override():
            values = [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
        else:
            values = [override.input_line or ""]
        combinations = [[*head, value] for head in combinations for value in values]
    return combinations
