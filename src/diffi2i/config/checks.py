"""What the parts of a configuration may be together; each by itself is checked in `schema`."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from diffi2i.config.schema import Config, DatasetConfig, one_of
from diffi2i.config.trust import leaves
from diffi2i.errors import UserError
from diffi2i.files import check_name
from diffi2i.kinds.spec import KINDS

BUILT = (
    ("method", None),
    *(("model", key) for key in ("network", "autoencoder")),
    *(("task", key) for key in ("degrade", "gt", "optimizer")),
    *(("dataset", key) for key in ("source", "target")),
)
"""Nodes with a `_target_`, where they are not null."""
ROLES = ("fresh", "continued", "adversarial")
COUNTS = ("blocks", "refinement", "layers", "encoder", "middle", "decoder", "convs", "denoiser_layers")
"""Of how many parts a network is made. More of them than `MOST_PARTS` would fill the memory before any training."""
MOST_PARTS, MOST_WIDTH = 1000, 65_536


def check_filled(plain: Any) -> None:
    """No value is an empty text, as `output=$UNSET` would be: as a path that is the current folder.

    Raises:
        UserError: one line that names the key.
    """
    for key, name, value in leaves(plain):
        if isinstance(value, str) and not value.strip():
            key = f"{key}.{name}".strip(".")
            raise UserError(f"{key} is empty (a shell variable that is not set?): write {key}=<value>, or leave it out")


def check_targets(plain: dict[str, Any]) -> None:
    """What is built says of which class; of what Hydra composed. Raises `UserError`: the first key that does not."""
    for group, key in BUILT:
        node = plain[group] if key is None else plain[group].get(key)
        if node is not None and "_target_" not in node:
            raise UserError(f"{'.'.join(filter(None, (group, key)))}._target_ is missing: name a class")


def check_sizes(model: dict[str, Any]) -> None:
    """No number of the networks is beyond what is ever built. Raises `UserError`: the first one that is."""
    for key, name, value in leaves(model):
        most = MOST_PARTS if name.partition("[")[0] in COUNTS else MOST_WIDTH
        if isinstance(value, int | float) and value > most:
            raise UserError(f"{f'model.{key}'.strip('.')}.{name}={value} is too large: write at most {most}")


def check_budget(plain: dict[str, Any]) -> None:
    """The task has the budget, and the budget the method's role; of what Hydra composed, before it is looked up there.

    Raises:
        UserError: one line that says what to write.
    """
    if missing := [key for key in ("name", "role") if key not in plain["method"]]:
        raise UserError(f"method.{missing[0]} is missing: take the method as conf/method/ has it")
    budget, budgets, task = plain["budget"], plain["task"]["budgets"], plain["task"]["name"]
    if budget not in budgets:
        raise UserError(f"budget={budget}: choose one of {', '.join(budgets)}")
    role = plain["method"]["role"]
    if role not in ROLES:
        raise UserError(f"method.role={role}: choose one of {', '.join(ROLES)}")
    if not budgets[budget].get(role):
        raise UserError(f"method.role={role}: task={task} has none at budget={budget}")


def check_held(kind: str, task: str, target: dict[str, Any] | None, dataset: str) -> None:
    """The dataset, of which `target` is the reader's node, holds what the task predicts."""
    reader = None if target is None else str(target["_target_"]).rpartition(".")[2]
    if reader != KINDS[kind].reader:
        fitting = KINDS[kind].datasets
        raise UserError(f"dataset={dataset} holds no {kind} for task={task}: write dataset= one of {fitting}")


def check_dataset(task: dict[str, Any], dataset: dict[str, Any] | None) -> None:
    """The dataset holds what the task predicts, and says of how many classes, unless the task does.

    Raises:
        UserError: one line that says what to write.
    """
    one_of("task.kind", task["kind"], list(KINDS))
    written = isinstance(task["classes"], int)
    if dataset is None:
        if KINDS[task["kind"]].classes and not written:
            raise UserError(f"task={task['name']} needs its classes: write dataset=<name> or task.classes=<number>")
        return
    check_held(task["kind"], task["name"], dataset["target"], dataset["name"])
    held = (dataset["target"] or {}).get("classes")
    if written and task["classes"] != held:
        raise UserError(f"dataset={dataset['name']} has {held} classes, not {task['classes']}: leave out one of them")


def check(config: Config) -> None:
    """Refuses combinations that cannot be.

    Raises:
        UserError: one line that says what to write.
    """
    train, task = config.train, config.task
    share = config.trainer.device_batch or -(-train.batch // config.world)
    step = config.world * share
    if train.batch % step:
        raise UserError(
            f"train.batch={train.batch} is not a multiple of devices x nodes x device_batch = {step}: "
            f"write train.batch={-(-train.batch // step) * step}"
        )
    if train.patch % task.scale:
        raise UserError(
            f"train.patch={train.patch} must be a multiple of the task's scale: "
            f"write train.patch={-(-train.patch // task.scale) * task.scale}"
        )
    if train.steps == 0 and config.init is None:
        raise UserError(
            "train.steps=0 trains nothing: write 1 or more, or the run to score as it is, method.init=<run>"
        )
    if train.loss not in task.losses:
        raise UserError(f"train.loss={train.loss}: choose one of {', '.join(task.losses)}")
    for key, name in {"method.name": config.method["name"], "budget": config.budget}.items():
        check_name(key, name)
    check_sizes(asdict(config.model))
    check_phases(config)
    check_context(config)
    check_kind(config)
    check_source(config.dataset)
    if config.run_dir is not None and Path(config.run_dir).is_file():
        raise UserError(f"run_dir={config.run_dir} is a file: name a folder")


def check_phases(config: Config) -> None:
    """Later phases follow each other, and fit the crops' grid and the number of batches per optimiser step."""
    scale, before = config.task.scale, 0
    batches = config.world * config.micro_batches
    for phase in config.train.phases:
        if phase.step <= before or phase.patch <= 0 or phase.patch % scale or phase.batch <= 0:
            raise UserError(
                f"train.phases: step {phase.step}, patch {phase.patch}, batch {phase.batch}: steps must rise from 1, "
                f"patches be multiples of {scale}, batches be above 0"
            )
        if phase.batch % batches:
            raise UserError(
                f"train.phases: batch {phase.batch} at step {phase.step} is not a multiple of the {batches} batches "
                "that make up an optimiser step: use fewer devices, or a larger trainer.device_batch"
            )
        before = phase.step


def check_context(config: Config) -> None:
    """What CPENs see of a training image holds what the network sees of it, on the same grid."""
    context, task = config.train.context, config.task
    if context is None:
        return
    if KINDS[task.kind].dense:
        raise UserError(f"train.context belongs to images, not to task={task.name}: leave it out")
    least = max(config.train.patch, *(phase.patch for phase in config.train.phases), context)
    if context < least or context % task.scale:
        raise UserError(
            f"train.context={context} must be a multiple of the task's scale, and no smaller than the crops in it: "
            f"write train.context={-(-least // task.scale) * task.scale}"
        )


def check_kind(config: Config) -> None:
    """The network predicts what the task asks for, from what the task makes of the photos; no setting is of another."""
    task, kind = config.task.name, config.task.kind
    network = str(config.model.network["_target_"]).rpartition(".")[2]
    # Of images there are many.
    predicted = next((name for name, spec in KINDS.items() if spec.network == network), "image")
    if predicted != kind:
        raise UserError(
            f"model={config.model.name} predicts {predicted}, task={task} {kind}: leave out model, or name one whose "
            f"network is a {KINDS[kind].network}, or a method that has no models of its own"
        )
    if not KINDS[kind].dense:
        if config.task.degrade is None:
            raise UserError(f"task={task} needs task.degrade, which makes its input")
        if config.train.head_lr != 1:
            raise UserError(f"train.head_lr={config.train.head_lr} belongs to labels and depth: write train.head_lr=1")
        if config.dataset.train_box is not None:
            raise UserError(f"dataset.train_box belongs to labels and depth, not to task={task}: leave it out")
    else:
        if config.train.degrade:
            raise UserError(f"train.degrade belongs to images, not to task={task}: write train.degrade=null")
        if config.dataset.augment != "flips_and_turns":
            raise UserError(f"dataset.augment belongs to images, not to task={task}: leave it out")


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
