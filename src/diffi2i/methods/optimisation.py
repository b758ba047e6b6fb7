"""The optimiser and its schedule; which weights learn at another rate than the rest, and which do not decay."""

import math
from collections.abc import Iterable, Sequence
from inspect import signature
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from diffi2i.config.build import build
from diffi2i.config.schema import Config, TrainConfig
from diffi2i.errors import UserError
from diffi2i.models.depther import Depther
from diffi2i.models.segmenter import Segmenter

NORMS = (_BatchNorm, nn.GroupNorm, nn.LayerNorm)  # SyncBatchNorm is a _BatchNorm, timm's LayerNorm2d a LayerNorm
POSITIONS = ("position", "pos_embed")  # SeaFormer's position_q and position_k, Swin's relative_position_bias_table


def rate_factor(step: int, train: TrainConfig) -> float:
    """Learning rate at optimiser step `step` over the peak rate: linear warm-up, then the schedule."""
    warmup = int(train.warmup * train.steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = min(1.0, (step - warmup) / max(1, train.steps - warmup))
    if train.schedule == "constant":
        return 1.0
    if train.schedule == "multistep":
        # Whole steps, as torch's MultiStepLR takes them: in floats a fraction of the steps may be a little off.
        return float(train.gamma ** sum(step >= round(milestone * train.steps) for milestone in train.milestones))
    falling = 1 - progress if train.schedule == "poly" else 0.5 * (1 + math.cos(math.pi * progress))
    return train.lr_end + (1 - train.lr_end) * falling


def new_optimizer(parameters: Iterable[nn.Parameter] | list[dict[str, Any]], config: Config) -> Optimizer:
    """The task's optimiser, a Hydra partial. Raises `UserError`: its settings cannot be.

    Where its class can, it steps all weights in one kernel.
    """
    make = build(config.task.optimizer, "task.optimizer")
    try:
        fused = "fused" in signature(make).parameters and "fused" not in config.task.optimizer
        optimizer = make(parameters, fused=True) if fused else make(parameters)
    except Exception as error:  # there is nothing but its settings that can be wrong
        raise UserError(f"task.optimizer: {error}") from error
    if not isinstance(optimizer, Optimizer):
        raise UserError(f"task.optimizer._target_={config.task.optimizer['_target_']} is no optimiser of torch")
    return optimizer


def optimisation(
    parameters: Iterable[nn.Parameter] | list[dict[str, Any]], config: Config, lr_factor: float = 1.0
) -> dict[str, Any]:
    """The task's optimiser with the schedule, stepped once per optimiser step.

    `parameters` may come in groups, see `parameter_groups`: the schedule acts on each group's own rate.
    """
    optimizer = new_optimizer(parameters, config)
    scheduler = LambdaLR(optimizer, lambda step: lr_factor * rate_factor(step, config.train))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def parameter_groups(method: nn.Module, parameters: Sequence[nn.Parameter], train: TrainConfig) -> list[dict[str, Any]]:
    """`parameters` of `method` as groups for a torch optimiser; each one in one group, in the order given.

    With `train.head_lr` the head's rate is that many times `train.lr`. Without `train.decay_norms` normalisation layers
    and tables of positions do not decay; other biases do, unlike with timm's `param_groups_weight_decay`, as in
    SeaFormer's and BinsFormer's settings. With neither there is one group.
    """
    head = ids_of_heads(method) if train.head_lr != 1 else set()
    kept = set() if train.decay_norms else ids_without_decay(method)
    groups: dict[tuple[bool, bool], dict[str, Any]] = {}
    for parameter in parameters:
        faster, undecayed = id(parameter) in head, id(parameter) in kept
        settings: dict[str, Any] = {"lr": train.lr * train.head_lr} if faster else {}
        if undecayed:
            settings["weight_decay"] = 0.0
        groups.setdefault((faster, undecayed), {"params": [], **settings})["params"].append(parameter)
    return list(groups.values())


def ids_of_heads(method: nn.Module) -> set[int]:
    """All weights of a `Segmenter` or `Depther` but its encoder's, as mmseg's decode heads hold the fusions too."""
    ids: set[int] = set()
    for module in method.modules():
        if isinstance(module, Segmenter | Depther):
            ids |= {id(own) for own in module.parameters()} - {id(inner) for inner in module.encoder.parameters()}
    return ids


def ids_without_decay(method: nn.Module) -> set[int]:
    """The weights of normalisation layers, and the tables of positions."""
    norms = {id(own) for module in method.modules() if isinstance(module, NORMS) for own in module.parameters()}
    named = method.named_parameters()
    return norms | {id(own) for name, own in named if any(part in name.rpartition(".")[2] for part in POSITIONS)}
