"""Which weights learn at another rate than the rest, and which do not decay."""

from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from diffi2i.models.depther import Depther
from diffi2i.models.segmenter import Segmenter
from diffi2i.schema import TrainConfig

NORMS = (_BatchNorm, nn.GroupNorm, nn.LayerNorm)  # SyncBatchNorm is a _BatchNorm, timm's LayerNorm2d a LayerNorm
POSITIONS = ("position", "pos_embed")  # SeaFormer's position_q and position_k, Swin's relative_position_bias_table


def parameter_groups(stage: nn.Module, parameters: Sequence[nn.Parameter], train: TrainConfig) -> list[dict[str, Any]]:
    """`parameters` of `stage` as groups for a torch optimiser; each one in one group, in the order given.

    With `train.head_lr` the head's rate is that many times `train.lr`. Without `train.decay_norms` normalisation layers
    and tables of positions do not decay; other biases do, unlike with timm's `param_groups_weight_decay`, as in
    SeaFormer's and BinsFormer's settings. With neither there is one group.
    """
    head = ids_of_heads(stage) if train.head_lr != 1 else set()
    kept = set() if train.decay_norms else ids_without_decay(stage)
    groups: dict[tuple[bool, bool], dict[str, Any]] = {}
    for parameter in parameters:
        faster, undecayed = id(parameter) in head, id(parameter) in kept
        settings: dict[str, Any] = {"lr": train.lr * train.head_lr} if faster else {}
        if undecayed:
            settings["weight_decay"] = 0.0
        groups.setdefault((faster, undecayed), {"params": [], **settings})["params"].append(parameter)
    return list(groups.values())


def ids_of_heads(stage: nn.Module) -> set[int]:
    """All weights of a `Segmenter` or `Depther` but its encoder's, as mmseg's decode heads hold the fusions too."""
    ids: set[int] = set()
    for module in stage.modules():
        if isinstance(module, Segmenter | Depther):
            ids |= {id(own) for own in module.parameters()} - {id(inner) for inner in module.encoder.parameters()}
    return ids


def ids_without_decay(stage: nn.Module) -> set[int]:
    """The weights of normalisation layers, and the tables of positions."""
    norms = {id(own) for module in stage.modules() if isinstance(module, NORMS) for own in module.parameters()}
    named = stage.named_parameters()
    return norms | {id(own) for name, own in named if any(part in name.rpartition(".")[2] for part in POSITIONS)}
