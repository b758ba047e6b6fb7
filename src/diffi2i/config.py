"""From Hydra overrides to a checked configuration.

Hydra composes `conf/`; `load` turns the composition into the dataclasses of `schema.py`, or raises `UserError` with one
line that says what to write instead. Nothing heavy is imported here.
"""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException, OverrideParseException
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffi2i.errors import UserError
from diffi2i.metrics.spec import of_kind
from diffi2i.schema import (
    BenchConfig,
    Config,
    DataConfig,
    DatasetConfig,
    EvalConfig,
    ModelConfig,
    PredictConfig,
    SceneConfig,
    ScoreConfig,
    TaskConfig,
    TrainConfig,
)


def conf_dir() -> Path:
    """The folder of Hydra configurations: `conf/` of the checkout, or its copy inside the installed package."""
    package = Path(__file__).parent
    checkout = package.parent.parent / "conf"
    return checkout if (checkout / "train.yaml").is_file() else package / "conf"


T = TypeVar("T")

CHOICES = {
    "task.kind": ("image", "labels", "depth"),
    "task.fill": ("black", "smooth"),
    "task.protocol.crop": ("eigen",),
    "dataset.augment": ("flips_and_turns", "flips", "none"),
    "dataset.on_error": ("error", "skip"),
    "train.schedule": ("constant", "cosine", "poly", "multistep"),
    "trainer.precision": ("auto", "fp32", "bf16"),
    "trainer.accelerator": ("auto", "cpu", "gpu", "mps"),
}

POSITIVE = (
    "train.steps",
    "train.batch",
    "train.patch",
    "train.val_crop",
    "train.val_crops",
    "train.lr",
    "train.gamma",
    "train.head_lr",
    "train.clip",
    "train.epoch_steps",
    "validation.every_epochs",
    "train.ema_every",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.device_batch",
    "trainer.threads",
    "task.scenes.aspect",
    "task.scenes.input_scale",
    "task.scenes.short_side",
    "model.cpen.channels",
    "dataset.max_val_images",
    "validation.max_images",
)


def load(schema: type[T], name: str, overrides: Sequence[str]) -> T:
    """Composes `conf/<name>.yaml` with Hydra `overrides` into a checked `schema`.

    What a method's own options may be, and which run it may start from, its class checks: `methods.build.check`.

    Raises:
        UserError: one line, for anything that cannot be: syntax, unknown key, wrong type, impossible values.
    """
    return typed(schema, composed(name, overrides))


def composed(name: str, overrides: Sequence[str]) -> DictConfig:
    """What Hydra makes of `conf/<name>.yaml` and the overrides, with the model that the budget names. See `load`."""
    overrides = [quoted_settings(override) for override in overrides]
    found = composition(name, overrides)
    model = budget_model(name, overrides, found)
    return composition(name, [*overrides, *model]) if model else found


def quoted_settings(override: str) -> str:
    """`set=[a=1,b=[2,3]]` with quotes around each entry: Hydra's grammar has no `=` inside a list."""
    if not override.startswith("set=[") or not override.endswith("]"):
        return override
    entries, depth, quote = [""], 0, ""
    for letter in override.removeprefix("set=[")[:-1]:
        if quote or letter in "\"'":
            quote = "" if letter == quote else quote or letter
        depth += 0 if quote else (letter in "[{(") - (letter in "]})")
        if letter == "," and not depth and not quote:
            entries.append("")
        else:
            entries[-1] += letter
    bare = [entry.strip() for entry in entries if entry.strip()]
    escaped = [entry if entry[0] in "\"'" else "'" + entry.replace("'", "\\'") + "'" for entry in bare]
    return f"set=[{','.join(escaped)}]"


def composition(name: str, overrides: Sequence[str]) -> DictConfig:
    """What Hydra makes of `conf/<name>.yaml` and the overrides. Raises `UserError` in one line."""
    register_schemas()
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return compose(name, overrides=list(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error, name)) from error


def budget_model(name: str, overrides: Sequence[str], composed: DictConfig) -> list[str]:
    """The override for the model that the task's budget names; empty where the command line names one, or none does."""
    if name not in ("train", "bench") or any(override.startswith("model=") for override in overrides):
        return []
    budgets: Any = OmegaConf.to_container(composed.task.budgets, resolve=False)
    model = budgets.get(composed.budget, {}).get("model")
    return [f"model={model}"] if model else []


def typed(schema: type[T], composed: DictConfig) -> T:
    """Turns a composed configuration into a checked `schema`; see `load`."""
    budget, budgets = composed.get("budget"), OmegaConf.select(composed, "task.budgets")
    if budget is not None and budgets is not None and budget not in budgets:
        raise UserError(f"budget={budget}: choose one of {', '.join(budgets)}")
    if budgets is not None and "method" in composed:
        check_role(composed.method.role, budgets[budget], composed.task.name, budget)
    try:
        # As a plain container, since a key added with `+` would slip through between typed nodes.
        plain: Any = OmegaConf.to_container(composed, resolve=False)
        if issubclass(schema, Config):
            # Before `${dataset.target.classes}` is looked up in a dataset without.
            task, dataset = plain["task"], plain["dataset"]
            check_held(task["kind"], task["name"], held_kind(dataset["target"]), dataset["name"])
        if issubclass(schema, ScoreConfig):
            keep_for_scoring(plain["task"], plain["dataset"])
        config: T = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), plain))  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        raise UserError(explain(error, "")) from error
    check(config)
    return config


ROLES = ("fresh", "continued", "adversarial")


def check_role(role: str, budget: DictConfig, task: str, name: str) -> None:
    """The budget has the role."""
    if role not in ROLES:
        raise UserError(f"method.role={role}: choose one of {', '.join(ROLES)}")
    if not budget.get(role):
        raise UserError(f"method.role={role}: task={task} has none at budget={name}")


def keep_for_scoring(task: dict[str, Any], dataset: dict[str, Any] | None) -> None:
    """Leaves out what refers to keys that scoring has not; the classes come from the dataset, or are written.

    Raises:
        UserError: a dataset that does not hold what the task predicts, or no number of classes.
    """
    task["optimizer"] = task["scenes"] = {}
    if dataset is not None:
        check_held(task["kind"], task["name"], held_kind(dataset["target"]), dataset["name"])
        dataset["source"] = {}
        held = (dataset["target"] or {}).get("classes")
        if isinstance(task["classes"], int) and task["classes"] != held:
            raise UserError(
                f"dataset={dataset['name']} has {held} classes, not {task['classes']}: leave out one of them"
            )
    elif task["kind"] == "labels" and not isinstance(task["classes"], int):
        raise UserError(f"task={task['name']} needs its classes: write dataset=<name> or task.classes=<number>")


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
    if re.match(r"(train\.|task\.)?degrade\.", key):  # its keys are its class's arguments, which no schema knows
        return f"unknown key '{key}': to add it, write a plus sign before it, +{key.removesuffix('._target_')}=..."
    known = known_keys(SCHEMAS.get(name, Config))
    if key.startswith("method."):
        options = {path.stem: keys_of_method(path) for path in sorted((conf_dir() / "method").glob("*.yaml"))}
        if having := [method for method, keys in options.items() if key in keys]:
            return f"'{key}' is an option of method={' and '.join(having)}, not of this one: leave it out"
        known += [key for keys in options.values() for key in keys]
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    near = near or [other for other in known if other.rpartition(".")[2] == key.rpartition(".")[2]][:1]
    return f"unknown key '{key}'" + (f": did you mean '{near[0]}'?" if near else "")


def keys_of_method(file: Path) -> list[str]:
    """All dotted keys of a method's file."""

    def walk(node: Any, prefix: str) -> list[str]:
        keys = []
        for name, child in node.items():
            keys += [f"{prefix}{name}", *(walk(child, f"{prefix}{name}.") if isinstance(child, dict) else [])]
        return keys

    return walk(OmegaConf.to_container(OmegaConf.load(file)), "method.")


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
    "data": DataConfig,
    "score": ScoreConfig,
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
    check_values(config)
    if isinstance(config, DataConfig):
        check_source(config.dataset)
    if isinstance(config, ScoreConfig):
        check_protocol(config.task)
    if getattr(config, "model", None) is not None:
        check_model(config.model)
    if isinstance(config, BenchConfig):
        if config.size % config.task.scale or config.size <= 0 or config.repeats <= 0:
            raise UserError(
                f"size={config.size} must be a multiple of {config.task.scale}, repeats={config.repeats} above 0"
            )
    elif isinstance(config, Config):
        check_train(config)


def check_values(config: Any) -> None:
    """As `check`, each value by itself."""
    for key, choices in CHOICES.items():
        value = select(config, key)
        if value is not None and value not in choices:
            raise UserError(f"{key}={value}: choose one of {', '.join(choices)}")
    for key in POSITIVE:
        value = select(config, key)
        if value is not None and value <= 0:
            raise UserError(f"{key}={value} must be above 0")


def check_model(model: ModelConfig) -> None:
    if model.denoiser_layers < 0:
        raise UserError(f"model.denoiser_layers={model.denoiser_layers} must not be negative")
    network = model.network
    drop_path = (network.get("encoder") or {}).get("drop_path", 0.0)
    if not isinstance(drop_path, (int, float)) or not 0 <= drop_path < 1:
        raise UserError(f"model.network.encoder.drop_path={drop_path} is a probability in [0, 1): write 0.1")
    if not network["_target_"].endswith(".DI2Iformer"):
        return
    width, blocks, expansion = network["width"], network["blocks"], network["expansion"]
    for key, kind in (("width", int), ("expansion", (int, float)), ("refinement", int)):
        if not isinstance(network[key], kind) or isinstance(network[key], bool):
            raise UserError(f"model.network.{key}={network[key]} must be a number")
    if network["projection"] not in ("depthwise", "pointwise"):
        raise UserError(f"model.network.projection={network['projection']}: choose one of depthwise, pointwise")
    if len(blocks) != 4 or not all(isinstance(count, int) and count >= 0 for count in blocks):
        raise UserError(f"model.network.blocks={blocks} must give four counts, one per level: [2,1,1,1]")
    if width <= 0 or width % 2:
        raise UserError(f"model.network.width={width} must be even and above 0: each level's down-sampling halves it")
    if network["projection"] == "depthwise" and expansion != 1:
        raise UserError(
            f"model.network.expansion={expansion} needs model.network.projection=pointwise: "
            "a depth-wise output projection keeps its width"
        )
    if expansion <= 0 or network["refinement"] < 0:
        raise UserError("model.network.expansion must be above 0 and model.network.refinement not negative")


def check_train(config: Config) -> None:
    train, trainer, task = config.train, config.trainer, config.task
    if train.val_crops > 1 and train.val_crop is None:
        raise UserError(f"train.val_crops={train.val_crops} needs the crops' side: write train.val_crop=<pixels>")
    world = trainer.devices * trainer.num_nodes
    share = trainer.device_batch or -(-train.batch // world)
    if train.batch % (world * share):
        raise UserError(
            f"train.batch={train.batch} is not a multiple of devices x nodes x device_batch = {world * share}: "
            f"write train.batch={-(-train.batch // (world * share)) * world * share}"
        )
    if train.patch % task.scale:
        raise UserError(
            f"train.patch={train.patch} must be a multiple of the task's scale: "
            f"write train.patch={-(-train.patch // task.scale) * task.scale}"
        )
    if not 0 <= train.warmup < 1 or not 0 <= train.lr_end <= 1 or not 0 <= train.ema_decay < 1:
        raise UserError("train.warmup and train.ema_decay lie in [0, 1), train.lr_end in [0, 1]")
    if train.ema_decay == 0 and train.ema_every != 1:
        raise UserError(
            f"train.ema_decay=0 keeps no average, only the weights of every {train.ema_every} steps: "
            "write train.ema_every=1"
        )
    if not 0 <= train.adversarial_from <= 1:
        raise UserError(f"train.adversarial_from={train.adversarial_from} is a fraction of the steps in [0, 1]")
    if train.loss not in task.losses:
        raise UserError(f"train.loss={train.loss}: choose one of {', '.join(task.losses)}")
    check_schedule(train)
    if train.head_lr != 1 and task.kind == "image":
        raise UserError(f"train.head_lr={train.head_lr} belongs to labels and depth: write train.head_lr=1")
    check_phases(config)
    check_protocol(task)
    check_data(config)
    check_source(config.dataset)
    if config.run_dir is not None and Path(config.run_dir).is_file():
        raise UserError(f"run_dir={config.run_dir} is a file: name a folder")


def check_schedule(train: TrainConfig) -> None:
    """Milestones rise within the run, and stand where the schedule that has them does."""
    milestones = train.milestones
    if train.schedule == "multistep" and not milestones:
        raise UserError(
            "train.schedule=multistep needs its steps: write train.milestones=[0.5,0.7], fractions of the run"
        )
    if train.schedule != "multistep" and milestones:
        raise UserError(
            f"train.milestones={milestones} belong to train.schedule=multistep, not to {train.schedule}: "
            "write train.milestones=[] too"
        )
    if milestones != sorted(set(milestones)) or not all(train.warmup <= milestone < 1 for milestone in milestones):
        raise UserError(
            f"train.milestones={milestones} must rise within [train.warmup={train.warmup}, 1), as fractions of "
            f"train.steps={train.steps}: [0.5,0.7]"
        )
    if train.gamma > 1:
        raise UserError(f"train.gamma={train.gamma} multiplies the rate at a milestone: write 1 or less, say 0.5")


def check_phases(config: Config) -> None:
    """Later phases follow each other, and fit the crops' grid and the number of batches per optimiser step."""
    train, trainer, task = config.train, config.trainer, config.task
    world = trainer.devices * trainer.num_nodes
    batches = train.batch // (trainer.device_batch or train.batch // world)
    before = 0
    for phase in train.phases:
        if phase.step <= before or phase.patch <= 0 or phase.patch % task.scale or phase.batch <= 0:
            raise UserError(
                f"train.phases: step {phase.step}, patch {phase.patch}, batch {phase.batch}: steps must rise from 1, "
                f"patches be multiples of {task.scale}, batches be above 0"
            )
        if phase.batch % batches:
            raise UserError(
                f"train.phases: batch {phase.batch} at step {phase.step} is not a multiple of the {batches} batches "
                "that make up an optimiser step: use fewer devices, or a larger trainer.device_batch"
            )
        before = phase.step


def check_protocol(task: TaskConfig) -> None:
    protocol = task.protocol
    if protocol.border < 0:
        raise UserError(f"task.protocol.border={protocol.border} must be 0 or more pixels")
    if not 0 < protocol.min_depth < protocol.max_depth:
        raise UserError("task.protocol needs 0 < min_depth < max_depth, in metres")
    if not protocol.sizes or min(protocol.sizes) <= 0:
        raise UserError(f"task.protocol.sizes={protocol.sizes} must be factors above 0: [1.0]")
    if task.kind == "image" and (protocol.flip or protocol.sizes != [1.0]):
        raise UserError(f"flip and sizes belong to labels and depth, not to task={task.name}: leave them out")
    check_metrics(task)


def check_metrics(task: TaskConfig) -> None:
    """An image task lists scores that exist, its main one among them; labels and depth have no list."""
    metrics, known = task.protocol.metrics, of_kind(task.kind)
    if task.kind != "image":
        if metrics:
            raise UserError(f"task.protocol.metrics belongs to images: task={task.name} has fixed scores, leave it out")
        if task.main_metric not in known:
            raise UserError(f"task.main_metric={task.main_metric}: choose one of {', '.join(known)}")
        return
    if not metrics:
        raise UserError(f"task.protocol.metrics=[] scores nothing: write some of {','.join(known)}")
    for metric in metrics:
        if metric not in known:
            raise UserError(f"task.protocol.metrics={metric}: choose from {', '.join(known)}")
        if metrics.count(metric) > 1:
            raise UserError(f"task.protocol.metrics names {metric} {metrics.count(metric)} times: write it once")
    if task.main_metric not in metrics:
        raise UserError(
            f"task.main_metric={task.main_metric} is not in task.protocol.metrics: choose one of {', '.join(metrics)}, "
            "or write it into that list too"
        )


DENSE_DATASETS = {"labels": "shapes, camvid or ade20k", "depth": "motorcycle, sevenscenes or nyu"}


def held_kind(target: dict[str, Any] | None) -> str:
    """What a dataset with this `target` holds: `image`, `labels` or `depth`."""
    return "image" if target is None else str(target["_target_"]).rpartition(".")[2].lower()


def check_held(kind: str, task: str, held: str, dataset: str) -> None:
    """The dataset holds what the task predicts."""
    if held != kind:
        fitting = DENSE_DATASETS.get(kind, "photos, folder, pairs, df2k, gopro, ...")
        raise UserError(f"dataset={dataset} holds no {kind} for task={task}: write dataset= one of {fitting}")


NETWORK_KINDS = {"DI2Iformer": "image", "Segmenter": "labels", "Depther": "depth"}


def check_data(config: Config) -> None:
    """The network predicts what the task asks for, from what the task makes of the photos."""
    kind = config.task.kind
    predicted = NETWORK_KINDS.get(str(config.model.network["_target_"]).rpartition(".")[2], kind)
    if predicted != kind:
        raise UserError(
            f"model={config.model.name} predicts {predicted}, task={config.task.name} {kind}: leave out model, or name "
            f"one whose network is a {next(name for name in NETWORK_KINDS if NETWORK_KINDS[name] == kind)}"
        )
    if kind == "image" and config.task.degrade is None:
        raise UserError(f"task={config.task.name} needs task.degrade, which makes its input")
    if kind != "image" and config.train.degrade:
        raise UserError(f"train.degrade belongs to images, not to task={config.task.name}: write train.degrade=null")
    if config.train.degrade and "_target_" not in config.train.degrade:
        raise UserError(
            "train.degrade names no degradation: write '+train.degrade={_target_: diffi2i.data.degrade.Inpaint, ...}', "
            "or train.degrade=null for task.degrade's"
        )
    if kind != "image" and config.dataset.augment != "flips_and_turns":
        raise UserError(f"dataset.augment belongs to images, not to task={config.task.name}: leave it out")
    check_scenes(config.task.scenes)
    box = config.dataset.train_box
    if box is not None and kind == "image":
        raise UserError(f"dataset.train_box belongs to labels and depth, not to task={config.task.name}: leave it out")
    if box is not None and (len(box) != 4 or not (0 <= box[0] < box[1] and 0 <= box[2] < box[3])):
        raise UserError(f"dataset.train_box={box} must be rows and columns [top,bottom,left,right]: [45,472,43,608]")


def check_scenes(scenes: SceneConfig) -> None:
    """The size at which the network sees a scene is said in one way."""
    low_high, short, long = scenes.zoom, scenes.short_side, scenes.long_side
    if len(low_high) != 2 or not 0 < low_high[0] <= low_high[1]:
        raise UserError(f"task.scenes.zoom={low_high} must be the smallest and the largest zoom: [0.5,2.0]")
    if short is not None and scenes.input_scale != 1:
        raise UserError(
            f"task.scenes has both short_side={short} and input_scale={scenes.input_scale}: "
            "write task.scenes.input_scale=1 or task.scenes.short_side=null task.scenes.long_side=null"
        )
    if long is not None and short is None:
        raise UserError(
            f"task.scenes.long_side={long} bounds a short_side: write task.scenes.short_side={long // 4} too"
        )
    if long is not None and short is not None and long < short:
        raise UserError(f"task.scenes.long_side={long} is below short_side={short}: write {4 * short}, or null")
    if not 0 <= scenes.rotate <= 45:
        raise UserError(f"task.scenes.rotate={scenes.rotate} is an angle in degrees from 0 to 45: write 2.5")


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


METHOD_KEYS = ("_target_", "name", "init", "role")
"""What every method's node has; the rest are options of its own."""


def typed_options(kind: type[T], config: Config) -> T:
    """A method's own options as its dataclass. Raises `UserError`: unknown key, wrong type, or what `kind` refuses."""
    own = {key: value for key, value in config.method.items() if key not in METHOD_KEYS}
    try:
        merged = OmegaConf.merge({"method": OmegaConf.structured(kind)}, {"method": own})
        options: T = OmegaConf.to_object(merged)["method"]  # type: ignore[call-overload, index, assignment]
    except OmegaConfBaseException as error:
        raise UserError(explain(error, "train")) from error
    return options


# What of a run may be changed when it is scored anew: nothing that its training depended on.
OF_SCORING = ("method.", "task.protocol.", "task.degrade", "train.val_crop", "train.val_crops")
OF_TRAINING = ("method.name", "method.init", "method.role", "method._target_")


def read_run_config(run_dir: Path, changes: Sequence[str] = ()) -> Config:
    """The configuration a run directory was trained with, under the overrides `changes`, which concern its scoring.

    Raises:
        UserError: no such file, not one of this version's, or a change that cannot be.
    """
    file = run_dir / "config.yaml"
    if not file.is_file():
        raise UserError(f"{run_dir} is no run directory: it has no config.yaml")
    try:
        saved = OmegaConf.load(file)
        if "stage" in saved:
            raise UserError(f"{file} is of version 0.1, whose settings were others: train the run anew")
        for change in changes:
            change_scoring(saved, change)
        merged = OmegaConf.merge(OmegaConf.structured(Config), saved)
        config: Config = OmegaConf.to_object(merged)  # type: ignore[assignment]
    except (OmegaConfBaseException, ValueError) as error:
        raise UserError(f"{file} does not fit this version: {explain(error, 'train')}") from error
    if changes:
        check_values(config)
        check_protocol(config.task)
    return config


def change_scoring(saved: Any, change: str) -> None:
    """Sets one key of a run's configuration; the new value stands in place of the old, dictionaries included."""
    try:
        (parsed,) = OverridesParser.create().parse_overrides([change])
    except HydraException as error:
        raise UserError(f"set: {explain(error, 'train')}") from error
    key = str(parsed.key_or_group)
    if not key.startswith(OF_SCORING) or key.startswith(OF_TRAINING):
        raise UserError(
            f"set={key}: not a setting under which a run can be scored: write method.<option>, task.protocol.<key>, "
            "task.degrade or train.val_crop"
        )
    if OmegaConf.select(saved, key, default=MISSING) is MISSING:
        raise UserError(f"set: {unknown_key(key, 'train')}")
    OmegaConf.update(saved, key, parsed.value(), merge=False)


def sweep(overrides: Sequence[str]) -> list[list[str]]:
    """The combinations that Hydra's basic sweeper will run for these overrides, to check them before any starts.

    An interval, from which only a search can draw, counts as its two ends.
    """
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise UserError(explain(error, "train")) from error
    combinations: list[list[str]] = [[]]
    for override in parsed:
        if override.is_interval_sweep():
            interval: Any = override.value()
            values = [f"{override.get_key_element()}={end}" for end in (interval.start, interval.end)]
        elif override.is_sweep_override():
            values = [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
        else:
            values = [override.input_line or ""]
        combinations = [[*head, value] for head in combinations for value in values]
    return combinations
