"""From a configuration to its method, with the weights that it starts from."""

from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch
from hydra.errors import InstantiationException

from diffi2i.config.build import build
from diffi2i.config.compose import typed_options
from diffi2i.config.run import read_run_config
from diffi2i.config.schema import Config
from diffi2i.errors import UserError
from diffi2i.methods.method import Method
from diffi2i.methods.optimisation import new_optimizer
from diffi2i.models.depth import OfDepth
from diffi2i.models.int8 import in_int8
from diffi2i.models.recompute import recompute_blocks


def method_class(config: Config) -> type[Method]:
    """The class that `method._target_` names. Raises `UserError`: there is none, or it is no `Method`."""
    target = str(config.method["_target_"])
    try:
        found = resolve_name(target)
    except (ImportError, ValueError, AttributeError) as error:
        raise UserError(f"method._target_={target}: {str(error).splitlines()[0]}") from error
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise UserError(f"method._target_={target} is no diffi2i.methods.method.Method")
    return found


def check(config: Config) -> Config:
    """Refuses options and networks that cannot be, and a run to start from that is not finished or does not fit.

    Returns:
        The configuration, settled.

    Raises:
        UserError: one line that says what to write.
    """
    kind, init = method_class(config), None
    options: Any = typed_options(kind.Options, config)
    if config.method.get("like_init"):
        return check(settled(config, None if config.init is None else read_init(config, config.init)))
    if config.train.context is not None and not kind.sees_context:
        raise UserError(
            f"train.context={config.train.context} is what a CPEN sees, and method={config.method['name']} has none: "
            "leave it out"
        )
    with torch.device("meta"):  # takes neither memory nor time, but constructors refuse what they always do
        new_method(without_pretrained(config))
    new_optimizer([torch.nn.Parameter(torch.zeros(1))], config)
    rounded = config.method.get("int8")
    if config.init is not None:
        init = read_init(config, config.init)
    elif config.method["role"] == "adversarial":
        raise UserError("method.role=adversarial goes on from a finished run: write method.init=<its run directory>")
    if rounded and config.train.steps:
        raise UserError("method.int8 rounds what has been trained: leave it out, or write train.steps=0")
    # A run in 8 bits is the very run that it is made of, with which not every method could go on.
    (Method if rounded else kind).check(config, options, init)
    return config


def settled(config: Config, init: Config | None) -> Config:
    """The configuration of a method that stands for that of the run that it starts from, of this configuration."""
    return method_class(config).settled(config, init)


def check_network(kind: type[Method], config: Config) -> None:
    """Raises `UserError`: the model's network is none of those that the method has."""
    network = str(config.model.network["_target_"]).rpartition(".")[2]
    if kind.networks and network not in kind.networks:
        raise UserError(
            f"method={config.method['name']} has a {' or '.join(kind.networks)}, model={config.model.name} "
            f"a {network}: leave out model"
        )


def without_pretrained(config: Config) -> Config:
    """The configuration with an encoder of random weights, as for one whose weights will be loaded or never used."""
    network = config.model.network
    if not isinstance(encoder := network.get("encoder"), dict) or "pretrained" not in encoder:
        return config
    network = network | {"encoder": encoder | {"pretrained": "none"}}
    return replace(config, model=replace(config.model, network=network))


def read_init(config: Config, run_dir: Path) -> Config:
    """The configuration of the run to start from. Raises `UserError`: none there, unfinished, or of another task."""
    if not (run_dir / "config.yaml").is_file():
        raise UserError(
            f"method.init={run_dir} is no run directory, it has no config.yaml: write where the run lies now"
        )
    if not (run_dir / "result.json").is_file():
        raise UserError(
            f"method.init={run_dir} is unfinished: run its `diffi2i train ... run_dir={run_dir}` again first"
        )
    saved = read_run_config(run_dir, trust=config.trust)
    if saved.method.get("int8"):
        raise UserError(f"method.init={run_dir} has weights in 8 bits: name the run that they were made of")
    if saved.task.name != config.task.name:
        raise UserError(f"method.init={run_dir} was trained for task={saved.task.name}: write task={saved.task.name}")
    if saved.task.fill != config.task.fill:
        raise UserError(f"method.init={run_dir} was trained with task.fill={saved.task.fill}: write the same")
    return saved


def new_method(config: Config, init: Method | None = None) -> Method:
    """The method without L_task, its weights rounded where it says so.

    Raises:
        UserError: its class or its networks refuse a value, or it is the method of a run that is not named.
    """
    kind, rounded = method_class(config), config.method.get("int8")
    if config.method.get("like_init"):
        raise UserError(
            f"method={config.method['name']} is the method of the run that it starts from: write method.init=<run>"
        )
    check_network(kind, config)
    depth, theirs = config.model.network.get("depth"), getattr(init, "network", None)
    if depth is not None and isinstance(theirs, OfDepth):
        theirs.keep(depth)
    try:
        made = kind(config, None if rounded else init)
    except (InstantiationException, ValueError) as error:
        cause = error.__cause__ or error
        raise UserError(f"method={config.method['name']}: {str(cause).splitlines()[0]}") from error
    if rounded:
        if init is not None:
            made.load_state_dict(init.state_dict())
        in_int8(made)
    if config.trainer.gradient_checkpointing and not recompute_blocks(made):
        raise UserError(
            f"model={config.model.name} has no blocks to compute twice: write trainer.gradient_checkpointing=false"
        )
    return made


def build_method(config: Config, init: Method | None = None) -> Method:
    """The method, with L_task where it shall train. Raises `UserError`: its networks or its loss cannot be built."""
    kind, losses, loss = method_class(config), config.task.losses, None
    if config.train.steps and kind.judged(typed_options(kind.Options, config)):
        try:
            loss = build(losses[config.train.loss], f"task.losses.{config.train.loss}")
        except UserError as error:
            others = ", ".join(name for name in losses if name != config.train.loss)
            raise UserError(f"{error}; this task's other losses: train.loss={others}") from error
    method = new_method(config, init)
    method.learn_from(loss)
    return method
